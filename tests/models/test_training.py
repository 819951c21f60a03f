import copy
import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from models import evaluation, graphs, losses, potentials, training_state
from models.datasets import read_structures, write_structures
from models.heads import with_heads
from models.losses import Weights
from models.potentials import Potential
from models.training import Diverged, EmptyTraining, Optimisation, TrainingSetup, fit
from models.training_state import ResumeError, TrainingState

QUICK = Optimisation(learning_rate=0.01, decay="cosine", ema_decay=0.9, epochs=4, max_edges=60, seed=1)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def original(tiny_foundation, labelled_waters) -> TrainingSetup:
    return setup_from(tiny_foundation, labelled_waters)


@pytest.fixture
def prepared(original) -> TrainingSetup:
    """The tiny foundation and labels on its own scale; 16 structures to train on, 8 to validate."""
    return afresh(original)


def afresh(setup: TrainingSetup) -> TrainingSetup:
    return replace(setup, network=copy.deepcopy(setup.network))


def setup_from(foundation: Path, frames: list[Atoms]) -> TrainingSetup:
    potential = potentials.load(foundation)
    e0s = {z: potential.e0s()[z] for z in potential.elements} | {1: -13.0, 8: -110.0}
    network = with_heads(potential, {"target": e0s})
    items = graphs.graphs(frames, potential)
    return TrainingSetup(
        network=network, train=items[:16], valid={"target": items[16:]}, weights=[losses.TARGET]
    )


def weights_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in network.state_dict().items() if tensor.numel()}


def identical(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = weights_of(a), weights_of(b)
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_training_lowers_the_loss_and_returns_the_best_epoch(prepared):
    told = []
    fitted = fit(prepared, QUICK.model_copy(update={"epochs": 6}), report=told.append)
    assert [row["epoch"] for row in fitted.history] == list(range(7))
    for row, shown in zip(fitted.history, told, strict=True):
        assert set(row) == {
            "epoch", "loss", "learning_rate", "target_forces_mae", "target_energy_per_atom_mae",
        }  # fmt: skip
        pace = {"updates", "seconds"} | ({"structures_per_s", "seconds_left"} if row["epoch"] else set())
        assert shown.items() >= row.items()
        assert shown.keys() - row.keys() == pace
    assert told[-1]["seconds_left"] == 0.0 < told[-2]["seconds_left"]
    assert fitted.history[-1]["loss"] < fitted.history[1]["loss"]
    rates = [row["learning_rate"] for row in fitted.history]
    assert rates == sorted(rates, reverse=True)
    scores = [row["target_forces_mae"] + row["target_energy_per_atom_mae"] for row in fitted.history]
    assert scores.index(min(scores)) == fitted.best_epoch > 0
    e0s = torch.atleast_2d(fitted.network.atomic_energies_fn.atomic_energies)
    again = evaluation.mean_errors(fitted.network, prepared.valid["target"], e0s)
    assert again["forces_mae"] == pytest.approx(fitted.history[fitted.best_epoch]["target_forces_mae"])


def test_an_epoch_that_makes_it_worse_is_not_returned(prepared):
    start = {name: tensor.clone() for name, tensor in weights_of(prepared.network).items()}
    wild = Optimisation(learning_rate=10.0, epochs=1, max_edges=500, ema_decay=0.0)
    fitted = fit(prepared, wild)
    assert fitted.best_epoch == 0
    assert all(torch.equal(start[name], tensor) for name, tensor in weights_of(fitted.network).items())


def test_the_average_follows_the_weights_by_its_decay(prepared):
    # One update: the decay is warmed up to (1 + 1) / (10 + 1).
    one = QUICK.model_copy(update={"epochs": 1, "max_edges": 10**6, "learning_rate": 1e-3, "decay": "none"})
    before = {n: p.detach().clone() for n, p in prepared.network.named_parameters()}
    fitted = fit(prepared, one)
    assert fitted.best_epoch == 1
    after = dict(prepared.network.named_parameters())
    moved = False
    for name, mean in fitted.network.named_parameters():
        torch.testing.assert_close(mean, before[name] + (1 - 2 / 11) * (after[name] - before[name]))
        moved |= not torch.equal(mean, before[name])
    assert moved


def test_the_seed_decides_the_order_and_nothing_else_does(original):
    runs = [fit(afresh(original), QUICK.model_copy(update={"seed": seed, "epochs": 2})) for seed in (1, 1, 2)]
    assert identical(runs[0].network, runs[1].network)
    assert not identical(runs[0].network, runs[2].network)


TRAIN = """
import json
import os
import pathlib
import signal
import sys
import torch
from models import training
from models.datasets import read_structures
from models.potentials import Potential, save
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_training import QUICK, saved_state, setup_from
foundation, labels, state, out = map(pathlib.Path, sys.argv[2:6])

def counted(function, count, number):
    def call(*args):
        nonlocal count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), number)
        return function(*args)
    return call

def train(event, count, kind, save_seconds):
    number = getattr(signal, kind)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if event == "sync":
        os.fsync = counted(os.fsync, count, number)
    elif event != "never":
        setattr(training, event, counted(getattr(training, event), count, number))
    setup = setup_from(foundation, read_structures(labels))
    fitted = training.fit(setup, QUICK, state_path=state, save_seconds=save_seconds)
    save(Potential(network=fitted.network, level_of_theory={}, provenance={}), out)

for given in json.loads(sys.argv[6]):
    child = os.fork()  # this process has not computed anything, so that a copy of it can
    if child == 0:
        train(*given)
        sys.exit()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([code, saved_state(state).updates]), flush=True)
"""


def saved_state(path: Path) -> TrainingState:
    return TrainingState(**training_state.read(path)["state"])


# An epoch has seven batches here, and a save syncs the file and its folder.
KILLS = [
    ("_update", 10, "SIGKILL", 60.0, 7),  # the evaluation was the last to save
    ("_update", 3, "SIGKILL", 0.0, 9),  # the update that was cut short is repeated
    ("sync", 5, "SIGKILL", 0.0, 11),  # while a state is written: the one before it is whole
    ("_judge", 1, "SIGTERM", 60.0, 14),  # before an evaluation: it is not passed over
    ("_update", 3, "SIGTERM", 60.0, 17),  # inside an update: it is finished and saved
]
CODES = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 128 + signal.SIGTERM}


def test_a_training_killed_in_every_way_goes_on_bit_for_bit(tiny_foundation, labelled_waters, tmp_path):
    labels, state, resumed = (tmp_path / name for name in ("labels.xyz", "state.pt", "resumed"))
    write_structures(labels, labelled_waters)
    trainings = [given for *given, _ in KILLS] + [["never", 0, "SIGKILL", 60.0]]
    arguments = [Path(__file__).parent, tiny_foundation, labels, state, resumed, json.dumps(trainings)]
    command = [sys.executable, "-W", "ignore", "-c", TRAIN, *map(str, arguments)]
    told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    *ends, (last, _) = map(json.loads, told.splitlines())
    assert ends == [[CODES[kind], updates] for *_, kind, _, updates in KILLS]
    assert last == 0
    undisturbed = fit(setup_from(tiny_foundation, read_structures(labels)), QUICK)
    assert identical(potentials.load(resumed).network, undisturbed.network)
    assert saved_state(state).history == undisturbed.history


def test_a_stopped_call_goes_on_bit_for_bit(original, tmp_path):
    class Enough(SystemExit):
        pass

    def stop(row: dict) -> None:
        if 1 < row["epoch"] < 2:
            raise Enough

    often = QUICK.model_copy(update={"epochs": 2, "evaluate_every": 0.5})
    with pytest.raises(Enough):
        fit(afresh(original), often, state_path=tmp_path / "state.pt", report=stop)
    resumed = fit(afresh(original), often, state_path=tmp_path / "state.pt")
    undisturbed = fit(afresh(original), often)
    assert identical(resumed.network, undisturbed.network)
    assert resumed.history == undisturbed.history
    assert resumed.best_epoch == undisturbed.best_epoch


def test_a_finished_training_is_not_repeated(original, tmp_path):
    once = QUICK.model_copy(update={"epochs": 1})
    first = fit(afresh(original), once, state_path=tmp_path / "state.pt")
    told = []
    again = fit(afresh(original), once, state_path=tmp_path / "state.pt", report=told.append)
    assert told == []
    assert again.history == first.history
    assert identical(first.network, again.network)


def test_a_state_of_another_training_is_refused(original, tmp_path):
    path = tmp_path / "state.pt"
    once = QUICK.model_copy(update={"epochs": 1})
    fit(afresh(original), once, state_path=path)
    other_label = replace(original.train[0], energy=original.train[0].energy + 1e-6)
    other_start = afresh(original)
    potentials.set_e0s(other_start.network, np.zeros(4))
    partly_frozen = afresh(original)
    partly_frozen.network.readouts.requires_grad_(False)
    for setup, optimisation, difference in (
        (original, QUICK, "epochs 1 there, 4 here"),
        (replace(original, train=[other_label, *original.train[1:]]), once, "network and data"),
        (replace(original, weights=[Weights(energy=1.0)]), once, "network and data"),
        (other_start, once, "network and data"),
        (partly_frozen, once, "network and data"),
    ):
        with pytest.raises(ResumeError, match=rf"state\.pt: .* another training \({difference}.*; delete"):
            fit(setup, optimisation, state_path=path)


def test_evaluations_come_as_often_as_asked_and_change_no_weights(original):
    ends = []
    for every, epochs in ((0.5, [0, 0.5, 1, 1.5, 2]), (1.5, [0, 1.5, 2])):
        setup = afresh(original)
        changed = QUICK.model_copy(update={"epochs": 2, "evaluate_every": every})
        seen = [row["epoch"] for row in fit(setup, changed).history]
        assert len(seen) == len(epochs)
        # An epoch of seven batches is half done with the fourth.
        assert all(e <= s < e + 1 / 7 for s, e in zip(seen, epochs, strict=True))
        ends.append(setup.network)
    assert identical(*ends)


def with_replay(setup: TrainingSetup) -> TrainingSetup:
    """Its own predictions as a second validation set: without any error before training."""
    potential = Potential(network=afresh(setup).network.eval(), level_of_theory={}, provenance={})
    kept = [
        replace(g, energy=p.energy, forces=torch.tensor(p.forces))
        for g, p in zip(setup.train, graphs.predict(potential, setup.train), strict=True)
    ]
    return replace(afresh(setup), valid={**setup.valid, "replay": kept})


def test_a_training_stops_when_it_no_longer_gets_better(original, tmp_path):
    # Nothing is remembered better than before training.
    setup, path, told = with_replay(original), tmp_path / "state.pt", []
    patient = QUICK.model_copy(update={"best_by": "retention", "patience": 2})
    fitted = fit(afresh(setup), patient, state_path=path, report=told.append)
    assert [row["epoch"] for row in fitted.history] == [0, 1, 2]
    assert fitted.best_epoch == 0
    assert told[-1]["seconds_left"] == 0.0
    assert fit(afresh(setup), patient, state_path=path, report=told.append).history == fitted.history
    assert len(told) == 3


def test_the_rule_decides_what_is_best_and_when_to_stop(original):
    histories = {}
    for rule in ("target", "retention", "pareto"):
        changed = QUICK.model_copy(update={"best_by": rule, "patience": 1})
        fitted = fit(with_replay(original), changed)
        histories[rule] = fitted.history
        target, replay = (
            [row[f"{name}_forces_mae"] + row[f"{name}_energy_per_atom_mae"] for row in fitted.history]
            for name in ("target", "replay")
        )
        score = {"target": target, "retention": replay, "pareto": np.add(target, replay).tolist()}[rule]
        assert fitted.best_epoch == score.index(min(score))
    # Nothing is forgotten less than at step 0; the target still gets better, and the other two go on.
    assert [row["epoch"] for row in histories["retention"]] == [0, 1]
    assert len(histories["target"]) > 2
    assert histories["pareto"] == histories["target"]


def test_a_rule_without_its_validation_set_is_refused(prepared):
    for rule in ("retention", "pareto"):
        with pytest.raises(EmptyTraining, match=f"no labelled 'replay' structures .*best_by: {rule}"):
            fit(prepared, QUICK.model_copy(update={"best_by": rule}))


def unlabelled(items: list) -> list:
    return [replace(g, energy=math.nan, forces=torch.full_like(g.forces, math.nan)) for g in items]


def test_work_that_would_do_nothing_is_refused(original, prepared):
    frozen = afresh(original)
    frozen.network.requires_grad_(False)
    for setup, message in (
        (frozen, "no parameter of the network may change"),
        (replace(prepared, train=[]), "no training structures"),
        (replace(prepared, valid={}), "no labelled 'target' structures to validate on"),
        (replace(prepared, valid={"replay": prepared.train}), "no labelled 'target' structures"),
        (replace(prepared, valid={"target": unlabelled(prepared.train)}), "no labelled 'target' structures"),
        (
            replace(prepared, train=unlabelled(prepared.train)),
            "head 'target' has no labels with a weight above zero",
        ),
        (replace(prepared, weights=[Weights(energy=0.0, forces=0.0)]), "head 'target' has no labels"),
    ):
        with pytest.raises(EmptyTraining, match=message):
            fit(setup, QUICK)


def test_a_head_without_its_own_labels_is_refused(two_heads, labelled_waters):
    items = graphs.graphs(labelled_waters, two_heads, "target")
    setup = TrainingSetup(
        network=two_heads.network,
        train=items,
        valid={"target": items},
        weights=[losses.REPLAY, losses.TARGET],
    )
    with pytest.raises(EmptyTraining, match="head 'replay' has no labels"):
        setup.check()


def test_a_network_that_predicts_no_number_is_never_the_best(prepared):
    with torch.no_grad():
        prepared.network.readouts[-1].linear_2.weight.fill_(math.nan)
    e0s = torch.atleast_2d(prepared.network.atomic_energies_fn.atomic_energies)
    found = evaluation.mean_errors(prepared.network.eval(), prepared.valid["target"], e0s)
    assert all(math.isnan(value) for value in found.values())
    with pytest.raises(Diverged, match="the loss is nan in epoch 1; lower the learning rate"):
        fit(prepared, QUICK)


def test_what_has_no_labels_has_no_error(prepared):
    network = prepared.network.eval()
    e0s = torch.atleast_2d(network.atomic_energies_fn.atomic_energies)
    no_energy = [replace(g, energy=math.nan) for g in prepared.train]
    assert set(evaluation.mean_errors(network, no_energy, e0s)) == {"forces_mae"}
    assert evaluation.mean_errors(network, unlabelled(prepared.train), e0s) == {}


def test_errors_are_means_over_all_entries(prepared):
    network = prepared.network.eval()
    e0s = torch.atleast_2d(network.atomic_energies_fn.atomic_energies)
    potential = Potential(network=network, level_of_theory={}, provenance={})
    predicted = graphs.predict(potential, prepared.train)
    shifted = [
        replace(g, energy=p.energy + 0.01 * g.n_atoms, forces=torch.tensor(p.forces) + 0.02)
        for g, p in zip(prepared.train, predicted, strict=True)
    ]
    found = evaluation.mean_errors(network, shifted, e0s)
    assert found == pytest.approx({"forces_mae": 20.0, "energy_per_atom_mae": 10.0}, rel=1e-3)


def test_stress_of_crystals_is_learned_beside_molecules(tiny_foundation, labelled_waters, salt_crystal):
    potential = potentials.load(tiny_foundation)
    salt_crystal.info["REF_stress"] = 0.01 * torch.eye(3).numpy()
    items = graphs.graphs([salt_crystal, labelled_waters[0]], potential)
    setup = TrainingSetup(
        network=with_heads(potential, {"target": potential.e0s()}),
        train=items, valid={"target": items}, weights=[Weights(energy=0.0, forces=0.0, stress=1.0)],
    )  # fmt: skip
    together = Optimisation(learning_rate=1e-3, epochs=3, max_edges=10**6)
    fitted = fit(setup, together)
    losses_seen = [row["loss"] for row in fitted.history[1:]]
    assert losses_seen == sorted(losses_seen, reverse=True)
    assert losses_seen[0] > losses_seen[-1] > 0.0
