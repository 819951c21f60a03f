"""A foundation that is a pickle, at the doors through which a person comes."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from db import aliases
from flows.cli import app


class MakesFolder:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    """The folder that exists once `foreign` was opened."""
    return tmp_path / "opened"


@pytest.fixture
def foreign(tmp_path: Path, opened: Path) -> Path:
    """A pickle that runs code when it is opened."""
    path = tmp_path / "foreign.model"
    path.write_bytes(pickle.dumps(MakesFolder(opened)))
    return path


def called(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_check_names_the_command_that_lets_a_pickle_be_opened(
    mini: Path, foreign: Path, opened: Path
) -> None:
    refused = called("check", mini, "--foundation", foreign)
    assert refused.exit_code == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("Error: foundation ")
    assert f"temper trust {foreign} --reason" in line

    said = called("trust", foreign, "--reason", "made by us").stdout
    assert f"{foreign}, sha256 " in said
    assert "To take it back: temper retract " in said
    assert called("check", mini, "--foundation", foreign).stdout == f"{mini}: ready to run\n"

    retract = said[said.index("retract ") :].split()[1]
    called("retract", retract, "--reason", "made by nobody we know")
    assert called("check", mini, "--foundation", foreign).exit_code == 1
    assert not opened.exists()


def test_a_checkpoint_of_ours_needs_no_trust(mini: Path) -> None:
    said = called("trust", mini.with_name("foundation.safetensors"), "--reason", "ours")
    assert "no trust is needed" in said.stdout
    assert aliases.history("trusted") == []


@pytest.mark.flow
def test_run_opens_a_pickle_only_where_it_is_told_to(
    mini: Path, foreign: Path, opened: Path, temper: Callable[..., Any]
) -> None:
    command = temper()
    refused = command("run", str(mini), "--foundation", str(foreign))
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: foundation ")
    assert refused.stdout == ""  # no flow was started
    assert not opened.exists()
    failed = command("run", str(mini), "--foundation", str(foreign), "--trust")
    assert "not a MACE model file" in failed.stderr
    assert opened.exists()
    (given,) = command.ask("SELECT name, reason FROM alias_event")
    assert given == {"name": "trusted", "reason": "said --trust to temper run"}
