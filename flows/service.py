"""Temper as a service on this machine: deployments on a server, and workers in the background."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from flows.server import PID_FILE, PREFECT, end_of, prefect_home

CPU, GPU = "local-cpu", "gpu"
"""The work pools that Temper makes itself; their workers start runs as processes."""
DEPLOYMENTS = Path(__file__).parents[1] / "deployments" / "prefect.yaml"
GRACE_SECONDS = 60.0  # for a run to leave a checkpoint behind, and for its worker to say so
_LOOK_SECONDS = 0.5


class ServiceError(RuntimeError):
    """Something of the service did not come up; the message says what, and where its log is."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker of this machine: at most `limit` runs at once, which see the environment `env`."""

    pool: str
    name: str
    limit: int
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """What the server knows it as; several machines may serve one pool."""
        return f"{socket.gethostname()}-{self.name}"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.pid_file.with_suffix(".log")

    @property
    def pid_file(self) -> Path:
        """Which process it is."""
        return prefect_home() / f"temper-worker-{self.pool}-{self.name}.pid"


def gpus() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` has to be for each GPU of this machine that may be used."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one.strip() for one in visible.split(",") if one.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False)
    return listed.stdout.split() if listed.returncode == 0 else []


def usual_pool() -> str:
    """The work pool for this machine."""
    return GPU if gpus() else CPU


def workers(pool: str, limit: int | None = None) -> list[Worker]:
    """The workers that this machine should have: one for each GPU, or one for the CPU.

    One GPU runs one campaign at a time, so that one training has it to itself. `limit`: how many runs at once
    the CPU is for; by default half as many as there are cores, since a run computes two things at once.

    Raises ServiceError where the work pool is that of GPUs, and there is none.
    """
    if pool == GPU:
        if not (found := gpus()):
            raise ServiceError(
                "no GPU is found here (nvidia-smi, CUDA_VISIBLE_DEVICES); leave out --pool gpu"
            )
        env = {"TEMPER_DEVICE": "cuda"}
        return [
            Worker(pool=pool, name=f"gpu{one}", limit=1, env={**env, "CUDA_VISIBLE_DEVICES": one})
            for one in found
        ]
    return [Worker(pool=pool, name="cpu", limit=limit or max(2, (os.cpu_count() or 1) // 2))]


def deploy(pool: str) -> int:
    """Put everything in `deployments/prefect.yaml` on the server, on this work pool; how many there are.

    What is there already is brought up to date. Raises ServiceError.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            if pool not in (CPU, GPU):
                raise ServiceError(
                    f"there is no work pool {pool}; make it: prefect work-pool create {pool} --type TYPE"
                ) from None
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
    done = subprocess.run(
        [*PREFECT, "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)],
        env={**os.environ, "TEMPER_POOL": pool},
        cwd=DEPLOYMENTS.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        end = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise ServiceError(f"{DEPLOYMENTS} could not be deployed:\n{end}")
    return done.stdout.count("successfully created")


def start(worker: Worker, *, timeout: float = 180) -> bool:
    """Start a worker unless it runs, and come back when the server knows it; False where it ran already.

    Raises ServiceError where it ends, or is not heard of within `timeout` seconds.
    """
    from prefect.client.orchestration import get_client

    if _noted(worker.pid_file) is not None:
        return False
    options = ("--pool", worker.pool, "--name", worker.full_name, "--limit", str(worker.limit))
    with worker.log.open("wb") as output:
        process = psutil.Popen(
            [*PREFECT, "worker", "start", *options],
            env={**os.environ, **worker.env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    worker.pid_file.write_text(f"{process.pid} {process.create_time()}")
    started, deadline = datetime.now(UTC), time.monotonic() + timeout
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            known = client.read_workers_for_work_pool(worker.pool)
            # One of that name may have been killed a moment ago.
            if any(
                one.name == worker.full_name and (one.last_heartbeat_time or started) > started
                for one in known
            ):
                return True
            if process.poll() is not None:
                code = process.returncode
                raise ServiceError(
                    f"The worker {worker.full_name} ended with exit code {code}.{end_of(worker.log)}"
                )
            time.sleep(_LOOK_SECONDS)
    process.terminate()
    raise ServiceError(
        f"The worker {worker.full_name} was not ready within {timeout:.0f} s.{end_of(worker.log)}"
    )


def stop(say: Callable[[str], None]) -> None:
    """Stop the workers of this machine, with what they run, and then the server that Temper started here.

    A run that is stopped leaves what it has finished on record, and its training a checkpoint. It is
    scheduled again, and goes on as soon as there is a worker.
    """
    workers = [noted for file in prefect_home().glob("temper-worker-*.pid") if (noted := _noted(file))]
    runs = [run for worker in workers for run in worker.children()]
    working = [process for run in runs for process in run.children(recursive=True)]
    for worker in workers:
        worker.terminate()  # it takes no more runs, and ends when those that it has are over
    for run in runs:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGTERM)  # as Prefect cancels: the flow is in a process below this one
    _end([*workers, *runs, *working])
    servers = [server] if (server := _server()) else []
    for one in servers:
        one.terminate()
    _end(servers)
    stopped = {"worker": workers, "run": runs, "server": servers}
    if not (workers or servers):
        say("Nothing of Temper runs here.")
        return
    counted = ", ".join(f"{len(found)} {name}{'s' * (len(found) != 1)}" for name, found in stopped.items())
    say(f"Stopped: {counted}. Runs go on where they were after the next `temper up`.")


def _noted(pid_file: Path) -> psutil.Process | None:
    """The process of a pid file, where it is still the one that was noted."""
    with suppress(OSError, ValueError, psutil.Error):
        pid, created = pid_file.read_text().split()
        process = psutil.Process(int(pid))
        if process.create_time() == float(created) and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _server() -> psutil.Process | None:
    """The server that was started from Prefect's folder."""
    with suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int((prefect_home() / PID_FILE).read_text()))
        if {"prefect", "server"} <= set(process.cmdline()):
            return process
    return None


def _end(processes: Sequence[psutil.Process]) -> None:
    """Wait for processes that were asked to end; kill those that do not, with what they started."""
    _, left = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
    for process in left:
        with suppress(psutil.Error):
            for one in (*process.children(recursive=True), process):
                one.kill()
