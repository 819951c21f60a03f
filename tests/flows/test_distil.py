"""Another student of a specialist that was promoted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.flow


def test_a_promoted_specialist_teaches_another_student(
    mini: Path, finished: tuple[Any, ...], temper: Callable[..., Any], prefect_server: Any
) -> None:
    command = temper(like=finished[0])
    before = command.ask("SELECT name, artifact_id FROM alias WHERE name LIKE 'mini@%'")
    champion, engine = (
        next(row["artifact_id"] for row in before if row["name"] == f"mini@{role}")
        for role in ("champion", "engine")
    )
    done = command(
        "distil", str(mini), "--set", "student.optimisation.epochs=3", "--set", "student.rounds=0",
        "--set", "student.objectives=[{kind: hessian_probes}, {kind: atom_embeddings}]",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mini-student passed the gate of mini." in done.stdout
    after = {row["name"]: row["artifact_id"] for row in command.ask("SELECT name, artifact_id FROM alias")}
    assert after["mini@champion"] == champion
    assert after["mini@engine"] != engine
    assert f"Checkpoint: {after['mini@engine'][:12]}" in done.stdout
    kinds = [row["kind"] for row in command.ask("SELECT kind FROM step ORDER BY started_at")]
    assert kinds.count("fine_tune") == 2, "nothing is fine-tuned anew"
    assert kinds.count("label_curvature") == 3, "rows in both rounds of the campaign, and probes"
    (run,) = prefect_server.post(
        "/flow_runs/filter",
        {"flows": {"name": {"any_": ["distil"]}}, "sort": "START_TIME_DESC", "limit": 1},
    )
    assert run["name"] == "distil-mini"


@pytest.mark.slow
def test_a_teacher_that_is_not_the_champion_promotes_nothing(
    mini: Path, finished: tuple[Any, ...], temper: Callable[..., Any]
) -> None:
    command = temper(like=finished[0])
    promoted = "SELECT * FROM alias WHERE name IN ('mini@champion', 'mini@engine') ORDER BY name"
    before = command.ask(promoted)
    candidates = command.ask(
        "SELECT id FROM artifact WHERE name IN ('mini-naive', 'mini-pseudolabelled-replay')"
    )
    (other,) = {row["id"] for row in candidates} - {row["artifact_id"] for row in before}
    done = command(
        "distil", str(mini), "--teacher", other[:12], "--set", "student.optimisation.epochs=1",
        "--set", "student.rounds=0", "--set", "student.objectives=[]", "--set", "student.n_structures=0",
    )  # fmt: skip
    assert "mini-student" in done.stdout, done.stderr
    assert command.ask(promoted) == before
    kinds = [row["kind"] for row in command.ask("SELECT kind FROM step")]
    assert kinds.count("distil") == 3


def test_a_teacher_of_another_level_of_theory_is_refused(mini: Path, temper: Callable[..., Any]) -> None:
    refused = temper()("distil", str(mini), "--teacher", str(mini.with_name("foundation.safetensors")))
    assert refused.returncode == 1
    assert "is of the level GFN1-xTB, and the labels of mini are of GFN2-xTB" in refused.stderr.replace(
        "\n", " "
    )


def test_without_a_teacher_there_is_one_clear_error(mini: Path, temper: Callable[..., Any]) -> None:
    refused = temper()("distil", str(mini))
    assert refused.returncode == 1
    assert "no alias 'mini@champion'" in refused.stderr
