"""The bytes behind a promotion."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from db import aliases, artifacts
from db.retractions import reinstate, retract
from db.steps import Output, once
from tasks.revalidation import accepted, verify_bytes


def content(checkpoint: str, test: str) -> dict[str, Any]:
    """An acceptance that was measured on a test set."""
    return {"checkpoint": checkpoint, "files": {"test": test}, "findings": {}}


@pytest.fixture
def ids(recorded_json: Callable[..., str]) -> dict[str, str]:
    """A promoted checkpoint, the test set it was measured on, and its acceptance."""
    inputs = {"checkpoint": recorded_json({"weights": 1}, "checkpoint"), "test": recorded_json({"test": 1})}
    acceptance = recorded_json(content(**inputs), "acceptance")
    aliases.promote("salt@champion", inputs["checkpoint"], reason="good")
    aliases.promote("salt@champion-acceptance", acceptance, reason="good")
    return {**inputs, "acceptance": acceptance}


def test_the_acceptance_is_found_by_the_promoted_name(ids: dict[str, str]) -> None:
    assert accepted.fn("salt@champion") == ids["acceptance"]
    assert accepted.fn("salt@engine") is None


def test_unchanged_bytes_are_no_finding(ids: dict[str, str]) -> None:
    assert verify_bytes.fn("salt@champion", ids["acceptance"]) == []


def test_an_acceptance_of_an_earlier_version_is_said_to_be_one(recorded_json: Callable[..., str]) -> None:
    acceptance = recorded_json({"inputs": {}, "measured": {}}, "acceptance")
    (finding,) = verify_bytes.fn("salt@champion", acceptance)
    assert "run its campaign again" in finding


@pytest.mark.parametrize("role", ["checkpoint", "test", "acceptance"])
def test_a_change_in_anything_behind_it_is_found(role: str, ids: dict[str, str]) -> None:
    file = artifacts.path(ids[role])
    file.chmod(0o600)
    file.write_text("something else")
    (finding,) = verify_bytes.fn("salt@champion", ids["acceptance"])
    assert str(file) in finding


def test_a_name_moved_past_the_gate_is_found(ids: dict[str, str], recorded_json: Callable[..., str]) -> None:
    aliases.promote("salt@champion", recorded_json({"weights": 2}, "checkpoint"), reason="by hand")
    (finding,) = verify_bytes.fn("salt@champion", ids["acceptance"])
    assert f"{ids['checkpoint'][:12]} is what was accepted" in finding


@pytest.mark.parametrize("role", ["checkpoint", "test", "acceptance"])
def test_a_retraction_of_anything_behind_it_is_found(role: str, ids: dict[str, str]) -> None:
    retract(ids[role], "wrong units")
    (finding,) = verify_bytes.fn("salt@champion", ids["acceptance"])
    assert finding.startswith("rests on ")
    assert f"({ids[role][:12]}), which was retracted" in finding
    assert finding.endswith(": wrong units")
    reinstate(ids[role])
    assert verify_bytes.fn("salt@champion", ids["acceptance"]) == []


def test_one_retraction_behind_several_inputs_is_found_once(
    recorded_json: Callable[..., str],
) -> None:
    labels = recorded_json({"labels": 1}, "labels")

    def compute(work: Path) -> dict[str, Output]:
        for part in ("checkpoint", "test"):
            (work / part).write_text(part)
        return {part: Output(path=work / part, kind=part, name=part) for part in ("checkpoint", "test")}

    inputs = dict(once("make", 1, {}, {"labels": labels}, compute).outputs)
    aliases.promote("salt@champion", inputs["checkpoint"], reason="good")
    acceptance = recorded_json(content(**inputs), "acceptance")
    retract(labels, "wrong units")
    (finding,) = verify_bytes.fn("salt@champion", acceptance)
    assert labels[:12] in finding
