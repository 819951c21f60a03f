"""Steps wanted by several real processes, some of which are killed or stopped."""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from db import artifacts
from db.session import session
from db.steps import Output, once
from db.store import store
from db.tables import StepRow

Start = Callable[..., subprocess.Popen[str]]

# argv: log file, text to write, whether to hold. Says "computing" and, when held, waits for the file log.go.
ASK = """
import sys, time
from pathlib import Path
from db.steps import Output, once

log, text, hold = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "hold"

def compute(work):
    with log.open("a") as file:
        file.write(text + "\\n")
    (work / "checkpoint").write_text("epoch 1")
    print("computing", flush=True)
    while hold and not log.with_suffix(".go").exists():
        time.sleep(0.01)
    (work / "model.txt").write_text(text)
    return {"model": Output(path=work / "model.txt", kind="checkpoint", name="model")}

done = once("train", 1, {}, {}, compute)
print(done.outputs["model"], done.reused, flush=True)
"""


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    return line or child.communicate()[1]


def attempt(key: str) -> tuple[str, int]:
    with session(read_only=True) as s:
        row = s.get_one(StepRow, key)
        return row.status, row.attempt


def test_processes_that_ask_at_once_compute_once(url: str, process: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    children = [process(ASK, str(log), f"by {number}", "") for number in range(3)]
    answers = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], answers
    assert len(log.read_text().splitlines()) == 1
    results = [out.splitlines()[-1].split() for out, _ in answers]
    assert len({id_ for id_, _ in results}) == 1
    assert sorted(reused for _, reused in results) == ["False", "True", "True"]


@pytest.mark.parametrize("reaped", [True, False])
def test_killed_holder_is_taken_over_at_once_in_its_folder(
    url: str, process: Start, tmp_path: Path, reaped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The lease would last an hour: only seeing that the process is dead can free the step.
    monkeypatch.setenv("TEMPER_LEASE_SECONDS", "3600")
    child = process(ASK, str(tmp_path / "log"), "killed", "hold")
    assert said(child) == "computing"
    os.kill(child.pid, signal.SIGKILL)
    if reaped:
        child.wait()

    def resume(work: Path) -> Mapping[str, Output]:
        assert (work / "checkpoint").read_text() == "epoch 1"
        (work / "model.txt").write_text("resumed")
        return {"model": Output(path=work / "model.txt", kind="checkpoint", name="model")}

    done = once("train", 1, {}, {}, resume)
    assert artifacts.path(done.outputs["model"]).read_text() == "resumed"
    assert attempt(done.key) == ("done", 2)


def test_waiting_process_gets_the_result(url: str, process: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    holder = process(ASK, str(log), "holder", "hold")
    assert said(holder) == "computing"
    waiter = process(ASK, str(log), "waiter", "")
    log.with_suffix(".go").touch()
    assert said(holder).split() == [id_ := said(waiter).split()[0], "False"]
    assert store().path(id_).read_text() == "holder"
    assert log.read_text() == "holder\n"


def test_stopped_holder_that_goes_on_late_does_not_write_a_second_result(
    url: str, process: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_LEASE_SECONDS", "1")
    log = tmp_path / "log"
    child = process(ASK, str(log), "late", "hold")
    assert said(child) == "computing"
    os.kill(child.pid, signal.SIGSTOP)

    def compute(work: Path) -> Mapping[str, Output]:
        (work / "model.txt").write_text("in time")
        return {"model": Output(path=work / "model.txt", kind="checkpoint", name="model")}

    done = once("train", 1, {}, {}, compute)
    assert not done.reused
    log.with_suffix(".go").touch()
    os.kill(child.pid, signal.SIGCONT)
    assert said(child) == f"{done.outputs['model']} True"
    assert store().path(done.outputs["model"]).read_text() == "in time"
    assert attempt(done.key) == ("done", 2)
