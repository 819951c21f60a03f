"""Real processes: results, failures, progress, and every way to die."""

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import current_process
from pathlib import Path
from types import ModuleType

import pytest

from tasks import forks
from tasks.children import ChildDied, in_child, in_children
from tasks.limits import OutOfMemory, OutOfTime
from waiting import alive, until

WORK = '''
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil


class Awkward(Exception):
    """Cannot be unpickled: its argument is not what it passes on."""

    def __init__(self, code, place):
        super().__init__(f"{code} at {place}")


def awkward():
    raise Awkward(7, "the gate")


def train(epochs, report):
    for epoch in range(epochs):
        report({"epoch": epoch})
    return os.getpid()


def log():
    logging.getLogger("models.training").info("epoch %d of %d", 3, 10)
    logging.getLogger("models.training").debug("too much detail")


def seen(thing):
    return thing, os.getpid()


def threads():
    return os.environ["OMP_NUM_THREADS"]


def unpicklable():
    return lambda: None


def die(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave():
    raise SystemExit(3)


def sleep(marker):
    """Write the process id to `marker`, then sleep; `marker.clean` says that the clean-up has run."""
    Path(marker).write_text(str(os.getpid()))
    try:
        time.sleep(120)
    finally:
        Path(marker + ".clean").touch()


def sleep_stubbornly(marker):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep(marker)


def leave_a_grandchild():
    """Die while a grandchild, forked without exec, holds every pipe open."""
    if os.fork() == 0:
        time.sleep(5)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def meet(folder, mine, other):
    """Return once both have arrived: possible only if both run at the same time."""
    Path(folder, mine).touch()
    while not Path(folder, other).exists():
        time.sleep(0.01)
    return os.getpid()


def fill(gigabytes):
    """Hold so much memory."""
    held = b"1" * int(gigabytes * 1e9)
    time.sleep(120)


def run(program, *arguments):
    """A program of Python's, in a process group of its own if the first argument says so."""
    command = [sys.executable, "-c", program, *arguments]
    subprocess.run(command, start_new_session="alone" in arguments)


def resident_gb():
    return psutil.Process().memory_info().rss / 1e9
'''


@dataclass(frozen=True)
class Limits:
    seconds: float | None = None
    memory_gb: float | None = None


SLEEPING = (
    "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(120)"
)
FILLING = "import time; held = b'1' * 300_000_000; time.sleep(120)"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that the child can import, as it imports `models`."""
    (tmp_path / "child_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "child_work", raising=False)
    return importlib.import_module("child_work")


def read_pid(marker: Path) -> int:
    until(lambda: marker.exists() and marker.read_text() != "")
    return int(marker.read_text())


def test_the_result_comes_back_from_another_process(work: ModuleType) -> None:
    assert in_child(work.train, 0) != os.getpid()
    assert in_child(json.loads, '{"energy": -1.5}') == {"energy": -1.5}


def test_children_compute_on_one_thread(work: ModuleType) -> None:
    assert in_child(work.threads) == "1"


def test_progress_arrives_in_order_and_before_the_result(work: ModuleType) -> None:
    seen: list[dict[str, int]] = []
    in_child(work.train, epochs=50, on_progress=seen.append)
    assert seen == [{"epoch": epoch} for epoch in range(50)]


def test_an_exception_keeps_its_type_and_brings_the_childs_traceback() -> None:
    with pytest.raises(json.JSONDecodeError, match="Expecting value") as caught:
        in_child(json.loads, "energy")
    assert "raw_decode" in caught.value.__notes__[0]
    assert "loads" in caught.value.__notes__[0]


def test_an_exception_that_cannot_be_pickled_keeps_its_text(work: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="Awkward: 7 at the gate"):
        in_child(work.awkward)


def test_a_result_that_cannot_be_pickled_is_an_error_not_a_hang(work: ModuleType) -> None:
    with pytest.raises((AttributeError, RuntimeError), match="pickle"):
        in_child(work.unpicklable)


def test_logs_are_relayed_from_info_up(work: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    in_child(work.log)
    ours = [record for record in caplog.records if record.name == "models.training"]
    assert [(record.levelno, record.getMessage()) for record in ours] == [(logging.INFO, "epoch 3 of 10")]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, "SIGKILL: .* out of memory"),
        (signal.SIGSEGV, "SIGSEGV: a crash"),
        (signal.SIGTERM, "SIGTERM"),
    ],
)
def test_a_killed_child_is_reported_with_its_signal(work: ModuleType, number: int, message: str) -> None:
    with pytest.raises(ChildDied, match=message):
        in_child(work.die, int(number))


def test_a_child_that_leaves_by_itself_is_reported_with_its_exit_code(work: ModuleType) -> None:
    with pytest.raises(ChildDied, match="exit code 3"):
        in_child(work.leave)


def test_a_killed_child_is_noticed_although_a_grandchild_holds_its_pipe(work: ModuleType) -> None:
    with pytest.raises(ChildDied, match="SIGKILL"):
        in_child(work.leave_a_grandchild)


def test_two_children_run_at_the_same_time(work: ModuleType, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(in_child, work.meet, str(tmp_path), "a", "b")
        second = pool.submit(in_child, work.meet, str(tmp_path), "b", "a")
        assert first.result() != second.result()


@pytest.mark.parametrize("things", [[], [1], [3, 1, 2, 5, 4]])
def test_several_children_share_things_and_keep_their_order(work: ModuleType, things: list[int]) -> None:
    made = list(in_children(work.seen, things))
    assert [thing for thing, _ in made] == things
    pids = [pid for _, pid in made]
    assert len({*pids}) == min(2, len(things))
    assert pids == [pids[k % 2] for k in range(len(things))]


def test_every_death_is_told_apart_with_many_threads(work: ModuleType) -> None:
    def attempt(number: int) -> str:
        try:
            return str(in_child(work.die, number)) if number else str(in_child(work.threads))
        except ChildDied as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(attempt, [0, signal.SIGKILL, signal.SIGTERM] * 6))
    assert all(outcome == "1" for outcome in outcomes[0::3])
    assert all("SIGKILL" in outcome for outcome in outcomes[1::3])
    assert all("SIGTERM" in outcome for outcome in outcomes[2::3])


@pytest.mark.usefixtures("sigint")
def test_an_interrupted_caller_stops_its_child_after_the_clean_up(work: ModuleType, tmp_path: Path) -> None:
    marker = tmp_path / "pid"

    def interrupt() -> None:
        read_pid(marker)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        in_child(work.sleep, str(marker))
    watcher.join()
    assert not alive(read_pid(marker))
    assert Path(f"{marker}.clean").exists()


def test_a_failing_progress_callback_stops_the_child(work: ModuleType) -> None:
    def refuse(progress: dict[str, int]) -> None:
        raise ValueError(f"stop at {progress['epoch']}")

    with pytest.raises(ValueError, match="stop at 0"):
        in_child(work.train, 10, on_progress=refuse)


@pytest.mark.usefixtures("sigint")
def test_a_child_that_ignores_sigterm_is_killed(
    work: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.children.GRACE_SECONDS", 0.5)
    marker = tmp_path / "pid"

    def interrupt() -> None:
        read_pid(marker)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        in_child(work.sleep_stubbornly, str(marker))
    watcher.join()
    until(lambda: not alive(read_pid(marker)))


def test_a_child_over_its_time_is_killed_with_its_programs(work: ModuleType, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    with pytest.raises(OutOfTime, match="run was killed: it took longer than 1 s"):
        in_child(work.run, SLEEPING, str(marker), limits=Limits(seconds=1.0))
    until(lambda: not alive(read_pid(marker)))


def test_a_program_that_left_the_group_is_killed_too(work: ModuleType, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    with pytest.raises(OutOfTime):
        in_child(work.run, SLEEPING, str(marker), "alone", limits=Limits(seconds=1.0))
    until(lambda: not alive(read_pid(marker)))


def test_a_child_over_its_memory_is_killed(work: ModuleType) -> None:
    with pytest.raises(OutOfMemory, match=r"fill was killed: it used 0\.\d+ GB .*more than 0\.2 GB"):
        in_child(work.fill, 0.3, limits=Limits(memory_gb=0.2))


def test_the_memory_of_its_programs_counts(work: ModuleType) -> None:
    with pytest.raises(OutOfMemory):
        in_child(work.run, FILLING, limits=Limits(memory_gb=0.2))


def test_what_a_child_shares_with_others_does_not_count(work: ModuleType) -> None:
    enough = 0.8 * in_child(work.resident_gb)  # most of it torch and MACE, which every child has
    assert in_child(work.train, 0, limits=Limits(seconds=300.0, memory_gb=enough)) != os.getpid()
    slowly = Limits(seconds=0.5, memory_gb=enough)
    with pytest.raises(OutOfTime):
        in_child(work.run, "import time; time.sleep(120)", limits=slowly)


def test_a_child_that_talks_all_the_time_is_watched(work: ModuleType) -> None:
    with pytest.raises(OutOfTime):
        in_child(work.train, 10**9, limits=Limits(seconds=0.5))


def test_what_a_child_leaves_behind_ends_with_it(work: ModuleType, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    command = f"sleep 120 >/dev/null 2>&1 & echo $! > {marker}"
    assert in_child(subprocess.call, ["sh", "-c", command]) == 0
    until(lambda: not alive(read_pid(marker)))


def test_a_worker_that_may_have_no_children_has_them(
    work: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current_process(), "daemon", True)  # as Dask starts its workers
    forks.context.cache_clear()  # this process has had children before it became a worker
    assert in_child(work.train, 0) != os.getpid()


def test_a_child_does_not_outlive_a_parent_killed_with_9(work: ModuleType, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    script = tmp_path / "campaign.py"
    script.write_text(
        textwrap.dedent(f"""
        import child_work
        from tasks.children import in_child

        if __name__ == "__main__":
            in_child(child_work.sleep, {str(marker)!r})
        """)
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    with subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": path}) as parent:
        child = read_pid(marker)
        assert alive(child)
        parent.kill()
    until(lambda: not alive(child))


SECRETS = {
    "TEMPER_DATABASE_URL": "postgresql://me:planted@db/temper",
    "TEMPER_ALARM_WEBHOOK": "https://chat.example.org/planted",
    "PREFECT_API_AUTH_STRING": "admin:planted",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://me:planted@db/prefect",
    "PGPASSWORD": "planted",
    "AWS_SECRET_ACCESS_KEY": "planted",
    "WANDB_API_KEY": "planted",
    "MLFLOW_TRACKING_TOKEN": "planted",
}


def test_no_secret_reaches_what_computes() -> None:
    """Nor a program that it starts."""
    script = """
import os, subprocess, sys
from tasks.children import in_child
print(in_child(subprocess.check_output, ["env"]).decode())
print(os.environ["PGPASSWORD"] == "p" + "lanted")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **SECRETS, "OMP_STACKSIZE": "64M"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "OMP_STACKSIZE=64M" in done.stdout
    assert "planted" not in done.stdout
    assert done.stdout.endswith("True\n")  # the campaign itself still has them
