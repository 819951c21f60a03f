"""The whole line in miniature: real labels, real networks, a real Prefect server, real kills."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from db import aliases, artifacts
from db.lineage import Node, tree
from flows.cli import app
from flows.server import PID_FILE
from models import potentials
from waiting import until

pytestmark = pytest.mark.flow

STEPS = "SELECT kind, status, attempt, started_at, finished_at, key FROM step ORDER BY key"
RESULTS = """
    SELECT id, kind, name FROM artifact
    WHERE kind IN ('dataset', 'checkpoint', 'e0s', 'history', 'trajectories', 'finding')
        AND name NOT LIKE '%-speed'
    ORDER BY id
"""


@pytest.fixture
def record(finished: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The campaign, as the record that this process reads."""
    command = finished[0]
    monkeypatch.setenv("TEMPER_HOME", str(command.home))
    return command


def test_a_specialist_and_its_engine_are_promoted(record: Any, finished: tuple[Any, ...]) -> None:
    promoted = {alias.name: artifacts.get(alias.artifact_id) for alias in aliases.all()}
    assert set(promoted) == {
        *("mini@champion", "mini@champion-acceptance"),
        *("mini@engine", "mini@engine-acceptance", "mini@report"),
    }
    assert promoted["mini@engine"].name == "mini-student"
    winner = promoted["mini@champion"].name.removeprefix("mini-")
    assert f"{winner} is mini@champion, its student mini@engine." in finished[1]
    row = next(line for line in finished[1].splitlines() if line.startswith(f"{winner} "))
    assert row.split()[-2:] == ["champion", promoted["mini@champion"].id[:10]]


def test_the_champion_has_the_lower_validation_error(record: Any) -> None:
    best = {}
    for row in record.ask("SELECT id, name FROM artifact WHERE kind = 'history'"):
        history = json.loads(artifacts.path(row["id"]).read_text())
        (row_of_best,) = (e for e in history["epochs"] if e["epoch"] == history["best_epoch"])
        best[row["name"]] = row_of_best["target_forces_mae"]
    del best["mini-student-history"]
    assert len(best) == 2
    assert f"{artifacts.find('mini@champion').name}-history" == min(best, key=lambda name: best[name])


def test_every_dataset_and_checkpoint_says_what_it_is_and_where_it_comes_from(record: Any) -> None:
    made = record.ask("SELECT id, kind FROM artifact WHERE kind IN ('dataset', 'checkpoint')")
    assert {row["kind"] for row in made} == {"dataset", "checkpoint"}
    for row in made:
        node = tree(row["id"])
        assert node.artifact.metadata["level_of_theory"] in ("GFN1-xTB", "GFN2-xTB")
        assert node.artifact.metadata["licence"] != "unknown"
        assert "@" in node.artifact.created_by
        assert node.parents
        assert node.step is not None
        assert node.step.parameters
        assert node.step.seed is not None
        assert {"python", "torch", "mace-torch", "ase", "tblite"} <= set(node.step.software)
        assert node.step.flow_run_id


def test_checkpoints_carry_the_terms_of_their_labels_and_of_their_foundation(record: Any) -> None:
    for name in ("mini@champion", "mini@engine"):
        assert artifacts.find(name).metadata["licence"] == "CC-BY-4.0; CC0-1.0; MIT"


def test_the_champion_has_a_head_for_each_level_of_labels(record: Any) -> None:
    levels = potentials.header(artifacts.path(artifacts.find("mini@champion").id))["level_of_theory"]
    assert levels == {"gfn1": "GFN1-xTB", "target": "GFN2-xTB"}
    engine = potentials.header(artifacts.path(artifacts.find("mini@engine").id))
    assert engine["level_of_theory"] == {"target": "GFN2-xTB"}


def leaves(node: Node) -> set[tuple[str, str]]:
    if not node.parents and not node.repeated:
        return {(node.artifact.kind, node.artifact.name)}
    return {leaf for parent in node.parents for leaf in leaves(parent)}


def test_lineage_of_the_engine_ends_at_labels_and_foundation_only(record: Any) -> None:
    assert leaves(tree(artifacts.find("mini@engine").id)) == {
        ("labels", "labels.extxyz"),
        ("labels", "gfn1.extxyz"),
        ("foundation", "foundation"),
        ("structures", "replay.extxyz"),
        ("trajectories", "reference.extxyz"),
    }
    printed = CliRunner().invoke(app, ["lineage", "mini@engine"]).stdout
    assert "labels: labels labels.extxyz" in printed
    assert "foundation: foundation foundation" in printed


def test_the_report_needs_nothing_but_itself(record: Any, finished: tuple[Any, ...]) -> None:
    path = Path(re.findall(r"Report: (.+)", finished[1])[0])
    page = path.read_text()
    assert page == artifacts.path(artifacts.find("mini@report").id).read_text()
    assert "its student mini@engine." in page
    assert page.count("<svg") >= 3
    for target in re.findall(r"""(?:src|href)=["']([^"']+)""", page):
        assert target.startswith(("#", "data:")), f"the report needs {target}"


def test_the_ui_has_the_run_its_tasks_their_progress_and_the_end(
    finished: tuple[Any, ...], prefect_server: Any
) -> None:
    (step,) = finished[0].ask("SELECT flow_run_id FROM step ORDER BY finished_at DESC LIMIT 1")
    this_run = {"flow_runs": {"id": {"any_": [step["flow_run_id"]]}}}
    (run,) = prefect_server.post("/flow_runs/filter", this_run)
    assert (run["name"], run["state"]["type"]) == ("mini", "COMPLETED")

    def tasks() -> list[dict[str, Any]] | None:
        found = prefect_server.post("/task_runs/filter", this_run)
        return list(found) if len(found) > 30 else None

    done = until(tasks, "no more than 30 tasks")  # they come a little later than the run's end
    assert {task["state"]["type"] for task in done} == {"COMPLETED"}
    assert {"fine-tune-naive", "simulate-champion", "accuracy-of-naive", "promote-engine"} <= {
        task["name"] for task in done
    }
    shown = prefect_server.post("/artifacts/filter", this_run)
    bars = {a["description"].partition(":")[0]: a["data"] for a in shown if a["type"] == "progress"}
    assert set(bars.values()) == {100.0}
    assert {"fine-tune naive", "simulate champion", "distil"} <= set(bars)
    assert {"campaign-summary", "campaign-report", "acceptance-mini-engine"} <= {a["key"] for a in shown}


def test_a_second_run_computes_nothing(
    finished: tuple[Any, ...], temper: Callable[..., Any], mini: Path
) -> None:
    again = temper(like=finished[0])
    before = again.ask(STEPS)
    assert {step["status"] for step in before} == {"done"}
    done = again("run", str(mini))
    assert done.returncode == 0, done.stdout + done.stderr
    assert again.ask(STEPS) == before
    assert again.ask(RESULTS) == finished[0].ask(RESULTS)
    assert done.stderr.count("on record, not computed again") >= len(before)


def test_killed_in_a_training_it_went_on_from_there(finished: tuple[Any, ...]) -> None:
    command, _, interrupted = finished
    assert interrupted
    assert {step["key"] for step in command.ask(STEPS) if step["attempt"] > 1} == interrupted
    assert not list((command.home / "work").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [[], ["pseudolabel_replay", "simulate", "distil"]])
def test_killed_elsewhere_or_not_at_all_it_makes_the_same_bytes(
    kinds: list[str], finished: tuple[Any, ...], temper: Callable[..., Any], mini: Path, killed: Any
) -> None:
    command = temper()
    interrupted = {key for kind in kinds for key in killed(command, kind)}
    done = command("run", str(mini))
    assert done.returncode == 0, done.stdout + done.stderr
    assert command.ask(RESULTS) == finished[0].ask(RESULTS)
    assert {step["key"] for step in command.ask(STEPS) if step["attempt"] > 1} == interrupted
    assert not list((command.home / "work").iterdir())


def test_where_the_gate_does_not_hold_nothing_is_promoted_and_it_says_why(
    finished: tuple[Any, ...], temper: Callable[..., Any], mini: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = mini.with_name("strict.yaml")
    text = mini.read_text().replace("name: mini", "name: strict")
    file.write_text(text.replace("at_most: 51.0", "at_most: 0.01"))
    command = temper(like=finished[0])
    done = command("run", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "did not pass the gate; nothing was promoted." in done.stdout
    assert re.search(r"champion: force MAE over the foundation's is .* at most 0.01 × was asked", done.stdout)
    monkeypatch.setenv("TEMPER_HOME", str(command.home))
    assert [a.name for a in aliases.all() if a.name.startswith("strict@")] == ["strict@report"]
    page = artifacts.path(artifacts.find("strict@report").id).read_text()
    assert "nothing was promoted." in page
    assert "force MAE over the foundation" in page
    refused = re.findall(r"temper promote (\w+)", done.stdout)
    overridden = command("promote", refused[0], "--by", "Ada", "--reason", "a trial")
    assert overridden.returncode == 0, overridden.stdout + overridden.stderr
    (alias,) = (alias for alias in aliases.all() if alias.name == "strict@champion")
    assert alias.reason == "Ada overrides the gate: a trial"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("replay:", "replays:", "replays: unknown key"),
        ("path: labels.extxyz", "path: label.extxyz", "label.extxyz: no such file"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_before_any_work_starts(
    old: str, new: str, message: str, mini: Path, tmp_path: Path
) -> None:
    file = mini.with_name(f"{tmp_path.name}.yaml")
    file.write_text(mini.read_text().replace(old, new))
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", "from flows.command import main; main()", "run", str(file)],
        env={
            **env,
            "TEMPER_HOME": str(tmp_path / "temper"),
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "TEMPER_PREFECT_PORT": "65533",  # no other test is given it
        },
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert message in line
    assert done.stdout == ""
    assert not (tmp_path / "temper").exists()
    # The server that came up meanwhile has gone.
    assert not psutil.pid_exists(int((tmp_path / "prefect" / PID_FILE).read_text()))


@pytest.fixture
def worker(prefect_server: Any, temper: Callable[..., Any]) -> Iterator[Any]:
    """A process worker on a pool of its own, which computes in a home of its own."""
    command = temper()
    pool = ["prefect", "work-pool", "create", "mini", "--type", "process", "--overwrite"]
    assert prefect_server.run(*pool).returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "mini"],
        env={**command.env, "TEMPER_HOME": str(command.home), "PREFECT_WORKER_QUERY_SECONDS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    yield command
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_through_a_deployment_and_a_worker_the_result_is_the_same(
    worker: Any, finished: tuple[Any, ...], prefect_server: Any, mini: Path, tmp_path: Path
) -> None:
    deployment = {
        "name": "mini",
        "entrypoint": "flows.finetune.finetune",
        "parameters": {"campaign": str(mini)},
        "work_pool": {"name": "mini", "job_variables": {"stream_output": False}},
    }
    file = tmp_path / "prefect.yaml"
    file.write_text(json.dumps({"name": "temper", "deployments": [deployment]}))  # JSON is YAML
    deploy = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    deployed = prefect_server.run(*deploy)
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    run = prefect_server.run("prefect", "deployment", "run", "finetune/mini", "--watch")
    assert run.returncode == 0, run.stdout + run.stderr
    assert worker.ask(RESULTS) == finished[0].ask(RESULTS)
