"""`temper export` as a person types it: from a file, and from the record."""

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from db import aliases, artifacts, retractions
from flows.cli import app
from models import potentials
from models.distillation.students import STUDENT
from models.graphs import graph
from models.potentials import Potential
from models.systems.molecules import water


def export(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """The message of a command that ended as bad input should: one line, exit code 1."""
    result = export(*arguments)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fast student of water that has learnt nothing yet."""
    molecule = water()
    molecule.arrays["REF_forces"] = molecule.positions.copy()
    network = STUDENT.validate_python({"kind": "ace", "channels": 4}).network(
        {1: -13.6, 8: -2041.8}, [graph(molecule, [1, 8], 5.0)], seed=0
    )
    said = {"name": "water-engine", "licence": "CC-BY-4.0"}
    student = Potential(network=network.eval(), level_of_theory={"target": "GFN2-xTB"}, provenance=said)
    path = tmp_path_factory.mktemp("checkpoint") / "student.safetensors"
    potentials.save(student, path)
    return path


@pytest.fixture
def promoted(checkpoint: Path, temper_home: Path) -> str:
    """The id of the checkpoint on record, promoted as water@engine."""
    on_record = artifacts.import_file(checkpoint, "checkpoint", "student", {"licence": "CC-BY-4.0"})
    aliases.promote("water@engine", on_record.id, reason="test")
    return on_record.id


def test_a_file_becomes_a_folder_that_explains_itself(checkpoint: Path, tmp_path: Path) -> None:
    result = export(checkpoint, "--to", tmp_path / "out", "--formats", "torchscript, lammps")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "card.json",
        "water-engine.safetensors",
        "water-engine.torchscript.pt",
        "water-engine.mliap.pt",
    }
    head, *rows, last = result.stdout.splitlines()
    assert head.split() == ["format", "file", "forces", "differ", "by,", "eV/Å"]
    assert [row.split()[0] for row in rows] == ["torchscript", "lammps"]
    assert last == f"How to use them: {tmp_path / 'out' / 'README.md'}"


def test_what_is_promoted_is_exported_by_its_alias(promoted: str, checkpoint: Path, tmp_path: Path) -> None:
    assert export("water@engine", "--to", tmp_path / "out", "--formats", "ase").exit_code == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["source_sha256"] == promoted == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert card["licence"] == "CC-BY-4.0"


def test_what_cannot_be_exported_is_one_line(promoted: str, checkpoint: Path, tmp_path: Path) -> None:
    to = ["--to", tmp_path / "out"]
    assert "no format gromacs; there are ase" in refused(checkpoint, *to, "--formats", "gromacs")
    assert "no head 'pbe'; there is target" in refused(checkpoint, *to, "--head", "pbe")
    assert "missing.safetensors: no such file" in refused("missing.safetensors", *to)
    assert "known: water@engine" in refused("water@champion", *to)
    (tmp_path / "notes.txt").write_text("notes")
    assert "not a readable safetensors file" in refused(tmp_path / "notes.txt", *to)
    labels = artifacts.import_file(tmp_path / "notes.txt", "dataset", "notes")
    assert "dataset 'notes'" in refused(labels.id, *to)
    assert "empty folder; name another one" in refused(checkpoint, "--to", tmp_path)
    retractions.retract(promoted, "wrong units")
    assert refused("water@engine", *to).endswith("wrong units")
    assert not (tmp_path / "out").exists()
