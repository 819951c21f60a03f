"""What stands behind a promotion: its bytes, its numbers, what computed them, and what it was before."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from db import agent, aliases, artifacts
from db.errors import BadAlias, ForbiddenLicence, Retracted
from db.lineage import step_of
from db.retractions import reinstate, retract
from db.steps import Output, once
from tasks.revalidation import (
    Earlier,
    Health,
    accepted,
    earlier,
    judged,
    misplaced,
    move_back,
    moves_back,
    verify_bytes,
)


def content(checkpoint: str, test: str, **more: Any) -> dict[str, Any]:
    """An acceptance that was measured on a test set."""
    empty = {"compared": {}, "verdicts": [], "role": "champion", "forbidden_licences": []}
    return {"checkpoint": checkpoint, "files": {"test": test}, "findings": {}, **empty, **more}


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


def damage(id_: str) -> Path:
    """Change the bytes of a file on record."""
    file = artifacts.path(id_)
    file.chmod(0o600)
    file.write_text("something else")
    return file


@pytest.mark.parametrize("role", ["checkpoint", "test", "acceptance"])
def test_a_change_in_anything_behind_it_is_found(role: str, ids: dict[str, str]) -> None:
    file = damage(ids[role])
    (finding,) = verify_bytes.fn("salt@champion", ids["acceptance"])
    assert str(file) in finding


def test_a_name_moved_past_the_gate_is_found(ids: dict[str, str], recorded_json: Callable[..., str]) -> None:
    assert misplaced("salt@champion", ids["acceptance"]) == []
    aliases.promote("salt@champion", recorded_json({"weights": 2}, "checkpoint"), reason="by hand")
    (finding,) = misplaced("salt@champion", ids["acceptance"])
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


def step(kind: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Mapping[str, str]:
    """Role to id of what a step made: role to the text of each."""

    def compute(work: Path) -> dict[str, Output]:
        for role, text in outputs.items():
            (work / role).write_text(text)
        return {role: Output(path=work / role, kind=role, name=role) for role in outputs}

    return once(kind, 1, {}, inputs, compute).outputs


def test_one_retraction_behind_several_inputs_is_found_once(recorded_json: Callable[..., str]) -> None:
    labels = recorded_json({"labels": 1}, "labels")
    inputs = step("make", {"labels": labels}, {"checkpoint": "weights", "test": "structures"})
    aliases.promote("salt@champion", inputs["checkpoint"], reason="good")
    acceptance = recorded_json(content(**inputs), "acceptance")
    retract(labels, "wrong units")
    (finding,) = verify_bytes.fn("salt@champion", acceptance)
    assert labels[:12] in finding


def accuracy(*errors: float) -> dict[str, Any]:
    """What `accuracy` may have found: a force error for every trajectory."""
    samples = {f"t{k}": [error, 1.0] for k, error in enumerate(errors)}
    return {"figures": {"forces": {"value": sum(errors) / len(errors), "interval": None, "samples": samples}}}


VERDICT = {
    "figure": "accuracy.forces", "at_least": False, "threshold": 30.0, "relative_to": None, "passed": True
}  # fmt: skip


@pytest.fixture
def measured(ids: dict[str, str], recorded_json: Callable[..., str]) -> Callable[..., Health]:
    """The health of a checkpoint, by the finding it was accepted with and that of tonight."""

    def health(before: dict[str, Any], now: dict[str, Any]) -> Health:
        findings = {"accuracy": recorded_json(before, "finding")}
        said = content(ids["checkpoint"], ids["test"], findings=findings, verdicts=[VERDICT])
        tonight = {"accuracy": recorded_json(now, "finding")}
        return judged(recorded_json(said, "acceptance"), tonight, 0.02)[0]

    return health


def test_what_comes_out_the_same_is_said_to_be_so_bit_for_bit(measured: Callable[..., Health]) -> None:
    health = measured(accuracy(20, 25, 22), accuracy(20, 25, 22))
    assert str(health) == "unchanged and as accepted, bit for bit"
    assert not health.unfit


def test_noise_is_a_note_and_no_alarm(measured: Callable[..., Health]) -> None:
    health = measured(accuracy(20, 25, 22), accuracy(24, 22, 24))
    assert not health.alarms
    assert str(health) == "unchanged and as accepted; 1 of its 1 figures differs within the noise"


def test_a_worse_number_and_a_lost_line_of_the_gate_are_alarms(measured: Callable[..., Health]) -> None:
    health = measured(accuracy(20, 25, 22), accuracy(32, 37.5, 33.5))
    lost, changed = health.alarms
    assert lost == "no longer passes its gate: force MAE: 34.33 meV/Å, asked for at most 30 meV/Å"
    assert changed.startswith("force MAE, meV/Å (accuracy): was 22.33, is 34.33 (change +")
    assert changed.endswith("samples) (worse)")
    assert health.unfit


def test_a_better_number_is_an_alarm_but_no_reason_to_move_anything(measured: Callable[..., Health]) -> None:
    health = measured(accuracy(20, 25, 22), accuracy(10, 14.9, 12.1))
    (changed,) = health.alarms
    assert changed.endswith("(better)")
    assert not health.unfit


def test_another_environment_is_said_in_words_and_is_no_alarm(
    ids: dict[str, str], recorded_json: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    then = {**agent.software(), "torch": "2.12.0", "machine": {**agent.software()["machine"], "gpus": []}}
    with monkeypatch.context() as earlier_machine:
        earlier_machine.setattr("db.steps.software", lambda: then)
        made = step("check", {}, {"finding": '{"figures": {}}'})["finding"]
    said = content(ids["checkpoint"], ids["test"], findings={"accuracy": made})
    now = {**agent.software(), "machine": {**agent.software()["machine"], "gpus": ["H100", "H100"]}}
    monkeypatch.setattr(agent, "software", lambda: now)
    health, _ = judged(recorded_json(said, "acceptance"), {"accuracy": made}, 0.02)
    assert not health.alarms
    assert str(health) == (
        "unchanged and as accepted, bit for bit; since it was accepted: GPUs none → H100, H100, "
        f"torch 2.12.0 → {now['torch']}"
    )


def test_the_step_behind_an_artifact_is_found(ids: dict[str, str]) -> None:
    found = step_of(step("make", {}, {"finding": "{}"})["finding"])
    assert found is not None
    assert found.software["python"] == sys.version.partition(" ")[0]
    assert step_of(ids["test"]) is None


@pytest.fixture
def before(ids: dict[str, str], recorded_json: Callable[..., str]) -> dict[str, str]:
    """A second checkpoint, promoted after that of `ids`, under a campaign that moves names back."""
    checkpoint = recorded_json({"weights": 2}, "checkpoint")
    night = {"night": {"move_back": True}, "forbidden_licences": ["ASL"]}
    acceptance = recorded_json(content(checkpoint, ids["test"], **night), "acceptance")
    aliases.promote("salt@champion-acceptance", acceptance, reason="better")
    aliases.promote("salt@champion", checkpoint, reason="better")
    return {"checkpoint": checkpoint, "acceptance": acceptance}


def test_a_name_moves_back_with_its_acceptance_and_the_reason_is_on_record(
    ids: dict[str, str], before: dict[str, str]
) -> None:
    assert moves_back(before["acceptance"])
    assert not moves_back(ids["acceptance"])
    (to,) = earlier("salt@champion", before["acceptance"])
    assert (to.acceptance, to.checkpoint) == (ids["acceptance"], ids["checkpoint"])
    move_back.fn("salt@champion", before["acceptance"], to, "worse")
    assert aliases.resolve("salt@champion").id == ids["checkpoint"]
    assert aliases.resolve("salt@champion-acceptance").id == ids["acceptance"]
    assert aliases.history("salt@champion")[-1].reason == "worse"
    assert [one.checkpoint for one in earlier("salt@champion", ids["acceptance"])] == [before["checkpoint"]]


def test_what_is_damaged_is_nothing_to_move_to_nor_does_it_say_whether_to(
    ids: dict[str, str], before: dict[str, str]
) -> None:
    damage(ids["acceptance"])
    assert list(earlier("salt@champion", before["acceptance"])) == []
    damage(before["acceptance"])
    assert not moves_back(before["acceptance"])


def test_nothing_moves_where_somebody_has_promoted_something_else_meanwhile(
    ids: dict[str, str], before: dict[str, str], recorded_json: Callable[..., str]
) -> None:
    (to,) = earlier("salt@champion", before["acceptance"])
    newest = recorded_json({"weights": 3}, "checkpoint")
    aliases.promote("salt@champion", newest, reason="best")
    with pytest.raises(BadAlias, match=f"stands for {newest[:12]} by now"):
        move_back.fn("salt@champion", before["acceptance"], to, "worse")
    assert aliases.resolve("salt@champion").id == newest
    assert aliases.resolve("salt@champion-acceptance").id == before["acceptance"], "both, or neither"


def test_nothing_moves_to_what_is_retracted_or_forbidden(
    ids: dict[str, str], before: dict[str, str], recorded_json: Callable[..., str]
) -> None:
    (to,) = earlier("salt@champion", before["acceptance"])
    retract(ids["checkpoint"], "wrong units")
    with pytest.raises(Retracted):
        move_back.fn("salt@champion", before["acceptance"], to, "worse")
    reinstate(ids["checkpoint"])
    closed = recorded_json({"weights": 0}, "checkpoint", licence="ASL (academic use only)")
    forbidden = recorded_json(content(closed, ids["test"]), "acceptance")
    there = Earlier(acceptance=forbidden, checkpoint=closed, since="2026-01-01")
    with pytest.raises(ForbiddenLicence):
        move_back.fn("salt@champion", before["acceptance"], there, "worse")
    assert aliases.resolve("salt@champion").id == before["checkpoint"]
