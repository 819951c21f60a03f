"""The command as a person types it, on a real database and store."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from db import aliases, artifacts, steps
from flows.cli import app

CAMPAIGN = """
name: salt
labels:
  path: labels.extxyz
  level_of_theory: GFN2-xTB
  units: {energy: eV, forces: eV/Å}
candidates:
  - kind: naive
"""


def temper(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def refused(result: Result) -> str:
    """The message of a command that ended as bad input should: one line, exit code 1, nothing else."""
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.fixture
def engine(tmp_path: Path, temper_home: Path) -> str:
    """A student distilled from labels and a foundation, promoted as salt@engine."""
    inputs = {}
    for role, metadata in {
        "labels": {"level_of_theory": "GFN2-xTB", "licence": "CC-BY-4.0"},
        "foundation": {"level_of_theory": "GFN1-xTB", "licence": "MIT"},
    }.items():
        (tmp_path / role).write_text(role)
        inputs[role] = artifacts.import_file(tmp_path / role, role, f"{role} [of salt]", metadata).id

    def compute(kind: str, roles: Sequence[str], optimisation: dict[str, float]) -> str:
        def write(work: Path) -> dict[str, steps.Output]:
            (work / kind).write_text(kind)
            return {"model": steps.Output(path=work / kind, kind="checkpoint", name=kind)}

        done = steps.once(
            kind,
            1,
            {"optimisation": optimisation, "epochs": 20},
            {r: inputs[r] for r in roles},
            write,
            seed=7,
        )
        inputs[kind] = done.outputs["model"]
        return inputs[kind]

    compute("specialist", ["labels", "foundation"], {"learning_rate": 0.01})
    student = compute("student", ["specialist", "labels"], {"learning_rate": 0.02})
    aliases.promote("salt@engine", student, reason="3.4 times faster")
    return student


def test_lineage_goes_back_to_the_labels_and_the_foundation(engine: str) -> None:
    lines = temper("lineage", "salt@engine").stdout
    assert f"checkpoint student {engine[:12]}" in lines
    assert "specialist: checkpoint specialist" in lines
    assert "foundation: foundation foundation [of salt]" in lines
    assert "GFN1-xTB · MIT" in lines
    assert "GFN2-xTB · CC-BY-4.0" in lines
    assert "student v1 · seed 7" in lines
    assert "learning_rate=0.02" in lines
    assert lines.count("(shown above)") == 1  # the labels, which both steps used


def test_lineage_as_json_has_everything(engine: str) -> None:
    node = json.loads(temper("lineage", engine[:10], "--json").stdout)
    assert node["id"] == engine
    assert node["step"]["parameters"] == {"epochs": 20, "optimisation": {"learning_rate": 0.02}}
    assert node["step"]["software"]["python"]
    assert {parent["role"] for parent in node["parents"]} == {"labels", "specialist"}


def test_lineage_of_something_unknown_is_one_line(temper_home: Path) -> None:
    assert "salt@engine" in refused(temper("lineage", "salt@engine"))


def test_aliases_say_what_since_when_and_why(engine: str) -> None:
    first, second = temper("aliases").stdout.splitlines()
    assert first == f"salt@engine checkpoint student {engine[:12]}"
    assert second.strip().startswith("since ")
    assert second.endswith(": 3.4 times faster")


def test_no_aliases_is_an_answer_too(temper_home: Path) -> None:
    assert temper("aliases").stdout == "Nothing is promoted yet.\n"


def test_verify_finds_a_changed_file(engine: str) -> None:
    assert temper("verify").stdout == "Everything on record is there and unchanged.\n"
    file = artifacts.path(engine)
    file.chmod(0o600)
    file.write_text("something else")
    result = temper("verify")
    assert result.exit_code == 1
    assert result.stdout.startswith("changed checkpoint 'student'")


def test_report_prints_the_path_of_the_last_one(tmp_path: Path, temper_home: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<html></html>")
    aliases.promote("salt@report", artifacts.import_file(page, "report", "salt").id, reason="run finished")
    assert Path(temper("report", "salt").stdout.strip()).read_text() == "<html></html>"
    assert "ice@report" in refused(temper("report", "ice"))


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_campaign_that_is_not_there_is_one_line_before_anything_starts(command: str) -> None:
    result = temper(command, "pepper")
    assert "no campaign named 'pepper'" in refused(result)
    assert "server" not in result.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CAMPAIGN, "labels.extxyz: no such file"),
        (CAMPAIGN.replace("units:", "unit:"), "labels.unit: unknown key"),
        (CAMPAIGN.replace("energy: eV, ", ""), "labels.units.energy: is missing"),
    ],
)
def test_a_mistake_in_a_campaign_names_the_place(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "salt.yaml"
    file.write_text(text)
    result = temper("check", str(file))
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("db.aliases.all", broken)
    assert isinstance(temper("aliases").exception, ZeroDivisionError)


def test_help_comes_without_the_heavy_imports() -> None:
    heavy = ("torch", "ase", "numpy", "prefect", "sqlalchemy")
    code = f"import sys, flows.cli; print([name for name in {heavy} if name in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_any_field_of_a_campaign_can_be_set_on_the_command_line() -> None:
    assert (
        "ready to run" in temper("check", "sn2", "--set", "split.valid=0.2", "--set", "e0s={ridge: 2}").stdout
    )
    assert "split.by_what: unknown key" in refused(temper("check", "sn2", "--set", "split.by_what=xi"))
    wrong = temper("check", "sn2", "--set", "split.by")
    assert wrong.exit_code == 2
    assert "give FIELD=VALUE" in wrong.stderr
