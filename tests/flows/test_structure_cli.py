"""Structures as a person asks for them, on a real database and store."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from db import aliases, artifacts, labels, retractions, steps
from db.labels import Calculation
from flows.cli import app

GFN2 = Calculation(
    level_of_theory="GFN2-xTB", calculator="tblite", version="0.8.0", settings={"accuracy": 0.1}
)


@dataclass(frozen=True)
class Water:
    """A labelled structure."""

    structure: str
    energy: float
    n_atoms: int = 3
    formula: str = "H2O"
    forces: float = 0.5
    stress: float | None = None


ONE, TWO = Water("1a" * 32, -14.0), Water("2b" * 32, -13.5)


def temper(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def said(*arguments: str) -> list[str]:
    """The lines that a command that ends well prints."""
    result = temper(*arguments)
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.stdout.splitlines()]


@pytest.fixture
def ids(tmp_path: Path, temper_home: Path) -> dict[str, str]:
    """A dataset that a step made from labels, and an imported one that shares a structure with it."""
    (tmp_path / "labels").write_text("labels")
    (tmp_path / "more").write_text("more")
    found = {
        "labels": artifacts.import_file(tmp_path / "labels", "labels", "labels").id,
        "more": artifacts.import_file(tmp_path / "more", "dataset", "more [b]").id,
    }

    def split(work: Path) -> Mapping[str, steps.Output]:
        (work / "train").write_text("train")
        return {"train": steps.Output(path=work / "train", kind="dataset", name="salt-train")}

    done = steps.once("ingest_labels", 1, {}, {"labels": found["labels"]}, split)
    found["train"] = done.outputs["train"]
    labels.record(found["train"], GFN2, [ONE, TWO, ONE], tolerance=1e-4)
    labels.record(found["more"], Calculation(level_of_theory=None), [TWO], tolerance=1e-4)
    aliases.promote("salt@train", found["train"], reason="good")
    return found


def test_a_structure_lists_its_labels_and_how_they_were_made(ids: dict[str, str]) -> None:
    title, header, first, second = said("structure", "2b2b2b")
    assert title == f"structure H2O {TWO.structure[:12]}: 3 atoms"
    assert header.split() == ["energy", "(eV)", "level", "of", "theory", "calculator", "in", "made", "by"]
    assert first.split() == [
        "-13.500000", "GFN2-xTB", "tblite", "0.8.0", "accuracy=0.1",
        "dataset", "salt-train", ids["train"][:12], "ingest_labels", "(train)",
    ]  # fmt: skip
    assert second.split() == [
        "-13.500000", "unknown", "unknown", "dataset", "more", "[b]", ids["more"][:12], "imported",
    ]  # fmt: skip


def test_a_dataset_says_what_is_inside_and_what_it_shares(ids: dict[str, str]) -> None:
    for ref in ("salt@train", ids["train"][:10]):
        assert said("structure", ref) == [
            f"dataset salt-train {ids['train'][:12]}",
            "  2 structures in 3 frames, 6 atoms in all structures",
            "  labels: GFN2-xTB by tblite 0.8.0 accuracy=0.1",
            "shares structures  with",
            f"1                  dataset more [b] {ids['more'][:12]}",
        ]


def test_what_is_retracted_is_marked(ids: dict[str, str]) -> None:
    retractions.retract(ids["labels"], "wrong units")
    assert said("structure", "1a1a1a")[-1].endswith("tainted")
    assert "made from labels 'labels'" in said("structure", "salt@train")[3]
    assert said("structure", ids["more"])[-1].endswith("tainted")


def test_several_as_json(ids: dict[str, str]) -> None:
    structure, dataset = json.loads("\n".join(said("structure", "2b2b2b", "salt@train", "--json")))
    assert (structure["hash"], structure["n_atoms"]) == (TWO.structure, 3)
    assert [label["energy"] for label in structure["labels"]] == [-13.5, -13.5]
    assert structure["labels"][0]["calculation"]["settings"] == {"accuracy": 0.1}
    assert structure["labels"][0]["dataset"]["id"] == ids["train"]
    assert (dataset["id"], dataset["n_frames"], dataset["n_structures"]) == (ids["train"], 3, 2)
    assert [(other["n_structures"], other["dataset"]["id"]) for other in dataset["shared"]] == [
        (1, ids["more"])
    ]


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("salt@champion", "no alias 'salt@champion'; known: salt@train"),
        ("abcdef0", "no artifact has an id that starts with 'abcdef0'"),
        ("labels", "the structures of '"),
    ],
)
def test_what_has_nothing_inside_is_one_line(ids: dict[str, str], ref: str, message: str) -> None:
    result = temper("structure", ids.get(ref, ref))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {message}")
