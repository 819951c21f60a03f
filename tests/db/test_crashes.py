"""Campaigns that are killed at any instant go on, and end as if nothing had happened."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from random import Random
from time import sleep
from typing import Any

import pytest
from sqlalchemy import func, select

import db
from db import aliases, garbage
from db.session import session
from db.settings import settings
from db.tables import ArtifactRow, GeneratedRow, StepRow, UsedRow
from db.verification import verify

NO_GRACE = timedelta(0)
LONGEST = 1.0  # s before a kill

# A campaign has the steps of a real one: two candidates at a time, each with checkpoints to go on from.
# stdin: "first last", a line for each process to fork. stdout: its id, and at its end its status.
CAMPAIGNS = """
import os
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from random import Random

from db import aliases, artifacts
from db.agent import software
from db.session import session
from db.settings import settings
from db.steps import Output, once

EPOCHS, EPOCH = 4, 20_000

def step(kind, campaign, inputs, **sizes):
    def compute(work):
        for role, size in sizes.items():
            (work / role).write_bytes(Random(f"{campaign} {kind} {role} {inputs}").randbytes(size))
        return {role: Output(path=work / role, kind=role, name=f"{campaign}-{role}") for role in sizes}
    return once(kind, 1, {"campaign": campaign}, inputs, compute).outputs

def train(name, campaign, inputs):
    def compute(work):
        state = work / "state"
        weights = state.read_bytes() if state.exists() else b""
        while len(weights) < EPOCHS * EPOCH:
            weights += Random(f"{campaign} {name} {weights[-100:]}").randbytes(EPOCH)
            (work / "state.new").write_bytes(weights)
            (work / "state.new").replace(state)
            time.sleep(0.01)
        (work / "model.bin").write_bytes(weights)
        (work / "history.json").write_text(f"{campaign} {name} {len(weights)}")
        return {
            "checkpoint": Output(path=work / "model.bin", kind="checkpoint", name=f"{campaign}-{name}"),
            "history": Output(path=work / "history.json", kind="history", name=f"{campaign}-{name}"),
        }
    return once("train", 1, {"campaign": campaign, "name": name}, inputs, compute)

def campaign(number):
    labels = settings().home / f"labels-{number}.extxyz"
    labels.parent.mkdir(exist_ok=True)
    labels.write_bytes(Random(number).randbytes(50_000))
    given = artifacts.import_file(labels, "labels", labels.name, {"licence": "CC0-1.0"}).id
    data = step("ingest", number, {"labels": given}, train=40_000, valid=5_000, test=5_000)
    e0s = step("e0s", number, {"train": data["train"]}, e0s=300)
    lessons = {"train": data["train"], "valid": data["valid"], **e0s}
    with ThreadPoolExecutor(2) as two:
        candidates = list(two.map(lambda name: train(name, number, lessons), ("naive", "replay", "lora")))
    made = [candidate.outputs["checkpoint"] for candidate in candidates]
    tests = [{"checkpoint": id_, "test": data["test"]} for id_ in made]
    errors = [step("errors", number, inputs, errors=2_000)["errors"] for inputs in tests]
    judged = step("judge", number, {"errors": errors}, verdict=500)
    aliases.promote(f"c{number}@champion", made[0], step_key=candidates[0].key, reason="the best")
    student = train("student", number, {"teacher": made[0], "train": data["train"]})
    engine = student.outputs["checkpoint"]
    aliases.promote(f"c{number}@engine", engine, step_key=student.key, reason="as good")
    report = step("report", number, {**judged, "engine": engine}, report=100_000)
    aliases.promote(f"c{number}@report", report["report"], reason="run finished")

with session(read_only=True):  # what is done once per process comes before the kill
    software()
for line in sys.stdin:
    first, last = map(int, line.split())
    child = os.fork()
    if not child:
        try:
            for number in range(first, last):
                campaign(number)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Campaigns:
    """Runs campaigns by their numbers in the home of the environment, each time in a new process."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", CAMPAIGNS],
            cwd=Path(db.__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, first: int, last: int) -> int:
        """Its process id."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(f"{first} {last}\n")
        self._parent.stdin.flush()
        return self._answer()

    def end(self) -> int:
        """Its exit code."""
        return self._answer()

    def close(self) -> None:
        """Nothing of it goes on."""
        os.killpg(self._parent.pid, signal.SIGKILL)
        self._parent.communicate()

    def _answer(self) -> int:
        assert self._parent.stdout is not None
        return int(self._parent.stdout.readline())


def n_finished() -> int:
    return sum(alias.name.endswith("@report") for alias in aliases.all())


def content() -> Mapping[str, Any]:
    """All that is on record, but for when and how often."""
    with session(read_only=True) as s:
        artifact, step = ArtifactRow, StepRow
        return {
            "aliases": {(alias.name, alias.artifact_id, alias.step_key) for alias in aliases.all()},
            "artifacts": set(s.execute(select(artifact.id, artifact.kind, artifact.name, artifact.step_key))),
            "steps": set(s.execute(select(step.key, step.kind, step.status))),
            "used": set(s.execute(select(UsedRow.step_key, UsedRow.role, UsedRow.artifact_id))),
            "generated": set(
                s.execute(select(GeneratedRow.step_key, GeneratedRow.role, GeneratedRow.artifact_id))
            ),
        }


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_a_campaign_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(
    url: str, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instants = Random(0)
    with closing(Campaigns()) as campaigns:
        cut_short = False
        for n in range(10 * kills):
            if n >= kills and cut_short:  # where a machine is busy, none of the first may hit a step
                break
            pid = campaigns.start(n_finished(), 1_000_000)
            sleep(instants.uniform(0.0, LONGEST))
            os.kill(pid, signal.SIGKILL)
            assert campaigns.end() == -signal.SIGKILL
            with session(read_only=True) as s:
                cut_short |= (
                    s.scalar(select(StepRow.key).where(StepRow.status == "running").limit(1)) is not None
                )
            # What a kill may leave, and the next run uses or gc removes.
            assert [p for p in verify(grace=NO_GRACE) if p.kind not in ("orphan", "unfinished")] == []
        total = n_finished() + 1
        campaigns.start(total - 1, total)
        assert campaigns.end() == 0
    garbage.remove(garbage.find(grace=NO_GRACE))
    assert verify(grace=NO_GRACE) == []
    assert not any(settings().work_root.iterdir())
    with session(read_only=True) as s:
        assert (s.scalar(select(func.max(StepRow.attempt))) or 0) > 1
    after_kills = content()

    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "undisturbed"))
    monkeypatch.setenv("TEMPER_DATABASE_URL", f"sqlite:///{tmp_path / 'undisturbed.db'}")
    with closing(Campaigns()) as campaigns:
        campaigns.start(0, total)
        assert campaigns.end() == 0
    assert content() == after_kills
    assert len(after_kills["aliases"]) == 3 * total
