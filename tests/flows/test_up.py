"""`temper up` and `temper down`: a whole service on one machine, started, used, and stopped."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]


class Machine:
    """A machine without GPU on which nothing runs: a home of its own for Temper and for Prefect."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.env |= {
            "TEMPER_HOME": str(folder / "temper"),
            "PREFECT_HOME": str(folder / "prefect"),
            "TEMPER_PREFECT_PORT": str(port),
            "CUDA_VISIBLE_DEVICES": "",
        }

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return subprocess.run(
            [sys.executable, "-c", "from flows.command import main; main()", *arguments],
            env={**self.env, **env},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    def processes(self) -> list[psutil.Process]:
        """What was started from this home and is still there."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PREFECT_HOME") == self.env["PREFECT_HOME"]:
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine that is left as it was found."""
    made = Machine(tmp_path, 43900 + os.getpid() % 500)
    yield made
    for process in made.processes():
        process.kill()


def test_a_shared_server_without_a_password_is_refused(machine: Machine) -> None:
    for env in ({}, {"PREFECT_SERVER_API_AUTH_STRING": "secret"}):
        refused = machine("up", "--shared", **env)
        assert refused.returncode == 1
        assert "set PREFECT_SERVER_API_AUTH_STRING to user:password" in refused.stderr
        assert "secret" not in refused.stdout + refused.stderr
    assert machine.processes() == []


def test_a_pool_of_gpus_without_one_is_refused_before_anything_starts(machine: Machine) -> None:
    refused = machine("up", "--pool", "gpu")
    assert refused.returncode == 1
    assert "no GPU is found here" in refused.stderr
    assert machine.processes() == []


def test_there_is_nothing_to_stop_where_nothing_runs(machine: Machine) -> None:
    stopped = machine("down")
    assert stopped.returncode == 0
    assert stopped.stdout.splitlines() == ["Nothing of Temper runs here."]


@pytest.mark.slow
def test_a_service_is_started_found_stopped_and_started_again(machine: Machine) -> None:
    up = machine("up", "--limit", "1")
    assert up.returncode == 0, up.stdout + up.stderr
    lines = up.stdout.splitlines()
    assert lines[0].startswith("Starting a Prefect server on port")
    declared = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    assert lines[1] == f"{len(declared)} deployments on the work pool local-cpu, 5 automations"
    assert "started: one run at once" in lines[2]
    assert lines[-1].startswith("Start campaigns at http://127.0.0.1:")
    addresses = {c.laddr for p in machine.processes() for c in p.net_connections() if c.status == "LISTEN"}
    assert {address.ip for address in addresses} == {"127.0.0.1"}, "something listens to other machines"

    before = {process.pid for process in machine.processes()}
    again = machine("up", "--limit", "1")
    assert "runs already" in again.stdout
    assert {process.pid for process in machine.processes()} == before, "something was started twice"

    found = machine("doctor", "--json")
    assert found.returncode == 0, found.stdout
    (prefect,) = (one for one in json.loads(found.stdout) if one["subject"] == "Prefect")
    assert "local-cpu ready" in prefect["said"]

    down = machine("down")
    assert down.stdout.splitlines()[-1].startswith("Stopped: 1 worker, 0 runs, 1 server.")
    assert machine.processes() == []
    unserved = machine("up", "--pool", "elsewhere")
    assert unserved.returncode == 1
    assert "make it: prefect work-pool create elsewhere" in unserved.stderr
