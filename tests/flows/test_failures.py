"""Flow runs that are cancelled, terminated or killed under a real worker, or lost with it."""

import ast
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from models import training_state
from waiting import until

pytestmark = pytest.mark.flow

ROOT = Path(__file__).parents[2]
LONG = 900.0  # s that a busy machine may take for what a quiet one does in some tens
STARTED = 6.0  # s of a core after which a training has begun to learn
EPOCHS = "epochs: 12}}"

CREATE = "from flows.automations import create_automations as c; print(c())"
SETTLE = (
    "from datetime import timedelta as t; from flows.automations import settle; print(settle(t(0), t(0)))"
)


def test_automations_are_created_once_and_brought_up_to_date(prefect_server: Any) -> None:
    for _ in range(2):
        done = python(prefect_server, CREATE)
        assert done.returncode == 0, done.stderr
    made = ast.literal_eval(done.stdout)
    listed = prefect_server.post("/automations/filter", {"limit": 200})
    there = {one["name"]: one for one in listed if one["name"] in made}
    assert len(made) == len(there) == 3
    sources = "".join(file.read_text() for file in (ROOT / "flows").glob("*.py"))
    flows = re.findall(r'@flow\(\s*name="([\w-]+)"', sources)
    for one in there.values():
        assert sorted(one["trigger"]["match_related"]["prefect.resource.name"]) == sorted(flows)


def test_what_nobody_computes_any_more_is_settled(prefect_server: Any) -> None:
    flow = prefect_server.post("/flows/", {"name": "finetune"})["id"]
    other = prefect_server.post("/flows/", {"name": "somebody-elses"})["id"]
    deployment = prefect_server.post("/deployments/", {"name": f"lost-{uuid4().hex}", "flow_id": flow})["id"]

    def run(flow_id: str, state: str, **more: str) -> str:
        made = prefect_server.post("/flow_runs/", {"flow_id": flow_id, "state": {"type": state}, **more})
        return str(made["id"])

    alone, cancelled = run(flow, "RUNNING"), run(flow, "CANCELLING")
    deployed = [run(flow, state, deployment_id=deployment) for state in ("RUNNING", "PENDING")]
    not_ours = run(other, "RUNNING")
    for _ in range(2):  # the second time there is nothing left to do
        done = python(prefect_server, SETTLE)
        assert done.returncode == 0, done.stderr
    found = {id_: name_of_state(prefect_server, id_) for id_ in (alone, cancelled, *deployed, not_ours)}
    submitted = [one for one in runs_of(prefect_server, deployment) if one["id"] not in deployed]
    prefect_server.post(f"/flow_runs/{not_ours}/set_state", {"state": {"type": "CRASHED"}})
    for one in submitted:  # no worker is to wait for them
        body = {"state": {"type": "CANCELLED"}, "force": True}
        prefect_server.post(f"/flow_runs/{one['id']}/set_state", body)
    assert found == {
        alone: "Crashed",
        cancelled: "Cancelled",
        **dict.fromkeys(deployed, "Crashed"),
        not_ours: "Running",
    }
    assert len(submitted) == 2
    assert {one["labels"]["temper.attempt"] for one in submitted} == {2}
    assert {one["name"] for one in submitted} == {run_of(prefect_server, id_)["name"] for id_ in deployed}


def python(server: Any, source: str) -> subprocess.CompletedProcess[str]:
    """Run a few lines against the server."""
    return subprocess.run(
        [sys.executable, "-c", source],
        env={**server.env, "PREFECT_API_URL": server.url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def run_of(server: Any, id_: str) -> dict[str, Any]:
    (found,) = server.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [id_]}}})
    assert isinstance(found, dict)
    return found


def runs_of(server: Any, deployment: str) -> list[dict[str, Any]]:
    body = {"flow_runs": {"deployment_id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_DESC"}
    found = server.post("/flow_runs/filter", body)
    assert isinstance(found, list)
    return found


def name_of_state(server: Any, id_: str) -> str:
    return str(run_of(server, id_)["state_name"])


@dataclass
class Place:
    """A home, a deployment of a campaign that trains for hours, and a worker."""

    server: Any
    home: Path
    campaign: Path
    pool: str
    deployment: str = ""
    worker: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        return {
            **self.server.env,
            "PREFECT_API_URL": self.server.url,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "TEMPER_HOME": str(self.home),
        }

    def start_worker(self) -> None:
        command = ["worker", "start", "--pool", self.pool, "--name", self.pool]
        self.worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", *command],
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill_worker(self) -> None:
        assert self.worker is not None
        os.killpg(self.worker.pid, signal.SIGKILL)
        self.worker.wait()

    def submit(self) -> str:
        body = {"parameters": {"campaign": str(self.campaign)}}
        made = self.server.post(f"/deployments/{self.deployment}/create_flow_run", body)
        return str(made["id"])

    def processes(self, word: str) -> list[psutil.Process]:
        """Those of this home with a word in their command."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())
                if word in command and process.environ().get("TEMPER_HOME") == str(self.home):
                    found.append(process)
        return found

    def state(self) -> Path | None:
        """What the training has saved."""
        return next(self.home.glob("work/*/state.pt"), None)

    def updates(self) -> int:
        """How far the training was when it saved last."""
        saved = self.state()
        found = training_state.read(saved) if saved else None
        return int(found["state"]["updates"]) if found else -1

    def children(self) -> list[psutil.Process]:
        forks = self.processes("multiprocessing.forkserver")
        known = {process.pid for process in forks}
        return [process for process in forks if process.ppid() in known]


@pytest.fixture
def place(prefect_server: Any, mini: Path, tmp_path: Path) -> Iterator[Place]:
    """One training of a hundred thousand epochs, evaluated seldom, under a worker of its own."""
    text = mini.read_text()
    kept = [line for line in text.splitlines() if "pseudolabelled_replay" not in line]
    endless = "\n".join(kept).replace(EPOCHS, "epochs: 100000, evaluate_every: 50000}}", 1)
    campaign = mini.with_name("endless.yaml")
    campaign.write_text(endless.replace("name: mini", "name: endless"))
    pool = f"failures-{uuid4().hex[:6]}"
    made = Place(server=prefect_server, home=tmp_path / "home", campaign=campaign, pool=pool)
    template = prefect_server.run("prefect", "work-pool", "create", pool, "--type", "process")
    assert template.returncode == 0, template.stdout + template.stderr
    flow = prefect_server.post("/flows/", {"name": "finetune"})["id"]
    steps = [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    made.deployment = prefect_server.post(
        "/deployments/",
        {
            "name": pool,
            "flow_id": flow,
            "entrypoint": "flows.finetune.finetune",
            "work_pool_name": pool,
            "job_variables": {"stream_output": False},
            "pull_steps": steps,
        },
    )["id"]
    made.start_worker()
    try:
        yield made
    finally:
        made.kill_worker()
        for process in [*made.processes("prefect"), *made.processes("multiprocessing")]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def cancel(place: Place, id_: str) -> None:
    """Cancel as the browser does, and see that the training stops within 10 s and leaves a checkpoint."""
    began = time.monotonic()
    place.server.post(f"/flow_runs/{id_}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: not place.children(), "the training goes on after 10 s", 10.0)
    assert time.monotonic() - began < 10.0
    until(lambda: name_of_state(place.server, id_) == "Cancelled", "the run is not cancelled", LONG)


def follower(place: Place, id_: str) -> str:
    """The run that goes on where one has crashed."""

    def submitted() -> list[str]:
        runs = runs_of(place.server, place.deployment)
        return [str(one["id"]) for one in runs if (one["idempotency_key"] or "").startswith(id_)]

    until(submitted, "it is not submitted again", LONG)
    assert name_of_state(place.server, id_) == "Crashed"
    (new,) = submitted()
    return new


def trains(place: Place, beyond: int) -> Callable[[], bool]:
    """Whether a training goes on from where it was, and has a child that is past its start."""

    def computing() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return any(child.cpu_times().user > STARTED for child in place.children())
        return False

    return lambda: place.updates() >= beyond and computing()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_training_under_a_worker_survives_whatever_ends_it(place: Place) -> None:
    run = place.submit()
    until(trains(place, 0), "the training does not start", LONG)
    cancel(place, run)
    cancelled_at = place.updates()
    assert cancelled_at > 0  # saved when it was asked to stop, and not before

    run = place.submit()
    until(trains(place, cancelled_at), "the next run does not go on", LONG)
    (flow,) = place.processes("prefect.engine")
    flow.terminate()  # the time of the batch system is up
    run = follower(place, run)
    terminated_at = place.updates()
    assert terminated_at > cancelled_at

    until(trains(place, terminated_at), "it does not go on by itself", LONG)
    (flow,) = place.processes("prefect.engine")
    flow.kill()
    run = follower(place, run)
    assert run_of(place.server, run)["labels"]["temper.attempt"] == 2
    until(trains(place, terminated_at), "it does not train after a kill", LONG)

    place.kill_worker()
    time.sleep(3.0)
    assert name_of_state(place.server, run) == "Running"
    cancel(place, run)  # there is no worker that could
    place.start_worker()  # for the fixture


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_of_the_command_is_cancelled_in_the_browser(place: Place) -> None:
    command = subprocess.Popen(
        [sys.executable, "-c", "from flows.command import main; main()", "run", str(place.campaign)],
        env=place.env,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until(trains(place, 0), "the training does not start", LONG)
    running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}, "name": {"any_": ["endless"]}}}
    (run,) = place.server.post("/flow_runs/filter", running)
    cancel(place, run["id"])
    assert command.wait(LONG) != 0
    assert place.updates() > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_whose_worker_and_process_are_killed_does_not_stay_running(place: Place) -> None:
    assert python(place.server, CREATE).returncode == 0
    run = place.submit()
    until(trains(place, 0), "the training does not start", LONG)
    place.kill_worker()
    (flow,) = place.processes("prefect.engine")
    flow.kill()
    until(lambda: name_of_state(place.server, run) == "Crashed", "it stays Running", LONG)
    until(lambda: not place.children(), "its child goes on", 60.0)
    place.start_worker()
