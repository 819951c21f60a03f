"""One label: what decides it, what is on record with it, and what is not."""

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

from db import artifacts
from models.permissions import NotPermitted
from models.reference import Limits, ReferenceCalculator, Tblite, Unavailable, files
from models.reference.command import Command
from tasks.labelling import LABEL, label, prepare
from tasks.records import Recipe, made
from tasks.reproduction_plan import prepare as plan_reproduction

LIMITS = Limits(seconds=300.0)

PROGRAM = """
import sys, time
while time.process_time() < 0.3:
    pass
print("no convergence in 50 cycles" if "1" in sys.argv[1] else "fine")
with open("structure.extxyz") as given, open("answer.extxyz", "w") as answer:
    number, _, *atoms = given.read().splitlines()
    print(number, 'Properties=species:S:1:pos:R:3:forces:R:3 energy=-2.5 pbc="F F F"', sep="\\n", file=answer)
    for atom in atoms:
        print(*atom.split()[:4], 0.0, 0.0, 0.5, file=answer)
"""


@pytest.fixture
def selected(tmp_path: Path, temper_home: Path) -> Callable[..., str]:
    """Put structures on record; the id of the file."""

    def put(*frames: Atoms) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.extxyz"
        write(path, list(frames))
        return artifacts.import_file(path, "dataset", path.stem).id

    return put


@pytest.fixture
def program(tmp_path: Path) -> Command:
    """A program that takes its time, and does not converge where the charge is 1."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return Command(
        level_of_theory="made up",
        run=f"{sys.executable} {path} {{charge}}",
        output="answer.extxyz",
        output_format="extxyz",
        unconverged="no convergence.*",
    )


def labelled(calculator: ReferenceCalculator, selection: str, index: int = 0) -> dict[str, str]:
    (name,) = prepare(calculator, selection)[index : index + 1]
    return dict(label.fn(calculator, selection, index, name, LIMITS))


def attempts(home: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(home / "temper.db")) as record:
        return list(record.execute("SELECT status, attempt FROM step WHERE kind = 'label'"))


def water(**info: Any) -> Atoms:
    atoms = molecule("H2O")
    atoms.info = info
    return atoms


def test_a_label_is_on_record_with_all_that_decided_it(
    selected: Callable[..., str], program: Command
) -> None:
    ids = labelled(program, selected(water(walker="dynamics-1", arm="control")))
    assert set(ids) == {"label", "log"}
    found = artifacts.get(ids["label"])
    assert (found.kind, found.name.split("-")[0]) == ("label", "H2O")
    said = dict(found.metadata)
    # The program's own 0.3 s of CPU time are in it.
    assert said.pop("cpu_seconds") > 0.3
    assert said.pop("seconds") > 0.0
    assert said == {"level_of_theory": "made up", "calculator": "command", "version": "", "formula": "H2O"}
    frame = read(artifacts.path(ids["label"]))
    assert frame.info["REF_energy"] == -2.5
    assert np.array_equal(frame.arrays["REF_forces"], np.tile([0.0, 0.0, 0.5], (3, 1)))
    assert not frame.info.keys() & {"walker", "arm"}
    assert artifacts.path(ids["log"]).read_text().endswith("fine\n")
    (step,) = plan_reproduction(ids["label"]).steps
    assert step.parameters["calculator"] == program.model_dump(mode="json")
    assert step.parameters["structure"]["charge"] == 0
    assert step.parameters["structure"]["multiplicity"] == 1


def test_what_does_not_converge_is_done_and_no_label(
    selected: Callable[..., str], program: Command, temper_home: Path
) -> None:
    selection = selected(water(charge=1))
    ids = labelled(program, selection)
    assert set(ids) == {"failure", "log"}
    assert artifacts.get(ids["failure"]).kind == "failed-label"
    content = json.loads(artifacts.path(ids["failure"]).read_text())
    assert (content["error"], content["reason"]) == ("NotConverged", "no convergence in 50 cycles")
    assert content["level_of_theory"] == "made up"
    assert content["structure"]["numbers"] == [8, 1, 1]
    assert content["structure"]["charge"] == 1
    assert labelled(program, selection) == ids
    assert attempts(temper_home) == [("done", 1)]


def test_only_what_a_structure_is_decides(selected: Callable[..., str], temper_home: Path) -> None:
    moved = water(walker="another", REF_energy=1.0)
    moved.positions += 1e-10
    moved.arrays["uncertainty"] = np.ones(3)
    same = [water(), moved, water(charge=0), water(charge=0.0, multiplicity=1)]
    others = [water(charge=1), water(multiplicity=3)]
    selection = selected(*same, *others)
    ids = [labelled(Tblite(), selection, index)["label"] for index in range(6)]
    assert ids[:4] == ids[:1] * 4
    assert len(set(ids)) == 3
    assert attempts(temper_home) == [("done", 1)] * 3
    assert labelled(Tblite(method="GFN1-xTB"), selection)["label"] not in ids


def test_a_label_comes_out_the_same_elsewhere_but_only_of_the_same_version(
    selected: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = labelled(Tblite(), selected(water()))
    (step,) = plan_reproduction(ids["label"]).steps
    names = dict.fromkeys(step.generated, "again")
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "elsewhere"))
    again = made(LABEL, Recipe(parameters=step.parameters, inputs={}, names=names))
    assert again["label"] == ids["label"]
    older = {**step.parameters, "version": "0.1"}
    with pytest.raises(Unavailable, match=r"tblite 0\.1 is asked for, and .* is installed here"):
        made(LABEL, Recipe(parameters=older, inputs={}, names=names))


def test_a_program_runs_only_where_somebody_allows_it(
    program: Command, selected: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = selected(water())
    told = tmp_path / "told"
    spying = program.model_copy(update={"version_command": f"touch {told}"})
    recipe = Recipe(
        parameters={
            "calculator": spying.model_dump(mode="json"),
            "version": "",
            "structure": files.content(water()),
        },
        inputs={},
        names={},
    )
    for ask in (  # as a campaign does; as a worker elsewhere does; as `temper reproduce` of an archive does
        lambda: prepare(spying, selection),
        lambda: label.fn(spying, selection, 0, "water", LIMITS),
        lambda: LABEL.compute(recipe, tmp_path),
    ):
        with pytest.raises(NotPermitted, match=r"calculator command: would start 'touch'.*TEMPER_PROGRAMS="):
            ask()
    assert not told.exists()
    monkeypatch.setenv("TEMPER_PROGRAMS", f"touch, {sys.executable}")
    prepare(spying, selection)
    assert told.exists()
