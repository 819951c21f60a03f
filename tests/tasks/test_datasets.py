"""Labels and reference trajectories on record."""

from pathlib import Path

import pytest

from db import artifacts
from db.errors import ConflictingMetadata
from db.lineage import tree
from models import foundation
from models.campaign import Campaign, ReferenceStructures, ReferenceTrajectories, Replay
from models.datasets import read_structures, write_structures
from tasks.datasets import ingest_labels, pseudolabel_replay, record_evidence


def test_labels_become_parts_that_carry_their_terms(campaign: Campaign) -> None:
    parts = ingest_labels.fn(campaign)
    assert set(parts) == {"train", "valid", "test"}
    for name, id_ in parts.items():
        node = tree(id_)
        assert node.artifact.name == f"salt-{name}"
        assert node.artifact.metadata["level_of_theory"] == "GFN2-xTB"
        assert node.artifact.metadata["licence"] == "CC-BY-4.0"
        assert node.artifact.metadata["n_structures"] == 2
        assert [parent.artifact.kind for parent in node.parents] == ["labels"]


def test_the_parts_are_whole_trajectories(campaign: Campaign) -> None:
    parts = ingest_labels.fn(campaign)
    found = [
        {frame.info["trajectory"] for frame in read_structures(artifacts.path(id_))} for id_ in parts.values()
    ]
    assert sorted(name for names in found for name in names) == ["t0", "t1", "t2"]


def test_another_seed_gives_another_split_and_the_same_one_does_not(campaign: Campaign) -> None:
    again = campaign.model_copy(update={"split": campaign.split.model_copy(update={"seed": 1})})
    parts = ingest_labels.fn(campaign)
    assert ingest_labels.fn(campaign) == parts
    assert ingest_labels.fn(again) != parts


def test_the_same_labels_cannot_be_of_two_levels(campaign: Campaign) -> None:
    ingest_labels.fn(campaign)
    other = campaign.labels.model_copy(update={"level_of_theory": "MP2"})
    with pytest.raises(ConflictingMetadata, match=r"level_of_theory='GFN2-xTB', now level_of_theory='MP2'"):
        ingest_labels.fn(campaign.model_copy(update={"labels": other}))


def test_a_reference_says_its_level_and_temperature(campaign: Campaign, tmp_path: Path) -> None:
    said = {"level_of_theory": "GFN2-xTB", "temperature": 300.0, "licence": "MIT"}
    reference = ReferenceTrajectories(path=campaign.labels.path, **said)
    minima = ReferenceStructures(path=campaign.labels.path, level_of_theory="PBE")
    compared = campaign.model_copy(update={"reference": reference, "evidence": {"minima": minima}})
    ids = record_evidence.fn(compared)
    assert set(ids) == {"reference"}, "what is at another level is not compared with"
    artifact = artifacts.get(ids["reference"])
    assert artifact.kind == "trajectories"
    assert artifact.metadata == said


def test_the_replay_set_says_of_what_level_each_part_is(campaign: Campaign, tmp_path: Path) -> None:
    shipped = foundation.shipped()["temper-gfn1"]
    start = artifacts.import_file(shipped, "foundation", "start", {"level_of_theory": "ours"}).id
    replay = Replay(path=campaign.labels.path, n_structures=10, level_of_theory="GFN2-xTB", licence="CC0-1.0")
    parts = pseudolabel_replay.fn(replay, start)
    (source,) = (n.artifact for n in tree(parts["replay_test"]).parents if n.artifact.kind == "structures")
    assert source.metadata["licence"] == "CC0-1.0"
    said = {role: artifacts.get(id_).metadata for role, id_ in parts.items()}
    assert {role: (of["level_of_theory"], of["labels_from"]) for role, of in said.items()} == {
        "replay_train": ("ours", "foundation"),
        "replay_valid": ("ours", "foundation"),
        "replay_test": ("GFN2-xTB", "reference"),
        "original_train": ("GFN2-xTB", "reference"),
        "original_valid": ("GFN2-xTB", "reference"),
    }


def test_a_further_level_has_a_dataset_and_names_of_its_own(campaign: Campaign) -> None:
    further = {**campaign.labels.model_dump(), "level_of_theory": "PBE"}
    further["path"] = campaign.labels.path.with_name("pbe.extxyz")
    frames = read_structures(campaign.labels.path)
    for frame in frames:
        frame.info["REF_energy"] -= 1.0
    write_structures(further["path"], frames)
    both = Campaign.model_validate({**campaign.model_dump(), "further": {"pbe": further}})
    parts = ingest_labels.fn(both, "pbe")
    assert ingest_labels.fn(both) == ingest_labels.fn(campaign)
    node = tree(parts["train"])
    assert node.artifact.name == "salt-pbe-train"
    assert node.artifact.metadata["level_of_theory"] == "PBE"
