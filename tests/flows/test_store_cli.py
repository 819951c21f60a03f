"""The commands on the store as a person types them, on a hand-made record."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from db import aliases, artifacts
from db.steps import Output, once
from db.store import store
from flows.cli import app


def temper(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=answer)


def refused(result: Result) -> str:
    """The message of a command that ended as bad input should: one line, exit code 1."""
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.fixture
def engine(tmp_path: Path, temper_home: Path) -> str:
    """A student of some labels, promoted as salt@engine."""
    (tmp_path / "labels").write_text("labels")
    labels = artifacts.import_file(tmp_path / "labels", "dataset", "labels [of salt]")

    def compute(work: Path) -> Mapping[str, Output]:
        (work / "model").write_text("student")
        return {"model": Output(path=work / "model", kind="checkpoint", name="student")}

    made = once("distil", 1, {}, {"data": labels.id}, compute).outputs["model"]
    aliases.promote("salt@engine", made, reason="test")
    return made


@pytest.fixture
def orphan(engine: str, tmp_path: Path) -> Path:
    """An old file in the store that nothing on record refers to."""
    (tmp_path / "orphan").write_text("x" * 2000)
    path = store().path(store().put(tmp_path / "orphan", ".xyz"))
    os.utime(path, (0, 0))
    return path


def test_nothing_to_remove_is_an_answer_too(engine: str) -> None:
    assert temper("gc").stdout == "There is nothing to remove.\n"


def test_gc_shows_sizes_and_asks(orphan: Path) -> None:
    result = temper("gc", answer="n\n")
    assert result.exit_code == 1
    title, part, question = result.stdout.splitlines()[:3]
    assert title == "Files that nothing on record refers to: 1, 2.0 kB"
    assert part == f"     2.0 kB  {orphan}"
    assert question.startswith("Remove all of this, 2.0 kB? [y/N]:")
    assert orphan.exists()
    assert temper("gc", answer="y\n").stdout.endswith("Removed 2.0 kB.\n")
    assert not orphan.exists()


def test_gc_with_yes_does_not_ask(orphan: Path) -> None:
    result = temper("gc", "--yes")
    assert result.exit_code == 0
    assert "Remove all" not in result.stdout
    assert not orphan.exists()


def test_gc_spares_what_is_young(engine: str, tmp_path: Path) -> None:
    (tmp_path / "spare").write_text("spare")
    spare = artifacts.import_file(tmp_path / "spare", "dataset", "spare")
    assert temper("gc", "--unreachable", "--yes").stdout == "There is nothing to remove.\n"
    assert artifacts.path(spare.id).exists()


def test_gc_on_another_database_is_refused(
    orphan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_DATABASE_URL", f"sqlite:///{tmp_path}/other.db")
    assert "nothing is on record: check TEMPER_DATABASE_URL" in refused(temper("gc", "--yes"))
    assert orphan.exists()


def test_verify_names_an_orphan(orphan: Path) -> None:
    result = temper("verify")
    assert result.exit_code == 1
    assert result.stdout == f"orphan {orphan}: nothing on record refers to it; temper gc removes it\n"


def test_push_and_pull(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(tmp_path / "salt.tar")
    pushed = temper("push", "salt@engine", engine[:10], file)
    assert pushed.stdout.splitlines()[0].endswith("Artifacts: 2, steps: 1.")
    assert pushed.stdout.splitlines()[1] == "Aliases: salt@engine"
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "elsewhere"))
    assert temper("pull", file).stdout == ("New artifacts: 2, new steps: 1.\nAliases set: salt@engine\n")
    assert aliases.resolve("salt@engine").id == engine
    assert temper("pull", file).stdout == "New artifacts: 0, new steps: 0.\n"


def test_pull_asks_what_becomes_of_aliases(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "salt.tar")
    temper("push", "salt@engine", file)
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "elsewhere"))
    (tmp_path / "mine").write_text("mine")
    mine = artifacts.import_file(tmp_path / "mine", "checkpoint", "mine")
    aliases.promote("salt@engine", mine.id, reason="test")
    assert "salt@engine stands for" in refused(temper("pull", file))
    assert "--aliases keep or --aliases replace" in refused(temper("pull", file))
    kept = temper("pull", file, "--aliases", "keep")
    assert kept.stdout.endswith("Aliases kept as they are here: salt@engine\n")
    replaced = temper("pull", file, "--aliases", "replace")
    assert replaced.stdout.endswith("Aliases set: salt@engine\n")
    assert temper("pull", file, "--aliases", "both").exit_code == 2


def test_a_pulled_retraction_is_said(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temper("retract", "salt@engine", "--reason", "wrong [cutoff]")
    temper("push", engine, str(tmp_path / "salt.tar"))
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "elsewhere"))
    said = temper("pull", str(tmp_path / "salt.tar")).stdout
    assert "salt@engine is not set: retracted on " in said
    assert "wrong [cutoff]" in said


def test_what_cannot_be_pushed_or_pulled_is_one_line(engine: str, tmp_path: Path) -> None:
    assert "no alias 'salt@champion'" in refused(temper("push", "salt@champion", str(tmp_path / "salt.tar")))
    assert not (tmp_path / "salt.tar").exists()
    (tmp_path / "text").write_text("text")
    assert "cannot be read as an archive" in refused(temper("pull", str(tmp_path / "text")))
