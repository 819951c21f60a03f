"""What Temper costs beside the science: a share of the shipped campaign, a cold start, a step, workers.

Run `python benchmarks/overhead.py [--parts share cold steps workers] [--json FILE]`, where nothing else runs.
What counts as what:

- science: the time in which at least one child process is inside the function of `models/` that it was
  started for. Children that compute side by side count once. Starting a child, its imports, pickling, and all
  that the campaign's own process does (reading and checking files, plots, the report) are no science.
- engine_share: all the rest of the time from the start of the command to its end, with a Prefect server that
  runs already and an empty home: Python's start, imports, Prefect, SQL, files, hashes, reports.
- cold_start: from the command, with neither a server nor a home, until a child is inside its first function.
- *_per_step: what one more trivial piece of work (write a file of a few bytes) costs, one at a time: as a
  step on record in a flow on a real server, the same in a child process, as a future on one worker process of
  Dask, as a job of jobflow's `run_locally` (left out where jobflow is not installed).
- labels_per_s: GFN2-xTB labels by 1, 2 and 4 workers of Dask on this machine, their start included. Each
  structure is several of the shipped droplets side by side, since one alone takes 14 ms: what was measured
  then were starts of processes, where DFT takes minutes. label_seconds: what one label takes, on average.
"""

import argparse
import contextlib
import inspect
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures import publish

if TYPE_CHECKING:
    from ase import Atoms

ROOT = Path(__file__).parents[1]
FIRST_PORT = 4320
LONG_SECONDS = 0.5  # a time without science that is worth a line
STEPS = 50
LABELS = 48
DROPLETS = 8  # in each of their structures
APART = 20.0  # Å

Interval = tuple[float, float, str]
Figure = tuple[str, float, str]


class Timed:
    """A function that a child calls, and a file that is told when it begins and ends."""

    def __init__(self, function: Callable[..., Any], file: Path) -> None:
        self.function, self.file = function, file
        self.__qualname__ = function.__qualname__
        self.__signature__ = inspect.signature(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        self._tell("begins")
        try:
            return self.function(*args, **kwargs)
        finally:
            self._tell("ends")

    def _tell(self, what: str) -> None:
        event = {"pid": os.getpid(), "name": self.__qualname__, what: time.time()}
        with self.file.open("a", encoding="utf-8") as events:
            events.write(json.dumps(event) + "\n")


def observe(file: str) -> None:
    """Have all children of this process tell `file` when their functions begin and end.

    Has to come before the tasks are imported.
    """
    from tasks import children

    plain = children.in_child

    def in_child(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        science = function.__module__.startswith("models.")
        return plain(Timed(function, Path(file)) if science else function, *args, **kwargs)

    children.in_child = in_child


class Home:
    """A Temper home with a Prefect home in it, and how to run something there."""

    def __init__(self, folder: Path, port: int) -> None:
        self.events = folder / "events.jsonl"
        self.log = folder / "log"
        self.env = {
            **os.environ,
            "TEMPER_HOME": str(folder / "temper"),
            "PREFECT_HOME": str(folder / "prefect"),
            "TEMPER_PREFECT_PORT": str(port),
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
            ),
            "OMP_NUM_THREADS": "1",
        }
        for name in ("PREFECT_API_URL", "TEMPER_DATABASE_URL", "TEMPER_STORE", "TEMPER_DASK"):
            self.env.pop(name, None)

    def start(self, code: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a line of Python with all its children in a process group."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-c", code, *arguments]
            return subprocess.Popen(
                command, env=self.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def run(self, code: str, *arguments: str) -> float:
        """Run it to its end; how long (s) that took."""
        started = time.time()
        if self.start(code, *arguments).wait() != 0:
            raise SystemExit(f"{arguments or code} failed:\n{self.log.read_text()[-3000:]}")
        return time.time() - started

    def campaign(self, name: str) -> tuple[str, ...]:
        """The command that runs a campaign and tells when there is science."""
        begun = "from tasks.forks import prepare_children; prepare_children(); "  # as the command itself does
        observed = f"import overhead; overhead.observe({str(self.events)!r}); "
        return (begun + observed + "from flows.command import main; main()", "run", name)

    def science(self) -> list[Interval]:
        """Begin, end and name of each function that a child was in, by begin."""
        begun: dict[int, float] = {}
        done: list[Interval] = []
        lines = self.events.read_text(encoding="utf-8").splitlines() if self.events.exists() else []
        for event in map(json.loads, lines):
            if "begins" in event:
                begun[event["pid"]] = event["begins"]
            else:
                done.append((begun.pop(event["pid"]), event["ends"], event["name"]))
        return sorted(done)


@contextlib.contextmanager
def home(port: int) -> Iterator[Home]:
    """An empty home, without a server; both go in the end."""
    with tempfile.TemporaryDirectory(prefix="overhead-", ignore_cleanup_errors=True) as folder:
        made = Home(Path(folder), port)
        try:
            yield made
        finally:
            command = [sys.executable, "-m", "prefect", "server", "stop"]
            subprocess.run(command, env=made.env, check=False, capture_output=True)


SERVER = "from flows.server import ensure_server; ensure_server(print)"


def share(campaign: str) -> list[Figure]:
    """What part of a campaign's time is no science, and where that goes."""
    with home(FIRST_PORT) as here:
        here.run(SERVER)
        began = time.time()
        total = here.run(*here.campaign(campaign))
        science = here.science()
    idle, last, end = [], "the command", began
    for begins, ends, name in science:
        if begins > end:
            idle.append((begins - end, f"after {last}, before {name}"))
        if ends > end:
            end, last = ends, name
    idle.append((began + total - end, f"after {last}, to the end"))
    print("Where no child is inside a function of models/:")
    for seconds, where in sorted(idle, reverse=True):
        if seconds > LONG_SECONDS:
            print(f"  {seconds:6.1f} s {where}")
    spent = sum(seconds for seconds, _ in idle)
    side_by_side = sum(ends - begins for begins, ends, _ in science)
    return [
        ("campaign", total, "s"),
        ("science", total - spent, "s"),
        ("science_side_by_side", side_by_side, "s"),
        ("engine_share", 100.0 * spent / total, "%"),
    ]


def cold(campaign: str) -> list[Figure]:
    """How long it takes from nothing to the first function of a child."""
    with home(FIRST_PORT + 20) as here:
        started = time.time()
        process = here.start(*here.campaign(campaign))
        while process.poll() is None and not (here.events.exists() and here.events.read_text()):
            time.sleep(0.05)
        if process.poll() is not None:
            raise SystemExit(f"the campaign ended before its first step:\n{here.log.read_text()[-3000:]}")
        begins = json.loads(here.events.read_text().splitlines()[0])["begins"]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return [("cold_start", begins - started, "s")]


def written(folder: str, number: int, text: str = "") -> str:
    """The trivial piece of work: the path of a new file of a few bytes."""
    path = Path(folder, f"{number}{text}.txt")
    path.write_text(f"{number}{text}")
    return str(path)


def steps(_: str) -> list[Figure]:
    """What a step costs, beside Dask and jobflow."""
    with home(FIRST_PORT + 40) as here:
        here.run(f"{SERVER}; import overhead; overhead.measure_steps({str(here.events)!r})")
        found = json.loads(here.events.read_text())
    return [(f"{name}_per_step", 1000.0 * seconds, "ms") for name, seconds in found.items()]


def measure_steps(file: str) -> None:
    """Seconds for each of many trivial pieces of work, by who does them, as JSON; needs a running server."""
    from distributed import Client, LocalCluster
    from prefect import flow, task

    from db.steps import Output
    from tasks.children import in_child
    from tasks.records import recorded

    def step(kind: str, number: int, call: Callable[..., str]) -> None:
        def compute(work: Path) -> dict[str, Output]:
            path = Path(call(str(work), number, kind))
            return {"file": Output(path=path, kind="file", name="trivial")}

        recorded(kind, 1, {"number": number}, {}, compute)

    plain = task(name="plain")(lambda number: step("plain", number, written))
    child = task(name="child")(lambda number: step("child", number, lambda *args: in_child(written, *args)))

    @flow
    def each() -> dict[str, float]:
        return {"temper": seconds_each(plain), "temper_in_child": seconds_each(child)}

    found = each()
    with tempfile.TemporaryDirectory() as folder:
        with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
            client = Client(cluster)
            found["dask"] = seconds_each(lambda number: client.submit(written, folder, number).result())
            client.close()
        with contextlib.suppress(ModuleNotFoundError):
            found["jobflow"] = jobflow(folder)
    Path(file).write_text(json.dumps(found))


def seconds_each(work: Callable[[int], Any]) -> float:
    """How long a piece of work takes, after one that nobody counts."""
    work(0)
    started = time.perf_counter()
    for number in range(1, STEPS + 1):
        work(number)
    return (time.perf_counter() - started) / STEPS


def jobflow(folder: str) -> float:
    """Seconds for each job of a flow of jobflow; raises ModuleNotFoundError without it."""
    from jobflow import Flow, JobStore, job, run_locally
    from maggma.stores import MemoryStore

    jobs = [job(written)(folder, number) for number in range(STEPS)]
    store = JobStore(MemoryStore())
    started = time.perf_counter()
    run_locally(Flow(jobs), store=store, log=False, ensure_success=True)
    return (time.perf_counter() - started) / STEPS


def workers(_: str) -> list[Figure]:
    """Labels per second of several workers."""
    found: dict[int, float] = {}
    label_seconds: dict[int, float] = {}
    for number in (1, 2, 4):
        with home(FIRST_PORT + 60) as here:
            here.env |= {"TEMPER_DASK": "local", "TEMPER_LABEL_WORKERS": str(number)}
            here.run(f"{SERVER}; import overhead; overhead.measure_labels({str(here.events)!r})")
            took, label_seconds[number] = map(float, here.events.read_text().split())
            found[number] = LABELS / took
    rates = [(f"labels_per_s_{number}", rate, "1/s") for number, rate in found.items()]
    speedups = [(f"speedup_{number}", found[number] / found[1], "") for number in (2, 4)]
    each = [(f"label_seconds_{number}", seconds, "s") for number, seconds in label_seconds.items()]
    return [*each, *rates, *speedups, ("cores", len(os.sched_getaffinity(0)), "cores")]


def measure_labels(file: str) -> None:
    """Write how long (s) all labels take, and one of them, after two that nobody counts; needs a server."""
    from ase.io import read, write

    from db import artifacts
    from flows.labelling import label_structures
    from models.reference import Limits, Tblite

    source = ROOT / "deployments" / "campaigns" / "nacl" / "labels.extxyz"
    droplets, draw = read(source, index=":"), random.Random(0)
    frames = [side_by_side(draw.sample(droplets, DROPLETS)) for _ in range(LABELS + 2)]
    for name, some in (("first", frames[LABELS:]), ("counted", frames[:LABELS])):
        path = Path(file).with_name(f"{name}.extxyz")
        write(path, some)
        started = time.perf_counter()
        made = label_structures(
            Tblite(), artifacts.import_file(path, "dataset", name).id, Limits(seconds=600.0), name
        )
        assert not made.failures
    took = time.perf_counter() - started
    each = [artifacts.get(label).metadata["seconds"] for label in made.labels]
    Path(file).write_text(f"{took} {sum(each) / len(each)}")


def side_by_side(droplets: "Sequence[Atoms]") -> "Atoms":
    """One structure of several, which do not touch."""
    from ase import Atoms

    whole = Atoms()
    for index, one in enumerate(droplets):
        positions = one.positions - one.positions.mean(axis=0) + (APART * index, 0.0, 0.0)
        whole += Atoms(one.numbers, positions)
    return whole


PARTS: dict[str, Callable[[str], Sequence[Figure]]] = {
    "share": share,
    "cold": cold,
    "steps": steps,
    "workers": workers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--campaign", default="nacl")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures: list[Figure] = [("load_before", os.getloadavg()[0], "")]
    for part in args.parts:
        figures += PARTS[part](args.campaign)
    publish([*figures, ("load_after", os.getloadavg()[0], "")], args.json)


if __name__ == "__main__":
    main()
