"""Structures and labels of a campaign on record."""

from collections.abc import Mapping

import numpy as np
import pytest

from db import artifacts, retractions, structures
from db.labels import Calculation, ConflictingLabels
from db.structures import OverlappingDatasets
from models.campaign import Calculator, Campaign, Replay
from models.datasets import fingerprint, read_structures, write_structures
from models.foundation import shipped
from tasks.datasets import ingest_labels, pseudolabel_replay
from tasks.structures import record_labels, record_replay


@pytest.fixture
def replay(campaign: Campaign) -> tuple[dict[str, str], str]:
    """Parts of a replay set of ten stretched waters, and the foundation."""
    frames = []
    for number in range(10):
        frame = read_structures(campaign.labels.path)[0]
        frame.positions *= 1.2 + 0.01 * number
        frame.info["trajectory"] = f"r{number}"
        frames.append(frame)
    path = campaign.labels.path.with_name("replay.extxyz")
    write_structures(path, frames)
    said = {"level_of_theory": "GFN1-xTB"}
    start = artifacts.import_file(shipped()["temper-gfn1"], "foundation", "start", said).id
    plan = Replay(path=path, n_structures=10, level_of_theory="B3LYP")
    return dict(pseudolabel_replay.fn(plan, start)), start


def record(
    campaign: Campaign, data: Mapping[str, Mapping[str, str]], replay: Mapping[str, str], start: str
) -> None:
    """Both halves, as a campaign does."""
    record_labels.fn(campaign, data)
    record_replay.fn(replay, start, data)


def test_every_label_says_how_it_was_made(campaign: Campaign, replay: tuple[dict[str, str], str]) -> None:
    parts, start = replay
    data = ingest_labels.fn(campaign)
    record(campaign, {"target": data}, parts, start)
    record(campaign, {"target": data}, parts, start)
    inside = structures.inside(data["train"])
    assert (inside.n_structures, inside.n_frames) == (2, 2)
    assert inside.calculation == Calculation(level_of_theory="GFN2-xTB")
    frame, _ = read_structures(artifacts.path(data["test"]))
    (label,) = structures.find(fingerprint(frame)).labels
    assert (label.step, label.role, label.energy) == ("ingest_labels", "test", frame.info["REF_energy"])
    by_model = Calculation(level_of_theory="GFN1-xTB", calculator="start", model_id=start)
    own = Calculation(level_of_theory="B3LYP")
    found = {role: structures.inside(id_).calculation for role, id_ in parts.items()}
    assert found == {
        "replay_train": by_model,
        "replay_valid": by_model,
        "replay_test": own,
        "original_train": own,
        "original_valid": own,
    }
    # What the file says later of its calculator is added.
    known = Calculator(name="tblite", version="0.8.0", settings={"accuracy": 0.1})
    told = campaign.model_copy(update={"labels": campaign.labels.model_copy(update={"calculator": known})})
    assert ingest_labels.fn(told) == data
    record(told, {"target": data}, parts, start)
    assert structures.inside(data["test"]).calculation == Calculation(
        level_of_theory="GFN2-xTB", calculator="tblite", version="0.8.0", settings={"accuracy": 0.1}
    )


def test_labels_that_contradict_those_of_another_campaign(
    campaign: Campaign, replay: tuple[dict[str, str], str]
) -> None:
    parts, start = replay
    record(campaign, {"target": ingest_labels.fn(campaign)}, parts, start)
    frames = read_structures(campaign.labels.path)
    for frame in frames:
        frame.arrays["REF_forces"] = frame.arrays["REF_forces"] * 51.4
    path = campaign.labels.path.with_name("again.extxyz")
    write_structures(path, frames)
    other = campaign.model_copy(
        update={"name": "other", "labels": campaign.labels.model_copy(update={"path": path})}
    )
    data = ingest_labels.fn(other)
    with pytest.raises(ConflictingLabels, match=r"dataset 'salt-t\w+' .* dataset 'other-t\w+'"):
        record(other, {"target": data}, parts, start)
    ours = artifacts.import_file(campaign.labels.path, "labels", "labels.extxyz").id
    retractions.retract(ours, "forces in Hartree/Bohr")
    record(other, {"target": data}, parts, start)


def test_what_one_head_trains_on_no_other_is_tested_on(
    campaign: Campaign, replay: tuple[dict[str, str], str]
) -> None:
    parts, start = replay
    frames = read_structures(campaign.labels.path)
    rng = np.random.default_rng(0)
    for frame in frames:
        frame.info["REF_energy"] -= 1.0
        frame.arrays["REF_forces"] += rng.normal(size=(3, 3))
        frame.info["trajectory"] = f"t{(int(frame.info['trajectory'][1:]) + 1) % 3}"
    pbe = {**campaign.labels.model_dump(), "level_of_theory": "PBE"}
    pbe["path"] = campaign.labels.path.with_name("pbe.extxyz")
    write_structures(pbe["path"], frames)
    both = Campaign.model_validate({**campaign.model_dump(), "further": {"pbe": pbe}})
    data = {head: ingest_labels.fn(both, head) for head in ("target", "pbe")}
    with pytest.raises(OverlappingDatasets, match=r"is trained on in dataset .* and tested on in dataset"):
        record(both, data, parts, start)
