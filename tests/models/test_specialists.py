import numpy as np
import pytest
import torch
from ase import Atoms

from models import checkpoints, potentials
from models.calculator import PotentialCalculator
from models.checkpoints import CheckpointError
from models.differences import difference, of_files
from models.heads import with_heads
from models.potentials import Potential
from models.specialists import SpecialistCalculator, Specialists


@pytest.fixture(scope="module")
def files(tiny_foundation, tmp_path_factory):
    """Three specialists with overlapping changes, with E0s and a head of their own; the last one a delta."""
    folder = tmp_path_factory.mktemp("specialists")
    start = potentials.load(tiny_foundation)
    found = {}
    for number, name in enumerate(("salt", "ice", "steel")):
        e0s = {z: e - number - 0.5 for z, e in start.e0s().items()}
        network = with_heads(start, {"target": e0s})
        generator = torch.Generator().manual_seed(number)
        for parameter in network.parameters():
            parameter.data[torch.rand(parameter.shape, generator=generator) < 0.02] += 0.1
        levels = {"target": f"level {number}"}
        potential = Potential(network=network, level_of_theory=levels, provenance={"name": name})
        found[name] = folder / f"{name}.safetensors"
        potentials.save(potential, found[name])
    delta = checkpoints.smallest(found["steel"], tiny_foundation)
    (folder / f"{checkpoints.foundation_of(delta)}.safetensors").write_bytes(tiny_foundation.read_bytes())
    return found | {"steel": delta}


@pytest.fixture(scope="module")
def specialists(tiny_foundation, files):
    made = Specialists(tiny_foundation)
    for name, path in files.items():
        made.add(name, path)
    return made


def test_after_any_order_of_switches_each_has_its_own_bits(tiny_foundation, files, specialists, tmp_path):
    whole = {name: tmp_path / f"whole-{name}" for name in ("", *files)}
    for name, path in {"": tiny_foundation, **files}.items():
        potentials.save(potentials.load(path), whole[name])
    assert (len(specialists), specialists.names) == (3, ["salt", "ice", "steel"])
    for name in np.random.default_rng(0).choice(list(whole), size=20):
        potentials.save(specialists.use(str(name)), tmp_path / "now")
        assert (tmp_path / "now").read_bytes() == whole[name].read_bytes()
    dense = sum(tensor.nbytes for tensor in checkpoints.read(tiny_foundation)[1].values())
    assert 0 < specialists.bytes < 0.5 * 3 * dense


@pytest.mark.slow
def test_calculators_that_share_a_network_do_not_disturb_each_other(files, specialists, salt_water):
    alone = {}
    for name, path in files.items():
        atoms = salt_water.copy()
        atoms.calc = PotentialCalculator(potentials.load(path))
        alone[name] = (atoms.get_potential_energy(), atoms.get_forces())
    assert len({energy for energy, _ in alone.values()}) == 3
    shared = {name: SpecialistCalculator(specialists, name) for name in files}
    for name in ("ice", "salt", "ice", "steel"):
        salt_water.calc = shared[name]
        salt_water.rattle(0.0)
        shared[name].reset()
        assert same(salt_water, alone[name])
    one = SpecialistCalculator(specialists)
    salt_water.calc = one
    for name in files:
        one.use(name)
        assert same(salt_water, alone[name])


def same(atoms: Atoms, expected: tuple[float, np.ndarray]) -> bool:
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    return abs(energy - expected[0]) < 1e-4 and np.abs(forces - expected[1]).max() < 1e-4


def test_what_cannot_share_the_network_is_refused(tiny_foundation, files, specialists, tmp_path):
    with pytest.raises(KeyError, match="no specialist 'gold'; there are salt, ice, steel"):
        specialists.use("gold")
    with pytest.raises(CheckpointError, match="'ice' is there already"):
        specialists.add("ice", files["ice"])
    start = potentials.load(tiny_foundation)
    fewer = Potential(
        network=with_heads(start, {"target": start.e0s()}, [1, 8]), level_of_theory={}, provenance={}
    )
    potentials.save(fewer, tmp_path / "fewer.safetensors")
    with pytest.raises(CheckpointError, match=r"fewer\.safetensors: cannot share .*other elements"):
        specialists.add("fewer", tmp_path / "fewer.safetensors")


@pytest.mark.slow
def test_a_difference_counts_weights_e0s_heads_and_elements(tiny_foundation, files, tmp_path):
    start = potentials.load(tiny_foundation)
    found = difference(of_files(tiny_foundation, files["ice"]))
    assert found.heads == (("Default",), ("target",))
    assert found.elements[0] == found.elements[1] == ("H", "O", "Na", "Cl")
    assert found.e0s["target"] == pytest.approx(dict.fromkeys(("H", "O", "Na", "Cl"), -1.5))
    assert found.constants == ()
    assert found.weights == sum(p.numel() for p in start.network.parameters())
    assert 0.01 < found.share < 0.03
    layer = next(one for one in found.layers if one.name == "interactions.0.skip_tp.weight")
    assert layer.largest == pytest.approx(0.1, rel=1e-5)
    weight = start.network.interactions[0].skip_tp.weight.detach()
    assert layer.relative == pytest.approx(0.1 * layer.changed**0.5 / float(weight.norm()), rel=1e-4)
    same = difference(of_files(files["steel"], files["steel"]))
    assert (same.changed, same.share) == (0, 0.0)
    network = with_heads(start, {"target": start.e0s()}, [8, 11])
    fewer = Potential(network=network, level_of_theory={"target": "x"}, provenance={})
    potentials.save(fewer, tmp_path / "fewer.safetensors")
    reduced = difference(of_files(tiny_foundation, tmp_path / "fewer.safetensors"))
    assert (reduced.changed, reduced.elements[1]) == (0, ("O", "Na"))
    back = difference(of_files(tmp_path / "fewer.safetensors", tiny_foundation))
    assert any(one.stored_anew for one in back.layers)
    assert not all(one.stored_anew for one in back.layers)
