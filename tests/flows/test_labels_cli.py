"""`temper labels`, with and without a campaign that waits."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from ase.units import Bohr, Hartree
from typer.testing import CliRunner, Result

from db import artifacts
from flows.labels_cli import app
from models.datasets import DataError, write_structures
from models.external.requests import FOLDER, Request, ask
from models.external.results import OtherLevel
from models.reference.external import External
from models.reference.xtb import relabelled

ROOT = Path(__file__).parents[2]

CAMPAIGN = """
import sys
from prefect import flow
from models.reference.external import External
from tasks.external_labels import obtain

@flow(name="round")
def round_(selection):
    calculator = External(level_of_theory="GFN2-xTB", poll_seconds=0.2)
    print("labels", len(obtain(calculator, selection, "round-1").labels))

round_(sys.argv[1])
"""


def temper(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["labels", *map(str, arguments)])


@pytest.fixture
def waters() -> list[Atoms]:
    frames = [molecule("H2O") for _ in range(3)]
    for index, frame in enumerate(frames):
        frame.rattle(0.05, seed=index)
    return frames


@pytest.fixture
def request_(temper_home: Path, waters: list[Atoms]) -> Request:
    """A request that no campaign waits for just now."""
    return ask(temper_home / FOLDER / "salt-1234", "salt", External(level_of_theory="GFN2-xTB"), waters)


def test_nothing_waits_in_an_empty_home() -> None:
    assert temper("waiting").output == "No labels are waited for.\n"


def test_what_waits_is_listed_until_it_is_there(
    request_: Request, waters: list[Atoms], tmp_path: Path
) -> None:
    assert "salt-1234" in temper("waiting").output
    write(tmp_path / "some.xyz", [relabelled(waters[0], "GFN2-xTB"), molecule("CO2")], format="extxyz")
    said = temper("import", "salt", tmp_path / "some.xyz")
    assert said.exit_code == 0
    for line in (
        "Taken: 1 labels, 0 failures.",
        f"{tmp_path}/some.xyz, frame 1: has no energy and no forces",
        "salt-1234: 1 of 3 labels are there, 0 failed, 2 are waited for.",
    ):
        assert line in said.output
    write(tmp_path / "none.xyz", molecule("CO2"), format="extxyz")
    assert temper("import", "salt", tmp_path / "none.xyz").exit_code == 1
    said = temper("import", "salt", "--complete")
    assert "1 of 3 labels are there, 2 failed, 0 are waited for." in said.output
    assert temper("waiting").output == "No labels are waited for.\n"


def test_other_units_are_said(request_: Request, waters: list[Atoms], tmp_path: Path) -> None:
    label = relabelled(waters[0], "GFN2-xTB")
    energy = label.info["REF_energy"]
    label.info["REF_energy"] = energy / Hartree
    label.arrays["REF_forces"] *= Bohr / Hartree
    write(tmp_path / "some.xyz", label, format="extxyz")
    assert temper("import", "salt", tmp_path / "some.xyz", "--units", "Hartree,Hartree/Bohr").exit_code == 0
    (file,) = request_.results.iterdir()
    assert read(file).info["REF_energy"] == pytest.approx(energy, abs=1e-6)


def test_nothing_is_taken_of_another_level(request_: Request, waters: list[Atoms], tmp_path: Path) -> None:
    write(tmp_path / "some.xyz", relabelled(waters[0], "GFN2-xTB"), format="extxyz")
    said = temper("import", "salt", tmp_path / "some.xyz", "--level-of-theory", "GFN1-xTB")
    assert isinstance(said.exception, OtherLevel)
    assert "is at GFN1-xTB, and GFN2-xTB is asked for" in str(said.exception)


def test_a_request_that_is_not_there_is_named(request_: Request) -> None:
    said = temper("import", "pepper", "some.xyz")
    assert isinstance(said.exception, DataError)
    assert "there are: salt-1234" in str(said.exception)
    assert "give files to import, or --complete" in temper("import", "salt").output


@pytest.mark.flow
def test_a_waiting_run_says_so_and_goes_on_when_labels_are_imported(
    prefect_server: Any, temper_home: Path, waters: list[Atoms], tmp_path: Path
) -> None:
    write_structures(tmp_path / "selection.extxyz", waters)
    selection = artifacts.import_file(tmp_path / "selection.extxyz", "selection", "selection", {}).id
    env = {**prefect_server.env, "PREFECT_API_URL": prefect_server.url, "TEMPER_HOME": str(temper_home)}
    command = [sys.executable, "-c", CAMPAIGN, selection]
    campaign = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    query = {"flow_runs": {"state": {"name": {"any_": ["Waiting for labels"]}}}}

    def waiting() -> list[dict[str, Any]]:
        assert campaign.poll() is None
        time.sleep(0.2)
        found: list[dict[str, Any]] = prefect_server.post("/flow_runs/filter", query)
        return found

    while not (runs := waiting()):
        pass
    (run,) = runs
    assert run["state"]["message"].startswith("0 of 3 labels; results are looked for in ")
    for index, water in enumerate(waters):
        write(tmp_path / f"{index}.xyz", relabelled(water, "GFN2-xTB"), format="extxyz")
    assert temper("import", "round-1", tmp_path / "0.xyz").exit_code == 0
    while not waiting()[0]["state"]["message"].startswith("1 of 3 labels"):
        pass
    made = prefect_server.post("/artifacts/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    page = next(one for one in reversed(made) if one["key"] == "labels-round-1" and "1 of 3" in one["data"])
    assert "temper labels import round-1-" in page["data"]
    assert 33 < next(one["data"] for one in made if one["type"] == "progress") < 34
    assert temper("import", "round-1", tmp_path / "1.xyz", tmp_path / "2.xyz").exit_code == 0
    said, _ = campaign.communicate()
    assert said.endswith("labels 3\n")
    (run,) = prefect_server.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert run["state"]["type"] == "COMPLETED"
