"""A sweep with real trainings: a diverging trial, the second run, going on from earlier rungs, its use."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.flow

SWEEP = """
candidates: []
sweep:
  rungs: 2
  eta: 2
  seeds: [0, 1]
  candidates:
    - strategy: {kind: naive, optimisation: {ema_decay: 0.9, clip_gradient: 10.0, epochs: 4}}
      settings: {optimisation.learning_rate: [0.003, 1.0e+30]}
    - strategy: {kind: lora, optimisation: {learning_rate: 0.01, ema_decay: 0.9, epochs: 4, decay: cosine}}
      settings: {rank: [1, 2]}
"""
TRAININGS = "SELECT key, status, attempt FROM step WHERE kind = 'fine_tune' ORDER BY key"


@pytest.fixture(scope="module")
def sweeping(mini: Path) -> Path:
    """The miniature campaign with a sweep in place of its candidates."""
    text = re.sub(r"candidates:\n(  - .*\n)+", SWEEP.lstrip(), mini.read_text(), count=1)
    file = mini.with_name("sweeping.yaml")
    file.write_text(text.replace("name: mini", "name: sweeping"))
    return file


@pytest.fixture(scope="module")
def swept(temper: Callable[..., Any], sweeping: Path) -> tuple[Any, str]:
    """A home in which the sweep ran, and what the command said."""
    command = temper()
    done = command("sweep", str(sweeping))
    assert done.returncode == 0, done.stdout + done.stderr
    return command, done.stdout


def result(command: Any) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((command.home / "reports" / "sweeping-sweep.json").read_text())
    found: dict[str, Any] = report["sweep"]
    return found


def test_it_says_what_it_costs_before_it_starts(swept: tuple[Any, str]) -> None:
    lines = swept[1].splitlines()
    assert lines[0] == "rung 1: 4 trials, 2 epochs; at most 8 epochs in all"
    assert lines[1] == "rung 2: 2 trials, 4 epochs, 2 seeds; at most 16 epochs in all"
    assert next(k for k, line in enumerate(lines) if "Watch it at" in line) > 2


def test_a_diverging_trial_is_on_record_with_its_reason_and_stops_no_other(swept: tuple[Any, str]) -> None:
    command, _ = swept
    failed = [s for s in result(command)["standings"] if s["failure"]]
    assert [s["name"] for s in failed] == ["naive-learning-rate-1e30"]
    assert "Diverged" in failed[0]["failure"]
    statuses = [row["status"] for row in command.ask(TRAININGS)]
    assert statuses.count("failed") == 1
    assert statuses.count("done") == 3 + 4  # of the first rung, and two trials with two seeds


def test_the_finalists_have_a_spread_and_the_choice_has_reasons(swept: tuple[Any, str]) -> None:
    command, said = swept
    found = result(command)
    finalists = [s for s in found["standings"] if s["rung"] == 2]
    assert len(finalists) == 2
    assert all(s["seeds"] == 2 and s["error_spread"] is not None and s["cpu_seconds"] > 0 for s in finalists)
    assert found["chosen"] == finalists[0]["name"]
    assert any(s["on_front"] for s in finalists)
    assert found["reasons"][0] in said
    page = (command.home / "reports" / "sweeping-sweep.html").read_text()
    assert f"Recommended: {found['chosen']}" in page
    assert page.count("<svg") == 3
    for target in re.findall(r"""(?:src|href)=["']([^"']+)""", page):
        assert target.startswith(("#", "data:"))


def test_a_constant_rate_goes_on_from_the_state_of_the_rung_before(swept: tuple[Any, str]) -> None:
    command, _ = swept
    states = command.ask("SELECT name FROM artifact WHERE kind = 'training-state'")
    assert [row["name"] for row in states] == ["sweeping-naive-learning-rate-3e-3-state"]
    found = result(command)
    gone_on = [s for s in found["standings"] if s["rung"] == 2 and s["kind"] == "naive"]
    assert found["epochs"] == 8 + 16 - 2 * len(gone_on), "two epochs less for what went on"
    assert gone_on


def test_no_training_and_no_choice_has_seen_the_test_structures(swept: tuple[Any, str]) -> None:
    tested = swept[0].ask("SELECT artifact_id AS id FROM generated WHERE role IN ('test', 'replay_test')")
    assert len(tested) >= 2
    used = {row["id"] for row in swept[0].ask("SELECT artifact_id AS id FROM used")}
    assert not used & {row["id"] for row in tested}


@pytest.mark.slow
def test_run_again_only_what_failed_is_computed_and_a_campaign_takes_the_choice(
    swept: tuple[Any, str], temper: Callable[..., Any], sweeping: Path
) -> None:
    command = temper(like=swept[0])
    before = command.ask(TRAININGS)
    done = command("run", str(sweeping))
    assert done.returncode == 0, done.stdout + done.stderr
    after = command.ask(TRAININGS)
    assert [row["key"] for row in after] == [row["key"] for row in before], "the candidate was trained before"
    tried_again = [row for row, old in zip(after, before, strict=True) if row != old]
    assert [row["status"] for row in tried_again] == ["failed"]
    assert f"{result(swept[0])['chosen']} " in done.stdout
    page = (command.home / "reports" / "sweeping.html").read_text()
    assert 'id="sweep"' in page
    again = command("reproduce", "sweeping@champion")
    assert again.returncode == 0, again.stdout + again.stderr


def test_a_campaign_without_a_sweep_says_what_is_missing(temper: Callable[..., Any], mini: Path) -> None:
    refused = temper()("sweep", str(mini))
    assert refused.returncode == 1
    assert refused.stderr.endswith("mini.yaml: sweep: is missing; list strategies and settings to try\n")
