"""What holds for every strategy: how it starts, what it changes, what it leaves."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from ase import Atoms

from models import potentials
from models.finetuning import PreparationError, check_step_zero
from models.graphs import Prediction, graphs, predict
from models.losses import Weights
from models.potentials import Potential, n_parameters
from models.pseudolabels import pseudolabel
from models.strategies import (
    AnyStrategy,
    FromScratch,
    Frozen,
    Lora,
    Masked,
    MultiheadReplay,
    Naive,
    PseudolabelledReplay,
    ReplayLora,
    Sparse,
    SparsePseudolabelledReplay,
    SparseReplay,
    Strategy,
    Target,
    TrainingData,
)
from models.strategies.lora import with_adapters
from models.training import EmptyTraining, Fit, Optimisation, fit

STRATEGIES = get_args(get_args(AnyStrategy)[0])
WITH_REPLAY = (MultiheadReplay, PseudolabelledReplay, ReplayLora, SparseReplay, SparsePseudolabelledReplay)
E0S = {1: -13.0, 8: -110.0, 11: -5.5, 17: -19.5}
QUICK = Optimisation(learning_rate=0.003, ema_decay=0.5, epochs=3, max_edges=60)
CANDIDATES = [
    FromScratch(optimisation=QUICK),
    Naive(optimisation=QUICK),
    Frozen(optimisation=QUICK),
    Frozen(optimisation=QUICK, trains="readouts"),
    Lora(optimisation=QUICK.model_copy(update={"learning_rate": 0.02}), rank=4, alpha=4.0),
    MultiheadReplay(optimisation=QUICK),
    PseudolabelledReplay(optimisation=QUICK),
    ReplayLora(optimisation=QUICK.model_copy(update={"learning_rate": 0.02}), alpha=4.0),
    Sparse(optimisation=QUICK, trained_share=0.3),
    Masked(optimisation=QUICK, trained_share=0.3),
    SparsePseudolabelledReplay(optimisation=QUICK, trained_share=0.3),
]


@pytest.fixture(scope="module")
def start(tiny_foundation) -> Potential:
    return potentials.load(tiny_foundation)


@pytest.fixture(scope="module")
def pseudolabelled(start, labelled_waters) -> list[Atoms]:
    return pseudolabel(start, labelled_waters[::2])


@pytest.fixture(scope="module")
def data(labelled_waters, pseudolabelled) -> TrainingData:
    return TrainingData(
        train=labelled_waters[:16],
        valid=labelled_waters[16:],
        replay_train=pseudolabelled[:8],
        replay_valid=pseudolabelled[8:],
    )


@pytest.fixture(scope="module", params=CANDIDATES, ids=lambda strategy: strategy.name)
def strategy(request) -> Strategy:
    return request.param


@pytest.fixture(scope="module")
def fitted(strategy, start, data) -> Fit:
    return fit(strategy.prepare(start, E0S, data), strategy.optimisation)


@pytest.fixture(scope="module")
def specialist(strategy, fitted) -> Potential:
    return potential(strategy.finish(fitted.network))


def potential(network: Any) -> Potential:
    return Potential(network=network, level_of_theory={}, provenance={})


def ask(asked: Potential, frames: list[Atoms], head: str = "target") -> list[Prediction]:
    return predict(asked, graphs(frames, asked, head))


def agree(a: list[Prediction], b: list[Prediction], tolerance: float) -> None:
    for x, y in zip(a, b, strict=True):
        assert y.energy == pytest.approx(x.energy, abs=tolerance)
        np.testing.assert_allclose(y.forces, x.forces, atol=tolerance)


def asked_for(start: Potential) -> dict[str, Mapping[int, float]]:
    return {"target": E0S, "replay": start.e0s()}


def test_it_starts_as_the_foundation_unless_it_says_that_it_does_not(strategy, start, data):
    setup = strategy.prepare(start, E0S, data)
    setup.check()
    assert all(parameter.dtype == start.dtype for parameter in setup.network.parameters())
    frames = list(data.train[:4])
    if strategy.starts_as_foundation:
        check_step_zero(start, setup.network, asked_for(start), frames)
        before = [p.forces for p in ask(start, frames, "Default")]
        after = [p.forces for p in ask(potential(setup.network), frames)]
        assert all(np.abs(a - b).max() < 1e-5 for a, b in zip(before, after, strict=True))
    else:
        with pytest.raises(PreparationError):
            check_step_zero(start, setup.network, asked_for(start), frames)


def test_a_broken_preparation_is_caught(strategy, start, data):
    if not strategy.starts_as_foundation:
        return
    frames = list(data.train[:4])
    network = strategy.prepare(start, E0S, data).network
    good = network.atomic_energies_fn.atomic_energies.clone()
    potentials.set_e0s(network, good.numpy() + 0.01)
    with pytest.raises(PreparationError, match=r"head '\w+': energy .* before training, .* expected"):
        check_step_zero(start, network, asked_for(start), frames)
    potentials.set_e0s(network, good.numpy())
    with torch.no_grad():
        next(p for name, p in network.named_parameters() if "node_embedding" in name).mul_(1.5)
    with pytest.raises(PreparationError, match=r"head '\w+': (forces differ|energy)"):
        check_step_zero(start, network, asked_for(start), frames)


def test_it_learns_the_target(strategy, fitted):
    first, best = fitted.history[0], next(r for r in fitted.history if r["epoch"] == fitted.best_epoch)
    errors = ("target_forces_mae", "target_energy_per_atom_mae")
    assert sum(best[name] for name in errors) < sum(first[name] for name in errors)
    retained = first["replay_forces_mae"]  # the foundation's own labels
    assert retained == pytest.approx(0.0, abs=0.01) if strategy.starts_as_foundation else retained > 1.0


def test_what_it_leaves_is_a_plain_network_of_the_target_with_the_same_numbers(
    strategy, fitted, specialist, start, data
):
    assert specialist.heads == ["target"]
    assert specialist.e0s() == E0S
    assert specialist.network.state_dict().keys() == start.network.state_dict().keys()
    whole = potential(fitted.network)
    agree(ask(whole, data.valid), ask(specialist, data.valid), 1e-4)
    again = strategy.finish(fitted.network)  # finishing took nothing from the trained network
    agree(ask(specialist, data.valid), ask(potential(again), data.valid), 1e-6)


def test_the_specialist_keeps_the_symmetries_of_nature(specialist, data):
    frame = data.valid[-1].copy()
    frame.rattle(0.05, seed=2)
    turned = frame.copy()
    turned.rotate(70.0, (1.0, 2.0, 3.0))
    order = np.random.default_rng(0).permutation(len(frame))
    exact = Potential(network=specialist.network.double(), level_of_theory={}, provenance={})
    [plain, rotated, permuted] = ask(exact, [frame, turned, frame[order]])
    specialist.network.float()
    potentials.set_e0s(specialist.network, [[E0S[z] for z in specialist.elements]])
    axes = np.linalg.lstsq(frame.positions - frame.positions[0], turned.positions - turned.positions[0])[0]
    assert rotated.energy == pytest.approx(plain.energy, abs=1e-8)
    np.testing.assert_allclose(rotated.forces, plain.forces @ axes, atol=1e-8)
    assert permuted.energy == pytest.approx(plain.energy, abs=1e-8)
    np.testing.assert_allclose(permuted.forces, plain.forces[order], atol=1e-8)


def test_the_specialists_forces_are_the_slope_of_its_energy(specialist, data):
    frame, step = data.valid[-1], 1e-4
    exact = Potential(network=specialist.network.double(), level_of_theory={}, provenance={})
    moved = [frame.copy() for _ in range(4)]
    for sign, axis, copy in zip((1, -1, 1, -1), (0, 0, 2, 2), moved, strict=True):
        copy.positions[1, axis] += sign * step
    [a, b, c, d] = [p.energy for p in ask(exact, moved)]
    forces = ask(exact, [frame])[0].forces
    specialist.network.float()
    potentials.set_e0s(specialist.network, [[E0S[z] for z in specialist.elements]])
    slopes = [-(a - b) / (2 * step), -(c - d) / (2 * step)]
    np.testing.assert_allclose(slopes, forces[1, [0, 2]], atol=1e-5)


def test_only_what_may_change_has_changed(strategy, specialist, start):
    if not strategy.starts_as_foundation:
        return
    before, after = start.network.state_dict(), specialist.network.state_dict()
    changed = {
        name.split(".")[0]
        for name in before
        if "atomic_energies" not in name and not torch.equal(before[name], after[name])
    }
    if isinstance(strategy, Frozen):
        assert changed == set(strategy.trains.split("_and_"))
    else:
        assert changed == {"node_embedding", "interactions", "products", "readouts"}


def test_frozen_parts_and_base_weights_are_not_differentiated(start, data):
    counts = {
        s.name: n_parameters(s.prepare(start, E0S, data).network)
        for s in (
            Naive(), Frozen(), Frozen(trains="readouts"), Lora(rank=1), Lora(rank=2), ReplayLora(rank=2),
        )
    }  # fmt: skip
    assert counts["naive"] == n_parameters(start.network)
    assert counts["naive"] > counts["frozen-interactions"] > counts["frozen-but-readouts"] > 0
    assert counts["lora-r2"] == 2 * counts["lora-r1"] < counts["naive"]
    assert counts["replay-lora-r2"] > counts["lora-r2"]  # the second head's readouts


def test_the_foundation_and_its_labels_are_left_alone(fitted, start, data, tiny_foundation):
    on_file = potentials.load(tiny_foundation).network.state_dict()
    assert all(torch.equal(on_file[name], tensor) for name, tensor in start.network.state_dict().items())
    assert all(p.requires_grad for p in start.network.parameters())
    assert all("REF_energy" in atoms.info for atoms in data.replay_valid)


@pytest.mark.parametrize("kind", [FromScratch, Lora, ReplayLora])
def test_what_is_drawn_follows_from_the_seed_alone(kind, start, data):
    def drawn(seed: int) -> list[torch.Tensor]:
        strategy = kind(optimisation=QUICK.model_copy(update={"seed": seed}))
        return list(strategy.prepare(start, E0S, data).network.parameters())

    before = torch.random.get_rng_state()
    one, other = drawn(1), drawn(2)
    torch.rand(3)
    again = drawn(1)
    torch.random.set_rng_state(before)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_from_scratch_measures_in_what_the_labels_show(start, data):
    network = FromScratch().prepare(start, E0S, data).network
    forces = np.concatenate([a.arrays["REF_forces"].ravel() for a in data.train])
    assert float(network.scale_shift.scale) == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-5)
    binding = [(a.info["REF_energy"] - sum(E0S[z] for z in a.numbers)) / len(a) for a in data.train]
    assert float(network.scale_shift.shift) == pytest.approx(np.mean(binding), rel=1e-5)
    pairs = [(np.linalg.norm(a.positions[:, None] - a.positions, axis=-1) < 4.0) for a in data.train]
    neighbours = sum(p.sum() - len(p) for p in pairs) / sum(map(len, pairs))
    assert float(network.interactions[0].avg_num_neighbors) == pytest.approx(neighbours)


def test_several_targets_learn_at_once_and_replay_is_kept_if_asked_for(start, data, labelled_waters):
    shifted = [atoms.copy() for atoms in labelled_waters]
    for atoms in shifted:
        atoms.info["REF_energy"] += 7.0 * len(atoms)
    other = {z: e + 7.0 for z, e in E0S.items()}
    both = replace(data, further={"other": Target(train=shifted[:12], valid=shifted[12:], e0s=other)})
    strategy = PseudolabelledReplay(
        optimisation=QUICK.model_copy(update={"epochs": 1}), keep_replay_head=True
    )
    setup = strategy.prepare(start, E0S, both)
    assert list(setup.network.heads) == ["replay", "other", "target"]
    assert [w.energy for w in setup.weights] == [1.0, 10.0, 10.0]
    check_step_zero(start, setup.network, asked_for(start) | {"other": other}, list(data.train[:4]))
    fitted = fit(setup, strategy.optimisation)
    assert {"target_forces_mae", "other_forces_mae", "replay_forces_mae"} <= fitted.history[0].keys()
    whole = potential(fitted.network)
    kept = potential(strategy.finish(fitted.network))
    assert kept.heads == ["replay", "other", "target"]
    dropped = potential(strategy.model_copy(update={"keep_replay_head": False}).finish(fitted.network))
    assert dropped.heads == ["other", "target"]
    assert (dropped.e0s("other"), dropped.e0s()) == (other, E0S)
    for head in dropped.heads:
        agree(ask(whole, data.valid, head), ask(dropped, data.valid, head), 1e-4)
    for name in ("target", "replay"):
        with pytest.raises(ValueError, match="a further head can be called neither 'target' nor 'replay'"):
            strategy.prepare(start, E0S, replace(data, further={name: both.further["other"]}))


def test_the_element_table_is_reduced_to_what_the_structures_have(strategy, start, data):
    smaller = strategy.model_copy(update={"elements": "present"})
    e0s = {z: E0S[z] for z in (1, 8)}  # no energy is needed, and none is made up, for Na and Cl
    setup = smaller.prepare(start, e0s, data)
    reduced = potential(setup.network)
    assert reduced.elements == [1, 8]
    assert reduced.e0s("target") == e0s
    if strategy.starts_as_foundation:
        check_step_zero(start, setup.network, asked_for(start), list(data.train[:4]))
    specialist = potential(smaller.finish(setup.network))
    assert (specialist.elements, specialist.e0s()) == ([1, 8], e0s)
    with pytest.raises(ValueError, match="head 'target' has no E0 for Na, Cl"):
        strategy.prepare(start, e0s, data)


@pytest.mark.parametrize("missing", ["replay_train", "replay_valid"])
@pytest.mark.parametrize("kind", WITH_REPLAY)
def test_replay_refuses_to_train_without_replay(kind, missing, start, data):
    with pytest.raises(EmptyTraining, match="needs replay structures to train and to validate on"):
        kind().prepare(start, E0S, replace(data, **{missing: []}))


def test_replay_refuses_structures_without_labels(start, data):
    bare = [atoms.copy() for atoms in data.replay_train]
    del bare[3].info["REF_energy"], bare[3].arrays["REF_forces"]
    with pytest.raises(
        EmptyTraining, match=r"multihead-replay: replay structure 3 \(\w+\) has no labels at the foundation's"
    ):
        MultiheadReplay().prepare(start, E0S, replace(data, replay_train=bare))


@pytest.mark.parametrize("missing", ["train", "valid"])
def test_every_strategy_refuses_to_train_on_nothing(strategy, missing, start, data):
    with pytest.raises(EmptyTraining, match="head 'target' needs structures to train and to validate on"):
        strategy.prepare(start, E0S, replace(data, **{missing: []}))


def test_labels_that_weigh_nothing_are_refused(start, data):
    weightless = Weights(energy=0.0, forces=0.0, stress=0.0)
    setup = Naive(weights=weightless).prepare(start, E0S, data)
    with pytest.raises(EmptyTraining, match="head 'target' has no labels with a weight above zero"):
        setup.check()
    setup = PseudolabelledReplay(replay_weights=weightless).prepare(start, E0S, data)
    with pytest.raises(EmptyTraining, match="head 'replay' has no labels with a weight above zero"):
        setup.check()
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Weights(energy=-1.0)


def test_adapters_that_fit_nowhere_are_refused():
    products = torch.nn.ModuleList([torch.nn.Bilinear(2, 2, 1)])
    with pytest.raises(EmptyTraining, match="ModuleList has no layer that a LoRA adapter fits"):
        with_adapters(products, 4, 1.0, 0)


def test_from_scratch_refuses_labels_without_forces(start, data):
    bare = [atoms.copy() for atoms in data.train]
    for atoms in bare:
        del atoms.arrays["REF_forces"]
    with pytest.raises(EmptyTraining, match="from-scratch: no training structure has a force above zero"):
        FromScratch().prepare(start, E0S, replace(data, train=bare))


def test_a_batch_may_be_larger_than_the_data(start, data):
    optimisation = QUICK.model_copy(update={"max_edges": 10**6, "epochs": 1})
    fitted = fit(Naive().prepare(start, E0S, data), optimisation)
    assert fitted.history[-1]["loss"] > 0.0


def test_names_tell_settings_apart():
    assert [s.name for s in CANDIDATES] == [
        "from-scratch", "naive", "frozen-interactions", "frozen-but-readouts", "lora-r4",
        "multihead-replay", "pseudolabelled-replay", "replay-lora-r4",
        "sparse-30pct", "masked-30pct-fisher", "sparse-pseudolabelled-replay-30pct",
    ]  # fmt: skip
    assert Sparse(trained_share=0.005).name == "sparse-0-5pct"
    assert Sparse(trained_share=None, threshold_decay=0.3).name == "sparse-free"
    assert Lora(called="slow-lora").name == "slow-lora"
    kinds = [kind().kind for kind in STRATEGIES]
    assert len(set(kinds)) == len(kinds) == 11


def test_the_defaults_are_the_papers():
    table = {
        s.kind: (s.optimisation.learning_rate, s.optimisation.ema_decay, s.optimisation.clip_gradient)
        for s in (kind() for kind in STRATEGIES)
    }
    assert table == {
        "from_scratch": (1e-2, 0.99, 10.0),
        "naive": (1e-3, 0.999, 1.0),
        "frozen": (1e-3, 0.999, 1.0),
        "lora": (1e-2, 0.99, 10.0),
        "multihead_replay": (1e-4, 0.9999, 1.0),
        "pseudolabelled_replay": (1e-4, 0.9999, 1.0),
        "replay_lora": (1e-3, 0.999, 10.0),
        # Ours: few parameters want a larger rate, as those of LoRA do.
        "sparse": (1e-1, 0.99, 10.0),
        "masked": (3e-2, 0.99, 10.0),
        "sparse_replay": (3e-2, 0.99, 10.0),
        "sparse_pseudolabelled_replay": (3e-2, 0.99, 10.0),
    }
    replay = MultiheadReplay()
    assert (replay.weights.energy, replay.weights.forces) == (10.0, 10.0)
    assert (replay.replay_weights.energy, replay.replay_weights.forces) == (1.0, 10.0)
