"""Active rounds of the campaign in miniature: real labels, real kills."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ase.io import read, write

from db import artifacts
from db.lineage import Node, tree
from models.reference import Tblite

pytestmark = pytest.mark.flow

ROUNDS = {
    "calculator": {"kind": "tblite"},
    "at_most": 1,
    "labels_per_round": 6,
    "control": 0.34,
    "explorers": [{"kind": "excursions", "walkers": 8}],
    "selector": {"kind": "farthest_point"},
    "uncertainty": {"kind": "heads", "members": 3},
}
LABELS = "SELECT key, status, attempt FROM step WHERE kind = 'label'"


@pytest.fixture(scope="module")
def active(mini: Path) -> Path:
    """The miniature campaign with a gate that cannot hold, and one round."""
    content = yaml.safe_load(mini.read_text())
    content["name"] = "active"
    content["rounds"] = ROUNDS
    content["candidates"] = content["candidates"][:1]
    content["candidates"][0]["optimisation"]["epochs"] = 4
    content["checks"] = [{"kind": "accuracy"}, {"kind": "retention"}]
    content["gate"] = [{"figure": "accuracy.forces", "at_most": 0.001}]
    content["simulation"]["duration"] = 4.0
    content["student"] |= {"rounds": 0, "objectives": [], "n_structures": 0}
    content["student"]["optimisation"]["epochs"] = 2
    path = mini.parent / "active.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def done(active: Path, temper: Callable[..., Any]) -> tuple[Any, str]:
    """A home in which it was killed with -9 while it labelled, and then ran to its end."""
    command = temper()
    process = command.start("run", str(active))
    while process.poll() is None:
        if (command.home / "temper.db").exists() and _finished(command):
            break
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    before = _finished(command)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finished = command("run", str(active))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    after = {row["key"]: row["attempt"] for row in command.ask(LABELS)}
    assert {key: after.get(key) for key in before} == dict.fromkeys(before, 1), "a label was computed again"
    return command, finished.stdout


def _finished(command: Any) -> set[str]:
    try:
        return {row["key"] for row in command.ask(LABELS) if row["status"] == "done"}
    except Exception:  # the record has no tables yet
        return set()


@pytest.fixture
def record(done: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TEMPER_HOME", str(done[0].home))
    return done[0]


def test_a_round_adds_labels_and_the_test_set_stays(record: Any) -> None:
    assert len([row for row in record.ask(LABELS) if row["status"] == "done"]) == 6
    rows = record.ask("SELECT id, name FROM artifact WHERE kind = 'dataset'")
    sizes = {row["name"]: artifacts.get(row["id"]).metadata["n_structures"] for row in rows}
    assert (
        sizes["active-train-1"] + sizes["active-valid-1"] == sizes["active-train"] + sizes["active-valid"] + 6
    )
    assert sizes["active-acquired-1"] == 6
    assert sizes["active-selected-1"] == sizes["active-control-1"] > sizes["active-train"]
    assert {name for name in sizes if name.startswith("active-test")} == {"active-test"}


def test_the_specialist_rests_on_every_label(record: Any) -> None:
    def inside(node: Node) -> set[str]:
        return {node.artifact.kind, *(kind for parent in node.parents for kind in inside(parent))}

    histories = record.ask("SELECT id FROM artifact WHERE kind = 'checkpoint' ORDER BY created_at")
    assert any({"label", "structures", "uncertainty"} <= inside(tree(row["id"])) for row in histories)


@pytest.mark.slow
def test_what_a_round_taught_is_computed_again(record: Any) -> None:
    (student,) = record.ask("SELECT id FROM artifact WHERE kind = 'checkpoint' AND name = 'active-student'")
    told = record("reproduce", student["id"])
    assert told.returncode == 0, told.stdout + told.stderr
    again = {line.split()[0] for line in told.stdout.splitlines() if " s then, " in line}
    assert {"fit_uncertainty", "explore", "select", "label", "merge_labels"} < again


def test_a_person_sees_the_rounds(record: Any, done: tuple[Any, str], prefect_server: Any) -> None:
    assert "all rounds are done (at_most: 1)" in " ".join(done[1].split())
    page = (record.home / "reports" / "active.json").read_text()
    shown = json.loads(page)["campaign"]["rounds"]
    assert [row["new"] for row in shown["rows"]] == [0, 6]
    assert shown["gain"]["ratio"] > 0.0
    assert {arm["name"] for arm in shown["arms"]} == {"selected labels", "random labels"}
    runs = prefect_server.post("/flow_runs/filter", {"flows": {"name": {"any_": ["round"]}}})
    assert "active-round-1" in {run["name"] for run in runs}


def test_labels_of_another_level_are_refused_at_once(active: Path, temper: Callable[..., Any]) -> None:
    refused = temper()("run", str(active), "--set", "rounds.calculator={kind: tblite, method: GFN1-xTB}")
    assert refused.returncode == 1
    assert "rounds.calculator: would give labels of GFN1-xTB" in " ".join(refused.stderr.split())


@pytest.mark.slow  # a whole campaign; the ways of bringing labels are tested by themselves
def test_a_cluster_labels_what_it_is_asked_for(active: Path, temper: Callable[..., Any]) -> None:
    command = temper()
    elsewhere = "rounds.calculator={kind: external, level_of_theory: GFN2-xTB, poll_seconds: 0.5}"
    campaign = command.start("run", str(active), "--set", elsewhere)
    try:
        while not (asked := list((command.home / "external").glob("*/request.json"))):
            assert campaign.poll() is None, campaign.communicate()
            time.sleep(0.5)
        structures = read(asked[0].with_name("structures.extxyz"), index=":")
        calculator = Tblite()
        labelled = [calculator.label(frame, command.home / f"{k}") for k, frame in enumerate(structures[1:])]
        write(command.home / "came.extxyz", labelled)
        brought = command("labels", "import", asked[0].parent.name, str(command.home / "came.extxyz"))
        assert brought.returncode == 0, brought.stdout + brought.stderr
        assert campaign.poll() is None, "one is missing, and may still come"
        assert command("labels", "import", asked[0].parent.name, "--complete").returncode == 0
        stdout, stderr = campaign.communicate()
    finally:
        campaign.kill()
    assert campaign.returncode == 0, stdout + stderr
    shown = json.loads((command.home / "reports" / "active.json").read_text())["campaign"]["rounds"]
    assert (shown["rows"][1]["new"], shown["rows"][1]["failed"]) == (5, 1)
