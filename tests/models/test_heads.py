import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from models import potentials
from models.graphs import Prediction, graphs, predict
from models.heads import select_head, select_heads, with_elements, with_heads
from models.potentials import Potential


def answers(potential: Potential, frames: list[Atoms], head: str | None = None) -> list[Prediction]:
    return predict(potential, graphs(frames, potential, head))


@pytest.mark.parametrize("heads", [("target",), ("replay", "target"), ("a", "b", "c")])
def test_every_head_is_a_copy_with_the_e0s_asked_for(heads, tiny_potential, salt_water):
    e0s = {head: {z: -0.5 * z - k for z in tiny_potential.elements} for k, head in enumerate(heads)}
    network = with_heads(tiny_potential, e0s)
    copied = Potential(network=network.eval(), level_of_theory={}, provenance={})
    assert copied.heads == list(heads)
    [before] = answers(tiny_potential, [salt_water])
    for head in heads:
        assert copied.e0s(head) == e0s[head]
        shift = sum(e0s[head][z] - tiny_potential.e0s()[z] for z in salt_water.numbers)
        [after] = answers(copied, [salt_water], head)
        assert after.energy == pytest.approx(before.energy + shift, abs=1e-9)
        np.testing.assert_allclose(after.forces, before.forces, atol=1e-9)


def test_heads_need_every_e0_and_a_single_headed_start(tiny_potential, two_heads):
    some = dict.fromkeys((1, 8, 17), 0.0)
    with pytest.raises(ValueError, match="head 'target' has no E0 for Na"):
        with_heads(tiny_potential, {"target": some})
    with pytest.raises(ValueError, match=r"has heads \['replay', 'target'\]: choose one"):
        with_heads(two_heads, {"target": two_heads.e0s()})


@pytest.mark.parametrize("head", ["replay", "target"])
def test_a_selected_head_gives_the_same_numbers(head, two_heads, tmp_path, salt_water, salt_crystal):
    frames = [salt_water, salt_crystal]
    potentials.save(two_heads, tmp_path / "both")
    both = potentials.load(tmp_path / "both")
    with torch.no_grad():  # as a training would, so that the heads differ in more than their E0s
        for weights in both.network.readouts.parameters():
            weights.add_(torch.linspace(-1.0, 1.0, weights.numel(), dtype=weights.dtype))
    apart = [answers(both, frames, name)[0].forces for name in both.heads]
    assert np.abs(apart[0] - apart[1]).max() > 1e-3
    single = Potential(network=select_head(both.network, head), level_of_theory={}, provenance={})
    assert single.heads == [head]
    assert single.e0s() == both.e0s(head)
    for a, b in zip(answers(both, frames, head), answers(single, frames), strict=True):
        assert b.energy == pytest.approx(a.energy, abs=1e-9)
        np.testing.assert_allclose(b.forces, a.forces, atol=1e-9)
    assert select_head(single.network, head) is single.network


@pytest.mark.parametrize("readout", ["NonLinearReadoutBlock", "NonLinearBiasReadoutBlock"])
@pytest.mark.parametrize("kept", [["c", "a"], ["b"], ["a", "b", "c"]])
def test_some_of_several_heads_give_the_same_numbers(readout, kept, tiny_potential, salt_water):
    description = potentials.architecture(tiny_potential.network) | {"readout_cls": readout}
    torch.manual_seed(1)
    network = potentials.build(description, torch.float64)
    single = Potential(network=network, level_of_theory={}, provenance={})
    e0s = {head: {z: -0.5 * z - k for z in single.elements} for k, head in enumerate("abc")}
    before = with_heads(single, e0s)
    with torch.no_grad():  # as a training would
        for weights in before.readouts.parameters():
            weights.add_(torch.linspace(-1.0, 1.0, weights.numel(), dtype=weights.dtype))
        before.scale_shift.shift = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    several = Potential(network=before.eval(), level_of_theory={}, provenance={})
    fewer = Potential(network=select_heads(before, kept), level_of_theory={}, provenance={})
    assert fewer.heads == kept
    for head in kept:
        assert fewer.e0s(head) == several.e0s(head)
        [a], [b] = answers(several, [salt_water], head), answers(fewer, [salt_water], head)
        assert b.energy == pytest.approx(a.energy, abs=1e-9)
        np.testing.assert_allclose(b.forces, a.forces, atol=1e-9)


def test_heads_that_are_not_there_cannot_be_kept(two_heads):
    with pytest.raises(ValueError, match="no head gone: the network has replay, target"):
        select_heads(two_heads.network, ["target", "gone"])
    with pytest.raises(ValueError, match="no head to keep of replay, target"):
        select_heads(two_heads.network, [])


@pytest.mark.parametrize("interaction", ["RealAgnosticResidual", "RealAgnosticDensityResidual"])
@pytest.mark.parametrize("heads", [("target",), ("replay", "target")])
def test_fewer_elements_give_the_same_numbers(interaction, heads, tiny_potential):
    description = potentials.architecture(tiny_potential.network)
    description |= {"interaction_cls": f"{interaction}InteractionBlock"}
    torch.manual_seed(1)
    whole = Potential(network=potentials.build(description, torch.float64), level_of_theory={}, provenance={})
    e0s = {z: whole.e0s()[z] for z in (11, 17)}
    network = with_heads(whole, dict.fromkeys(heads, e0s), [17, 11])
    reduced = Potential(network=network, level_of_theory={}, provenance={})
    assert (reduced.elements, reduced.e0s()) == ([11, 17], e0s)
    assert potentials.n_parameters(network) < potentials.n_parameters(whole.network)
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    crystal.rattle(0.1, seed=1)
    [before] = answers(whole, [crystal])
    for head in heads:
        [after] = answers(reduced, [crystal], head)
        assert after.energy == pytest.approx(before.energy, abs=1e-9)
        np.testing.assert_allclose(after.forces, before.forces, atol=1e-9)
    with pytest.raises(ValueError, match="the foundation does not know Au"):
        with_heads(whole, {"target": e0s | {79: 0.0}}, [11, 79])


def test_new_elements_start_as_copies(tiny_potential) -> None:
    more = with_elements(tiny_potential, {"Fe": "Na", "Li": "Na"})
    assert more.symbols == ["H", "Li", "O", "Na", "Cl", "Fe"]
    assert more.provenance["adopted"] == "Fe from Na, Li from Na"
    salt = bulk("NaCl", "rocksalt", a=5.6) * (2, 1, 1)
    salt.positions[0] += 0.1
    iron = salt.copy()
    iron.symbols[[0, 2]] = "Fe"
    before = predict(tiny_potential, graphs([salt], tiny_potential))[0]
    same, other = predict(more, graphs([salt, iron], more))
    assert same.energy == pytest.approx(before.energy, abs=1e-10)
    np.testing.assert_allclose(same.forces, before.forces, atol=1e-10)
    assert np.isfinite(other.forces).all()
    assert more.e0s()[26] == tiny_potential.e0s()[11]


@pytest.mark.parametrize(
    ("donors", "message"),
    [
        ({"Xx": "Na"}, "Xx: no element"),
        ({"Cl": "Na"}, "Cl: no element, or one that the foundation knows already"),
        ({"Fe": "Co"}, "does not know Co; it knows H O Na Cl"),
    ],
)
def test_elements_that_cannot_be_added(donors, message, tiny_potential) -> None:
    with pytest.raises(ValueError, match=message):
        with_elements(tiny_potential, donors)
