from typing import get_args

import numpy as np
import pytest
import torch
from ase import Atoms

from models import potentials
from models.finetuning import PreparationError, check_step_zero
from models.graphs import graphs, predict
from models.potentials import Potential
from models.pseudolabels import pseudolabel
from models.strategies import AnyStrategy, PseudolabelledReplay, Strategy, TrainingData
from models.training import EmptyTraining, Optimisation, fit

STRATEGIES = get_args(get_args(AnyStrategy)[0])
E0S = {1: -13.0, 8: -110.0, 11: -5.5, 17: -19.5}
QUICK = Optimisation(learning_rate=0.003, ema_decay=0.5, epochs=3, max_edges=60)


@pytest.fixture(scope="module")
def start(tiny_foundation) -> Potential:
    return potentials.load(tiny_foundation)


@pytest.fixture(scope="module")
def data(start, labelled_waters) -> TrainingData:
    replay = pseudolabel(start, labelled_waters[::2])
    return TrainingData(
        train=labelled_waters[:16],
        valid=labelled_waters[16:],
        replay_train=replay[:8],
        replay_valid=replay[8:],
    )


@pytest.fixture(params=STRATEGIES, ids=lambda kind: kind.__name__)
def strategy(request) -> Strategy:
    return request.param(optimisation=QUICK)


def test_every_strategy_starts_as_the_foundation(strategy, start, data):
    setup = strategy.prepare(start, E0S, data)
    setup.check()
    check_step_zero(start, setup.network, E0S, list(data.train[:4]))
    assert all(parameter.dtype == start.dtype for parameter in setup.network.parameters())


def test_a_broken_preparation_is_caught(strategy, start, data):
    frames = list(data.train[:4])
    network = strategy.prepare(start, E0S, data).network
    good = network.atomic_energies_fn.atomic_energies.clone()
    potentials.set_e0s(network, good.numpy() + 0.01)
    with pytest.raises(PreparationError, match=r"head '\w+': energy .* before training, .* expected"):
        check_step_zero(start, network, E0S, frames)
    potentials.set_e0s(network, good.numpy())
    with torch.no_grad():
        network.interactions[0].linear_up.weight *= 1.5
    with pytest.raises(PreparationError, match=r"head '\w+': (forces differ|energy)"):
        check_step_zero(start, network, E0S, frames)


def test_every_strategy_learns_the_target_and_ends_with_one_head(strategy, start, data):
    fitted = fit(strategy.prepare(start, E0S, data), strategy.optimisation)
    first, best = fitted.history[0], fitted.history[fitted.best_epoch]
    errors = ("target_forces_mae", "target_energy_per_atom_mae")
    assert sum(best[name] for name in errors) < sum(first[name] for name in errors)
    assert first["replay_forces_mae"] == pytest.approx(0.0, abs=0.01)  # the foundation's own labels
    specialist = Potential(network=strategy.finish(fitted.network), level_of_theory={}, provenance={})
    assert specialist.heads == ["target"]
    assert specialist.e0s() == E0S
    whole = Potential(network=fitted.network, level_of_theory={}, provenance={})
    for a, b in zip(_ask(whole, data.valid), _ask(specialist, data.valid), strict=True):
        assert b.energy == pytest.approx(a.energy, abs=1e-4)
        np.testing.assert_allclose(b.forces, a.forces, atol=1e-4)


def _ask(potential: Potential, frames: list[Atoms]) -> list:
    return predict(potential, graphs(frames, potential, "target"))


def test_the_foundation_and_its_labels_are_left_alone(strategy, start, data):
    before = {name: tensor.clone() for name, tensor in start.network.state_dict().items()}
    fit(strategy.prepare(start, E0S, data), strategy.optimisation.model_copy(update={"epochs": 1}))
    assert all(torch.equal(before[name], tensor) for name, tensor in start.network.state_dict().items())
    assert all("REF_energy" in atoms.info for atoms in data.replay_valid)


@pytest.mark.parametrize("missing", ["replay_train", "replay_valid"])
def test_replay_refuses_to_train_without_replay(missing, start, data):
    roles = {role: getattr(data, role) for role in ("train", "valid", "replay_train", "replay_valid")}
    with pytest.raises(EmptyTraining, match="needs replay structures to train and to validate on"):
        PseudolabelledReplay().prepare(start, E0S, TrainingData(**roles | {missing: []}))


def test_kinds_are_unique():
    kinds = [strategy().kind for strategy in STRATEGIES]
    assert len(set(kinds)) == len(kinds) >= 2
