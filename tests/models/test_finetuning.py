import json
from pathlib import Path

import numpy as np
import pytest

from models import potentials
from models.datasets import read_structures, write_structures
from models.e0s import E0Policy, read_e0s, refit_file
from models.finetuning import FurtherTarget, fine_tune
from models.graphs import graphs, predict
from models.pseudolabels import pseudolabel, replay_set
from models.strategies import (
    Lora,
    Masked,
    Naive,
    PseudolabelledReplay,
    ReplayLora,
    SparsePseudolabelledReplay,
)
from models.training import Optimisation
from models.training_state import ResumeError

QUICK = Optimisation(learning_rate=0.003, ema_decay=0.5, epochs=2, max_edges=80)
ONE = QUICK.model_copy(update={"epochs": 1})


@pytest.fixture(scope="module")
def files(tiny_foundation, labelled_waters, tmp_path_factory) -> dict[str, Path]:
    """Everything a candidate is made from."""
    folder = tmp_path_factory.mktemp("files")
    made = {"foundation": tiny_foundation, "train": folder / "train.xyz", "valid": folder / "valid.xyz"}
    write_structures(made["train"], labelled_waters[:16])
    write_structures(made["valid"], labelled_waters[16:])
    write_structures(folder / "all.xyz", labelled_waters)
    made["e0s"], _ = refit_file(tiny_foundation, made["train"], None, E0Policy(), folder)
    replay = replay_set(tiny_foundation, folder / "all.xyz", 20, 0, folder)
    return made | {role: replay[role].path for role in ("replay_train", "replay_valid")}


@pytest.mark.parametrize(
    "strategy", [Naive(optimisation=QUICK), ReplayLora(optimisation=QUICK, keep_replay_head=True)]
)
def test_the_same_inputs_give_the_same_bytes(strategy, files, tmp_path):
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(fine_tune(strategy, files, "GFN2-xTB", {"name": "water"}, tmp_path / name))
    assert made[0].keys() == made[1].keys() == {"checkpoint", "history", "cost", "state"}
    assert all(made[0][role].read_bytes() == made[1][role].read_bytes() for role in ("checkpoint", "history"))
    assert json.loads(made[0]["cost"].read_text())["cpu_seconds"] > 0
    specialist = potentials.load(made[0]["checkpoint"])
    levels = {"replay": "none"} if isinstance(strategy, ReplayLora) else {}
    assert dict(specialist.level_of_theory) == levels | {"target": "GFN2-xTB"}
    assert specialist.provenance == {"name": "water"}
    assert specialist.e0s() == read_e0s(files["e0s"])
    history = json.loads(made[0]["history"].read_text())
    whole = potentials.n_parameters(specialist.network)
    assert 0 < history["trained_parameters"] <= whole
    assert (history["trained_parameters"] == whole) == isinstance(strategy, Naive)
    assert [row["epoch"] for row in history["epochs"]] == [0, 1, 2]
    assert 0 <= history["best_epoch"] <= 2


def test_going_on_from_fewer_epochs_gives_the_bytes_of_all_at_once(files, tmp_path):
    assert ONE.begins(QUICK)
    made = {}
    for name, optimisation, before in (("one", ONE, None), ("more", QUICK, "one"), ("all", QUICK, None)):
        (tmp_path / name).mkdir()
        start = made[before]["state"] if before else None
        made[name] = fine_tune(
            Naive(optimisation=optimisation), files, "GFN2-xTB", {}, tmp_path / name, goes_on_from=start
        )
    for role in ("checkpoint", "history"):
        assert made["more"][role].read_bytes() == made["all"][role].read_bytes()
    assert len(json.loads(made["more"]["history"].read_text())["epochs"]) == 3


def test_a_state_of_another_training_is_not_gone_on_from(files, tmp_path):
    made = fine_tune(Naive(optimisation=ONE), files, "GFN2-xTB", {}, tmp_path)
    (tmp_path / "other").mkdir()
    other = Naive(optimisation=QUICK.model_copy(update={"learning_rate": 0.001}))
    with pytest.raises(ResumeError, match="learning_rate"):
        fine_tune(other, files, "GFN2-xTB", {}, tmp_path / "other", goes_on_from=made["state"])


@pytest.mark.parametrize(
    "strategy", [Masked(optimisation=QUICK), SparsePseudolabelledReplay(optimisation=QUICK)]
)
def test_what_did_not_change_is_the_foundations_bit_for_bit(strategy, files, tmp_path):
    # Also through a head for replay, whose way there and back rounds weights of the readouts.
    made = fine_tune(strategy, files, "GFN2-xTB", {}, tmp_path)
    start, specialist = potentials.load(files["foundation"]), potentials.load(made["checkpoint"])
    before, after = dict(start.network.named_parameters()), dict(specialist.network.named_parameters())
    assert {name: p.shape for name, p in before.items()} == {name: p.shape for name, p in after.items()}
    n_changed = sum(int((p != before[name]).sum()) for name, p in after.items())
    history = json.loads(made["history"].read_text())
    # Weights of the replay head are counted, and go with it.
    assert 0 < n_changed <= history["trained_parameters"] <= 0.031 * potentials.n_parameters(start.network)


@pytest.mark.parametrize("strategy", [Naive(optimisation=ONE), PseudolabelledReplay(optimisation=ONE)])
def test_a_second_round_has_the_e0s_that_were_asked_for(strategy, files, tmp_path):
    # The first round's head has the second's name and shape, of which mace-torch would keep the old E0s.
    rounds = [tmp_path / "first", tmp_path / "second"]
    for folder in rounds:
        folder.mkdir()
    first = fine_tune(strategy, files, "GFN2-xTB", {}, rounds[0])["checkpoint"]
    shifted = json.loads(files["e0s"].read_text())
    shifted["e0s"] = {symbol: energy - 100.0 for symbol, energy in shifted["e0s"].items()}
    (tmp_path / "e0s.json").write_text(json.dumps(shifted))
    second = fine_tune(
        strategy, files | {"foundation": first, "e0s": tmp_path / "e0s.json"}, "MP2", {}, rounds[1]
    )["checkpoint"]
    specialist = potentials.load(second)
    assert specialist.e0s() == {z: e - 100.0 for z, e in potentials.load(first).e0s().items()}
    assert dict(specialist.level_of_theory) == {"target": "MP2"}


def test_several_targets_become_one_checkpoint_of_several_levels(files, tmp_path):
    other = FurtherTarget(
        train=files["replay_train"], valid=files["replay_valid"], e0s=files["e0s"], level_of_theory="PBE"
    )
    given = {role: path for role, path in files.items() if not role.startswith("replay")}
    made = fine_tune(Lora(optimisation=ONE), given, "GFN2-xTB", {}, tmp_path, further={"second": other})
    specialist = potentials.load(made["checkpoint"])
    assert dict(specialist.level_of_theory) == {"second": "PBE", "target": "GFN2-xTB"}
    assert specialist.e0s("second") == specialist.e0s() == read_e0s(files["e0s"])


def test_pseudolabels_are_the_models_own_and_replace_others(tiny_potential, labelled_waters, salt_crystal):
    frames = [labelled_waters[0].copy(), salt_crystal]
    frames[0].info["REF_stress"] = np.eye(3)
    labelled = pseudolabel(tiny_potential, frames, stress=True)
    for frame, prediction in zip(
        labelled, predict(tiny_potential, graphs(frames, tiny_potential)), strict=True
    ):
        assert frame.info["REF_energy"] == pytest.approx(prediction.energy)
        assert frame.arrays["REF_forces"] == pytest.approx(prediction.forces)
    assert ["REF_stress" in frame.info for frame in labelled] == [False, True]
    assert labelled[0].info["trajectory"] == "w0"
    assert frames[0].info["REF_energy"] == labelled_waters[0].info["REF_energy"]


def test_a_prediction_that_is_no_number_is_named(tiny_foundation, labelled_waters):
    potential = potentials.load(tiny_foundation)
    potentials.set_e0s(potential.network, [[float("nan")] * 4])
    with pytest.raises(FloatingPointError, match=r"structure 0 \(H2O\): prediction is not finite"):
        pseudolabel(potential, labelled_waters[:1])


def test_the_replay_set_has_its_own_labels_beside_the_foundations(tiny_foundation, labelled_waters, tmp_path):
    write_structures(tmp_path / "all.xyz", labelled_waters)
    parts = replay_set(tiny_foundation, tmp_path / "all.xyz", 22, 0, tmp_path)
    assert {role: part.contents["labels_from"] for role, part in parts.items()} == {
        "replay_train": "foundation", "replay_valid": "foundation", "replay_test": "reference",
        "original_train": "reference", "original_valid": "reference",
    }  # fmt: skip
    frames = {role: read_structures(part.path) for role, part in parts.items()}
    assert sum(len(items) for role, items in frames.items() if role.startswith("replay")) == 22
    own = {atoms.info["REF_energy"] for atoms in labelled_waters}
    for role, part in parts.items():
        energies = {atoms.info["REF_energy"] for atoms in frames[role]}
        assert energies <= own if part.contents["labels_from"] == "reference" else not energies & own
    for part in ("train", "valid"):
        pairs = zip(frames[f"replay_{part}"], frames[f"original_{part}"], strict=True)
        assert all((a.positions == b.positions).all() for a, b in pairs)


def test_a_replay_set_without_labels_has_only_the_foundations(tiny_foundation, labelled_waters, tmp_path):
    bare = [atoms.copy() for atoms in labelled_waters]
    del bare[0].arrays["REF_forces"]
    write_structures(tmp_path / "all.xyz", bare)
    parts = replay_set(tiny_foundation, tmp_path / "all.xyz", 24, 0, tmp_path)
    assert set(parts) == {"replay_train", "replay_valid", "replay_test"}
    assert {part.contents["labels_from"] for part in parts.values()} == {"foundation"}
