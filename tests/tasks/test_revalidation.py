"""The bytes behind a promotion."""

from collections.abc import Callable

import pytest

from db import aliases, artifacts
from tasks.revalidation import accepted, verify_bytes


@pytest.fixture
def ids(recorded_json: Callable[..., str]) -> dict[str, str]:
    """A promoted checkpoint, the test set it was measured on, and its acceptance."""
    inputs = {"checkpoint": recorded_json({"weights": 1}, "checkpoint"), "test": recorded_json({"test": 1})}
    acceptance = recorded_json({"inputs": inputs}, "acceptance")
    aliases.promote("salt@champion", inputs["checkpoint"], reason="good")
    aliases.promote("salt@champion-acceptance", acceptance, reason="good")
    return {**inputs, "acceptance": acceptance}


def test_the_acceptance_is_found_by_the_promoted_name(ids: dict[str, str]) -> None:
    assert accepted.fn("salt@champion") == ids["acceptance"]
    assert accepted.fn("salt@engine") is None


def test_unchanged_bytes_are_no_finding(ids: dict[str, str]) -> None:
    assert verify_bytes.fn("salt@champion", ids["acceptance"]) == []


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
