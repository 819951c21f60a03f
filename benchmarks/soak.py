"""Hundreds of small runs through a real server and worker, while their processes are killed at random.

Run `python benchmarks/soak.py [--runs 500] [--every 6] [--seed 0] [--json FILE]`. Every `--every` seconds on
average a child process, a flow, the worker or the server is killed with -9, a flow is asked to stop as by a
batch system whose time is up, or a run is cancelled. Worker and server are started again, as an init system
would. In the end every run has to be in a final state, and the record has to be whole.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import psutil
from figures import publish

ROOT = Path(__file__).parents[1]
POOL = "soak"
START = timedelta(minutes=5)  # that a run may be Pending
PATIENCE_SECONDS = 900.0  # for what was disturbed last to end
WAITING = (
    10  # runs; of hundreds that wait, Prefect marks all as late at once, and blocks its SQLite with that
)
THREADS = {"OMP_NUM_THREADS": "1"}
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
KILLS = {"child": 4, "flow": 3, "walltime": 2, "cancel": 1, "worker": 1, "server": 1}
"""What is done to them, and how often in comparison."""

CAMPAIGN = """
name: soak
foundation: {name: temper-gfn1}
labels: {path: labels.extxyz, level_of_theory: GFN2-xTB, licence: CC0-1.0, units: {energy: eV, forces: eV/Å}}
candidates: [{kind: naive, optimisation: {learning_rate: 0.01, epochs: 4}}]
"""

DEPLOYMENT = """
name: soak
pull: [{prefect.deployments.steps.set_working_directory: {directory: ROOT}}]
deployments:
  - name: soak
    entrypoint: benchmarks/soak_run.py:soak
    work_pool: {name: soak, job_variables: {stream_output: false}}
"""


class Service:
    """A server and a worker with a home of their own, which are started again when they are killed."""

    def __init__(self, folder: Path, port: int, limit: int) -> None:
        self.folder, self.url = folder, f"http://127.0.0.1:{port}/api"
        self._commands = {
            "server": ["server", "start", "--port", str(port)],
            "worker": ["worker", "start", "--pool", POOL, "--name", "soak", "--limit", str(limit)],
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, what: str) -> None:
        """Start the server, and wait until it answers, or the worker."""
        with (self.folder / f"{what}.log").open("ab") as log:
            self._running[what] = subprocess.Popen(
                [sys.executable, "-m", "prefect", "--no-prompt", *self._commands[what]],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )
        while what == "server" and not self.answers():
            time.sleep(0.5)

    def kill(self, what: str) -> None:
        """Kill -9."""
        process = self._running[what]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def revive(self) -> None:
        """Start again what has ended by itself, as a worker does whose first question finds no server."""
        for what, process in self._running.items():
            if process.poll() is not None:
                self.start(what)

    def kill_all(self) -> None:
        """Leave nothing behind."""
        for what in self._running:
            self.kill(what)
        for processes in self.processes().values():
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def prefect(self, *command: str) -> None:
        """Run Prefect's command."""
        command = (sys.executable, "-m", "prefect", "--no-prompt", *command)
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    def answers(self) -> bool:
        """Whether the server is there."""
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=10):
            return True
        return False

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """GET, or POST where there is a body; a server that has just been started is given time."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, content, {"Content-Type": "application/json"})
        for pause in (1.0, 5.0, 20.0, 60.0):
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    return json.load(answer)
            except (TimeoutError, urllib.error.URLError) as error:
                print(f"{path}: {error}", flush=True)
            time.sleep(pause)
        raise SystemExit(f"{self.url} does not answer; see {self.folder}/server.log")

    def runs(self) -> list[dict[str, Any]]:
        """All runs, the newest state of each."""
        found: list[dict[str, Any]] = []
        while page := self.ask("/flow_runs/filter", {"limit": 200, "offset": len(found), "sort": "ID_DESC"}):
            found += page
        return found

    def processes(self) -> dict[str, list[psutil.Process]]:
        """The processes of runs by what they are: `flow` and `child`."""
        found: dict[str, list[psutil.Process]] = {"flow": [], "child": []}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("TEMPER_HOME") != os.environ["TEMPER_HOME"]:
                    continue
                if "prefect.engine" in process.cmdline():
                    found["flow"].append(process)
                elif is_fork(process) and (parent := process.parent()) is not None and is_fork(parent):
                    found["child"].append(process)
        return found


def is_fork(process: psutil.Process) -> bool:
    """A fork server or one of its children."""
    return any("multiprocessing.forkserver" in word for word in process.cmdline())


def disturb(service: Service, how: str, chance: Random) -> bool:
    """Do one of `KILLS`; False where there is nothing that it could be done to."""
    if how in ("worker", "server"):
        service.kill(how)
        time.sleep(chance.uniform(0.0, 10.0))
        service.start(how)
        return True
    if how == "cancel":
        running = [run for run in service.runs() if run["state_type"] == "RUNNING"]
        if running:
            body = {"state": {"type": "CANCELLING"}}
            service.ask(f"/flow_runs/{chance.choice(running)['id']}/set_state", body)
        return bool(running)
    there = service.processes()["child" if how == "child" else "flow"]
    with contextlib.suppress(psutil.Error):
        if there:
            chance.choice(there).send_signal(signal.SIGTERM if how == "walltime" else signal.SIGKILL)
    return bool(there)


def write_campaign(folder: Path) -> Path:
    """The file of a campaign, and its labels: of pairs of water molecules, by GFN2-xTB."""
    import numpy as np
    from ase.build import molecule
    from ase.io import write

    from models.reference.xtb import calculator, labelled_copy

    chance, frames = np.random.default_rng(0), []
    for trajectory in range(6):
        for _ in range(2):
            pair, other = molecule("H2O"), molecule("H2O")
            other.translate((2.9, 0.1 * trajectory, 0.4))
            pair += other
            pair.positions += chance.normal(scale=0.05, size=pair.positions.shape)
            pair.calc = calculator("GFN2-xTB")
            frames.append(labelled_copy(pair))
            frames[-1].info["trajectory"] = f"t{trajectory}"
    write(folder / "labels.extxyz", frames)
    (folder / "soak.yaml").write_text(CAMPAIGN, encoding="utf-8")
    return folder / "soak.yaml"


def deploy(service: Service) -> str:
    """The id of the deployment of the small run."""
    file = service.folder / "prefect.yaml"
    file.write_text(DEPLOYMENT.replace("ROOT", str(ROOT)), encoding="utf-8")
    service.prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
    service.prefect("deploy", "--all", "--prefect-file", str(file))
    return str(service.ask("/deployments/name/soak/soak")["id"])


def soak(service: Service, n_runs: int, every: float, chance: Random) -> Counter[str]:
    """Start all runs, disturb them until the last has been taken, and wait for their ends; what was done."""
    from flows.automations import SILENCE, create_automations, settle

    def settled() -> None:
        for line in settle(SILENCE, START, ["soak"]):
            print(line, flush=True)

    create_automations(SILENCE, START, ["soak"])
    campaign, deployment = write_campaign(service.folder), deploy(service)
    service.start("worker")
    done: Counter[str] = Counter()
    told = quiet_since = time.monotonic()
    while True:
        service.revive()
        states = Counter(run["state_type"] for run in service.runs())
        while states["SCHEDULED"] < WAITING and (seed := sum(states.values())) < n_runs:
            parameters = {"campaign": str(campaign), "seed": seed}
            service.ask(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})
            states["SCHEDULED"] += 1
        if time.monotonic() - told > 60.0:
            told = time.monotonic()
            print(dict(states), dict(done), flush=True)
        if not (open_ := sum(states.values()) - sum(states[state] for state in FINAL)):
            return done
        if states["SCHEDULED"]:
            quiet_since = time.monotonic()
            time.sleep(chance.expovariate(1.0 / every))
            (how,) = chance.choices(list(KILLS), list(KILLS.values()))
            if disturb(service, how, chance):
                done[how] += 1
            if how == "server":
                settled()
        elif time.monotonic() - quiet_since > PATIENCE_SECONDS:
            print(
                f"{open_} runs have no end after {PATIENCE_SECONDS:.0f} s without a disturbance", flush=True
            )
            return done
        else:
            time.sleep(5.0)
            settled()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--every", type=float, default=6.0, help="mean seconds between two disturbances")
    parser.add_argument("--at-once", type=int, default=2, help="how many runs a worker has at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=4320)
    parser.add_argument("--folder", type=Path, help="keep everything here")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        sys.path.insert(0, str(ROOT))
        from flows.server import SETTINGS

        service = Service(folder, args.port, args.at_once)
        os.environ.update(SETTINGS, **THREADS, PREFECT_API_URL=service.url, PREFECT_WORKER_QUERY_SECONDS="2")
        os.environ.update(TEMPER_HOME=str(folder / "home"), PREFECT_HOME=str(folder / "prefect"))
        started = time.monotonic()
        service.start("server")
        try:
            done = soak(service, args.runs, args.every, Random(args.seed))
            states = Counter(run["state_type"] for run in service.runs())
        finally:
            service.kill_all()
        from db.verification import verify

        problems = verify()
    figures = [
        ("runs", sum(states.values()), "runs"),
        ("not_final", sum(states.values()) - sum(states[state] for state in FINAL), "runs"),
        ("verify_problems", len(problems), "problems"),
        *((state.lower(), states[state], "runs") for state in FINAL),
        *((f"disturbed_{how}", done[how], "times") for how in KILLS),
        ("minutes", (time.monotonic() - started) / 60.0, "min"),
    ]
    publish(figures, args.json)
    for problem in problems:
        print(problem.kind, problem.detail)


if __name__ == "__main__":
    main()
