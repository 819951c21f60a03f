"""Labels on the workers of a Dask scheduler, in networks of their own or as jobs: killed and cancelled."""

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import pytest
import yaml
from ase import Atoms
from ase.io import read, write
from distributed import Client, LocalCluster
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from db import artifacts
from db.settings import settings
from flows.batch_systems import Slurm
from flows.clusters import ClusterError
from flows.labelling import label_structures
from flows.runners import check
from models.datasets import fingerprint
from models.reference import Limits
from models.reference.command import Command
from waiting import until

pytestmark = pytest.mark.flow

ROOT = Path(__file__).parents[2]
HERE = "10.213.77.1"  # this machine, as the workers see it

PROGRAM = """
mood=$(sed -n 3p $1 | cut -d' ' -f1)
here=$(dirname $0)
echo "$mood" >> $here/tries
if [ "$mood" = Ar -a ! -e $here/mended ]; then
    echo $$ > $here/Ar.new
    mv $here/Ar.new $here/Ar.pid
    exec sleep 600
fi
awk 'NR == 1 {print}
     NR == 2 {print "Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc=\\"F F F\\""}
     NR > 2 {print $1, $2, $3, $4, 0.0, 0.0, 0.1}' $1 > $2
"""
"""Labels what it is given; on argon it sleeps until somebody has mended it."""


def ip(*arguments: str) -> None:
    """Change the networks of this machine."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def networks() -> Iterator[list[str]]:
    """Two network namespaces behind a bridge; each has an address of its own and sees no other network."""
    use = uuid4().hex[:8]  # names of an earlier use go a moment after their network
    mark = f"tpr{use}"
    names = [f"{mark}-{number}" for number in range(2)]
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` here to make networks with")
    try:
        ip("link", "add", mark, "type", "bridge")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"networks cannot be made here: {error.stderr.strip()}")
    try:
        ip("addr", "add", f"{HERE}/24", "dev", mark)
        ip("link", "set", mark, "up")
        for number, name in enumerate(names):
            outside, inside = f"tpo{number}{use}", f"tpi{number}{use}"
            ip("netns", "add", name)
            ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
            ip("link", "set", outside, "master", mark, "up")
            ip("-n", name, "addr", "add", f"{HERE[:-1]}{number + 2}/24", "dev", inside)
            ip("-n", name, "link", "set", inside, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        ip("link", "del", mark)


@pytest.fixture
def server(prefect_server: Any, networks: list[str]) -> Iterator[Any]:
    """The server under an address that the workers' networks reach as well."""
    target = urlsplit(prefect_server.url)
    with socket.create_server((HERE, 0)) as door:
        threading.Thread(target=_let_in, args=(door, target.port), daemon=True).start()
        url = f"http://{HERE}:{door.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield prefect_server


def _let_in(door: socket.socket, port: int | None) -> None:
    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=_guide, args=(door.accept()[0], port), daemon=True).start()


def _guide(guest: socket.socket, port: int | None) -> None:
    with guest, socket.create_connection(("127.0.0.1", port)) as host:
        back = threading.Thread(target=_pass_on, args=(host, guest), daemon=True)
        back.start()
        _pass_on(guest, host)
        back.join()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := one.recv(65536):
            other.sendall(content)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)


@pytest.fixture
def scheduler(networks: list[str]) -> Iterator[str]:
    """The address of a scheduler without workers."""
    with LocalCluster(n_workers=0, host=HERE, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def workers(
    scheduler: str, networks: list[str], calculator: Command, temper_home: Path, tmp_path: Path
) -> Iterator[list[psutil.Process]]:
    """A worker in each network, started as an administrator would."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--nthreads", "1"]
    command += ["--no-nanny", "--no-dashboard", "--resources", "CPU=1,MEMORY=2e9", "--memory-limit", "0"]
    with contextlib.ExitStack() as running:
        started = []
        for name in networks:
            log = running.enter_context((tmp_path / f"{name}.log").open("wb"))
            worker = subprocess.Popen(
                ["ip", "netns", "exec", name, *command],  # which becomes the worker
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            running.callback(end, worker)
            started.append(psutil.Process(worker.pid))
        with Client(scheduler, set_as_default=False) as client:
            client.wait_for_workers(len(networks), timeout=300)
        yield started


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process if it still runs."""
    process.kill()
    process.wait()


@pytest.fixture
def calculator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The program, in a folder of its own, which campaigns may start."""
    monkeypatch.setenv("TEMPER_PROGRAMS", "sh")
    path = tmp_path / "program" / "program.sh"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    return Command(
        level_of_theory="made up",
        run=f"sh {path} {{input}} {{output}}",
        output="answer.extxyz",
        output_format="extxyz",
    )


def steps(home: Path) -> list[tuple[str, int, str]]:
    """Status and attempts of each label, and what went wrong."""
    with closing(sqlite3.connect(f"file:{home}/temper.db?mode=ro", uri=True)) as record:
        query = "SELECT status, attempt, coalesce(error, '') FROM step WHERE kind = 'label'"
        return [tuple(row) for row in record.execute(query)]


def asked_for(path: Path, frames: list[Atoms]) -> str:
    """The id of structures on record, by way of a file."""
    write(path, frames)
    return artifacts.import_file(path, "dataset", path.stem).id


@pytest.mark.slow
@pytest.mark.usefixtures("server", "sigint")
def test_workers_elsewhere_are_killed_and_cancelled_and_no_label_is_lost(
    scheduler: str,
    workers: list[psutil.Process],
    calculator: Command,
    temper_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEMPER_DASK", scheduler)
    check(settings())
    program = tmp_path / "program"
    sleeper, tries = program / "Ar.pid", program / "tries"

    # A worker is killed while it computes; before and after it there are others' labels.
    frames = [Atoms(element) for element in ("He", "Ne", "Ar", "Kr", "Xe")]
    killed: list[psutil.Process] = []

    def kill() -> None:
        until(lambda: sleeper.exists() and sum(s == "done" for s, *_ in steps(temper_home)) == 4)
        above = psutil.Process(int(sleeper.read_text())).parents()
        killed.extend(worker for worker in workers if worker in above)
        (program / "mended").touch()
        for worker in killed:
            worker.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    noble = asked_for(tmp_path / "noble.extxyz", frames)
    made = label_structures(calculator, noble, Limits(memory_gb=1.0, retries=0), "noble")
    killer.join()
    assert len(killed) == 1
    assert made.failures == []
    found = [read(artifacts.path(id_)) for id_ in made.labels]
    assert [fingerprint(frame) for frame in found] == [fingerprint(frame) for frame in frames]
    assert sorted(steps(temper_home)) == [*[("done", 1, "")] * 4, ("done", 2, "")]
    assert sorted(tries.read_text().split()) == ["Ar", "Ar", "He", "Kr", "Ne", "Xe"]
    assert not psutil.pid_exists(int(sleeper.read_text()))

    # The campaign is cancelled while the worker that is left computes for it.
    sleeper.unlink()
    (program / "mended").unlink()
    more = asked_for(tmp_path / "more.extxyz", [Atoms("ArH"), Atoms("ArH2")])

    def interrupt() -> None:
        until(sleeper.exists)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        label_structures(calculator, more, Limits(retries=3), "more")
    interrupter.join()
    until(lambda: not psutil.pid_exists(int(sleeper.read_text())))
    until(lambda: ("running", 1) not in {(status, n) for status, n, _ in steps(temper_home)})
    ((status, attempt, error),) = (row for row in steps(temper_home) if row[0] != "done")
    assert (status, attempt) == ("failed", 1)
    assert "nobody waits for it any more" in error

    # More memory than a worker has is refused, instead of being waited for.
    with pytest.raises(
        ClusterError, match=r"each of the labels needs CPU=1 and MEMORY=3e\+09; no worker has it"
    ):
        label_structures(calculator, more, Limits(memory_gb=3.0), "more")


CAMPAIGN = """
import sys
from flows.labelling import label_structures
from models.reference import CALCULATOR, Limits

if __name__ == "__main__":
    label_structures(CALCULATOR.validate_json(sys.argv[1]), sys.argv[2], Limits(retries=3), "killed")
"""


@pytest.mark.slow
@pytest.mark.usefixtures("workers")
def test_a_campaign_that_is_killed_leaves_nothing_at_work_and_goes_on(
    server: Any,
    scheduler: str,
    calculator: Command,
    temper_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEMPER_DASK", scheduler)
    selection = asked_for(tmp_path / "noble.extxyz", [Atoms(element) for element in ("He", "Ne", "Ar", "Kr")])
    program = tmp_path / "program"
    sleeper = program / "Ar.pid"
    (tmp_path / "campaign.py").write_text(CAMPAIGN)
    with subprocess.Popen(
        [sys.executable, tmp_path / "campaign.py", calculator.model_dump_json(), selection],
        env={
            **server.env,
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "PYTHONPATH": str(ROOT),
            "TEMPER_DASK": scheduler,
            "TEMPER_HOME": str(temper_home),
            "TEMPER_PROGRAMS": "sh",
        },
        start_new_session=True,
    ) as campaign:
        until(lambda: sleeper.exists() and sum(s == "done" for s, *_ in steps(temper_home)) == 3)
        os.killpg(campaign.pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(int(sleeper.read_text())), "the workers compute on for nobody")
    until(lambda: "running" not in {status for status, *_ in steps(temper_home)})
    ((status, attempt, error),) = (row for row in steps(temper_home) if row[0] != "done")
    assert (status, attempt) == ("failed", 1)
    assert "nobody waits for it any more" in error
    (program / "mended").touch()
    made = label_structures(calculator, selection, Limits(retries=0), "killed")
    assert (len(made.labels), made.failures) == (4, [])
    assert sorted((program / "tries").read_text().split()) == ["Ar", "Ar", "He", "Kr", "Ne"]


SBATCH = """#!/bin/sh
here=$(dirname $0)
cp $1 $here/job.$$
setsid bash $here/job.$$ > $here/log.$$ 2>&1 &
echo "$!" >> $here/submitted
echo "Submitted batch job $!"
"""
"""Starts a job at once on this machine, with its process id as its number."""

SCANCEL = """#!/bin/sh
kill -TERM -- -$1
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the path with commands that play a batch system."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


@pytest.mark.slow
# dask-jobqueue drops the processes of jobs that were killed without a wait for them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("local", [False, True], ids=["sbatch", "dask_jobqueue.local"])
def test_jobs_are_submitted_replaced_and_cancelled(
    local: bool,
    slurm: Path,
    prefect_server: Any,
    calculator: Command,
    temper_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    described = {"kind": "slurm", "jobs": 2, "memory_gb": 2.0, "walltime": "01:00:00", "interface": "lo"}
    if local:  # its jobs know no header and no lines before the worker
        monkeypatch.setattr(Slurm, "cluster", "dask_jobqueue.local.LocalCluster")
        monkeypatch.setattr(Slurm, "header", lambda self: {})
    else:
        described["prologue"] = ["export TEMPER_SEEN=yes"]
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(described))
    monkeypatch.setenv("TEMPER_DASK", str(tmp_path / "cluster.yaml"))
    check(settings())
    program = tmp_path / "program"
    sleeper = program / "Ar.pid"
    write(tmp_path / "noble.extxyz", [Atoms(element) for element in ("He", "Ne", "Ar", "Kr", "Xe")])
    selection = artifacts.import_file(tmp_path / "noble.extxyz", "dataset", "noble").id
    jobs: set[psutil.Process] = set()

    def kill() -> None:
        until(lambda: sleeper.exists() and sum(s == "done" for s, *_ in steps(temper_home)) == 4)
        above = psutil.Process(int(sleeper.read_text())).parents()
        (program / "mended").touch()
        jobs.update(one for one in above if "distributed.cli.dask_worker" in one.cmdline())
        for job in jobs:
            for process in (job, *job.children(recursive=True)):
                process.kill()

    with temporary_settings({PREFECT_API_URL: prefect_server.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        killer = threading.Thread(target=kill)
        killer.start()
        made = label_structures(calculator, selection, Limits(memory_gb=1.0, retries=0), "noble")
        killer.join()
    assert len(jobs) == 1
    assert made.failures == []
    assert sorted(steps(temper_home)) == [*[("done", 1, "")] * 4, ("done", 2, "")]
    assert sorted((program / "tries").read_text().split()) == ["Ar", "Ar", "He", "Kr", "Ne", "Xe"]
    if not local:
        submitted = [int(line) for line in (slurm / "submitted").read_text().split()]
        assert len(submitted) >= 2
        until(lambda: not any(map(psutil.pid_exists, submitted)))
