"""How fast, how exact and how safe the record is, on SQLite and on PostgreSQL.

    python benchmarks/store.py [--steps 100000] [--structures 100000] [--processes 16] [--shared 1000]
                               [--kills 200] [--json FILE]

`lineage_ms` is the median time of the lineage of a checkpoint in a record of `--steps` steps, connection
included. `ingest_per_s` counts the labelled structures (24 atoms each, made as they are asked for) that are
hashed and entered per second, with all checks, until `--structures` of them are on record; `ingest_mb` is by
how much the memory of the process that does it grows at most. What it costs to read structures from extended
XYZ is not in it and is printed apart. `computed_twice` counts the computations too many when `--processes`
processes all ask for the same `--shared` steps, each in an order of its own; any error in one of them ends
the benchmark. `kills_survived` counts the kills (SIGKILL, at random instants, half on each database) of a
process that writes steps and files after which nothing on record was missing and no file was half-written.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psutil
import psycopg
from ase import Atoms
from figures import publish
from sqlalchemy import func, insert, select, text

from db import artifacts
from db.agent import software
from db.labels import Calculation, record
from db.lineage import ancestors
from db.session import session
from db.steps import Output, once
from db.tables import ArtifactRow, GeneratedRow, StepRow, UsedRow
from db.verification import verify
from models.datasets import entries, entry, write_structures
from models.labels import TOLERANCE

STEPS_PER_CAMPAIGN = 40
ASKED = 50  # lineages
CHAIN = 30  # steps that rest on each other, in the record that is killed
KILLS_PER_CHAIN = 5
LONGEST = 0.6  # s before a kill
FROM_FILE = 2000  # structures that are read from extended XYZ
HARMLESS = ("orphan", "unfinished")  # what a kill may leave, and gc removes


@contextlib.contextmanager
def postgres() -> Iterator[Path]:
    """A PostgreSQL server of our own; the value is the folder of its socket."""
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket path has at most 107 characters
    as_owner: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        as_owner = ["runuser", "-u", "postgres", "--"]

    def run(program: str, *arguments: str) -> None:
        command = [*as_owner, str(binaries / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    try:
        run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-k {folder} -c listen_addresses=''", "start")
        try:
            yield folder
        finally:
            run("pg_ctl", "-w", "-m", "fast", "stop")
    finally:
        shutil.rmtree(folder)


def new_home(database: str, scratch: Path, socket: Path) -> None:
    """Point the environment of this process and of its children to an empty home and an empty database."""
    home = scratch / uuid4().hex
    os.environ["TEMPER_HOME"] = str(home)
    os.environ["TEMPER_DATABASE_URL"] = f"sqlite:///{home}/temper.db"
    if database == "postgresql":
        name = f"temper_{home.name}"
        with psycopg.connect(host=str(socket), user="postgres", dbname="postgres", autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}")
        os.environ["TEMPER_DATABASE_URL"] = f"postgresql://postgres@/{name}?host={socket}"


def fill(steps: int, seed: int) -> list[str]:
    """Write campaigns of 40 steps that share a foundation; the last checkpoint of each."""
    drawn = random.Random(seed)
    at = datetime.now(UTC)
    artifact = {
        "suffix": "",
        "size": 0,
        "metadata_": {"level_of_theory": "PBE"},
        "created_at": at,
        "created_by": "",
    }
    step: dict[str, Any] = {
        "version": 1, "status": "done", "attempt": 1, "started_at": at, "finished_at": at, "seconds": 1.0,
        "parameters": {"optimisation": {"learning_rate": 0.01, "epochs": 100}}, "software": {"torch": "2.13"},
        "host": "", "user": "",
    }  # fmt: skip
    foundation, last = drawn.randbytes(32).hex(), []
    with session() as s:
        s.execute(insert(ArtifactRow).values(id=foundation, kind="foundation", name="small", **artifact))
        for campaign in range(steps // STEPS_PER_CAMPAIGN):
            labels = drawn.randbytes(32).hex()
            made, rows, edges, generated = [foundation, labels], [], [], []
            made_by = [{"id": labels, "kind": "dataset", "name": "labels", "step_key": None, **artifact}]
            for number in range(STEPS_PER_CAMPAIGN):
                key, output = drawn.randbytes(32).hex(), drawn.randbytes(32).hex()
                rows.append({"key": key, "kind": f"step {number}", "seed": campaign, **step})
                inputs = dict.fromkeys([made[-1], *drawn.sample(made, min(2, len(made))), foundation])
                edges += [
                    {"step_key": key, "role": "data", "position": position, "artifact_id": id_}
                    for position, id_ in enumerate(inputs)
                ]
                made_by.append(
                    {"id": output, "kind": "checkpoint", "name": "made", "step_key": key, **artifact}
                )
                generated.append({"step_key": key, "role": "made", "artifact_id": output})
                made.append(output)
            for table, content in (
                (StepRow, rows),
                (ArtifactRow, made_by),
                (UsedRow, edges),
                (GeneratedRow, generated),
            ):
                s.execute(insert(table), content)
            last.append(made[-1])
    return last


def lineage_ms(steps: int, seed: int) -> float:
    """Median time (ms) of a lineage in a record of so many steps."""
    last = fill(steps, seed)
    with session() as s:
        if s.get_bind().dialect.name == "postgresql":
            s.execute(text("ANALYZE"))  # which its daemon does by itself within a minute
        n_steps = s.scalar(select(func.count()).select_from(StepRow))
    times, sizes, busy = [], [], time.process_time()
    for id_ in random.Random(seed).sample(last, min(ASKED, len(last))):
        began = time.perf_counter()
        sizes.append(len(ancestors(id_).steps))
        times.append(1e3 * (time.perf_counter() - began))
    cpu = 1e3 * (time.process_time() - busy) / len(times)
    print(
        f"{n_steps} steps, lineages of {min(sizes)} to {max(sizes)}: median "
        f"{statistics.median(times):.1f} ms, slowest {max(times):.1f} ms; processor time here "
        f"{cpu:.1f} ms"
    )
    return statistics.median(times)


def structures(number: int, seed: int) -> Iterator[Atoms]:
    """Labelled structures of eight molecules of water in a box, one at a time."""
    drawn = np.random.default_rng(seed)
    numbers = [8, 1, 1] * 8
    for _ in range(number):
        atoms = Atoms(numbers, positions=drawn.uniform(0.0, 6.2, (24, 3)), cell=[6.2] * 3, pbc=True)
        atoms.info["REF_energy"] = -14.0 + drawn.normal()
        atoms.arrays["REF_forces"] = drawn.normal(size=(24, 3))
        yield atoms


def ingest(number: int, seed: int, answer: Path) -> None:
    """Put structures on record as a dataset, a tenth of them again as another one, and all again."""
    made = Calculation(level_of_theory="PBE", calculator="none")
    for name, how_many in (("all", number), ("some", number // 10), ("all", number)):
        (answer.parent / name).write_text(name)
        id_ = artifacts.import_file(answer.parent / name, "dataset", name).id
        before, began = psutil.Process().memory_info().rss, time.perf_counter()
        record(id_, made, map(entry, structures(how_many, seed)), tolerance=TOLERANCE)
        seconds = time.perf_counter() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before / 1024**2
        with answer.open("a") as file:
            file.write(f"{seconds} {grown}\n")


def ingestion(number: int, seed: int, folder: Path) -> tuple[float, float]:
    """Structures that come on record per second, and by how much memory grows (MB)."""
    home = folder / uuid4().hex
    home.mkdir()
    child = start(ingest, number, seed, home / "answer")
    child.join()
    if child.exitcode:
        raise RuntimeError("the process that ingests ended with an error, see above")
    lines = [list(map(float, line.split())) for line in (home / "answer").read_text().splitlines()]
    (seconds, grown), (some, _), (again, _) = lines
    print(
        f"{number} structures on record in {seconds:.1f} s, {number / seconds:.0f}/s, memory grew by "
        f"{grown:.0f} MB; a tenth again in another dataset in {some:.1f} s; all again in {again:.2f} s"
    )
    return number / seconds, grown


def read_per_s(seed: int, folder: Path) -> float:
    """Structures that are read from extended XYZ per second."""
    path = folder / "structures.extxyz"
    write_structures(path, list(structures(FROM_FILE, seed)))
    began = time.perf_counter()
    n_read = sum(1 for _ in entries(path))
    return n_read / (time.perf_counter() - began)


def ask_all(shared: int, seed: int, log: Path) -> None:
    """Ask for every shared step, in an order of one's own; a line in the log for each that is computed."""
    order = list(range(shared))
    random.Random(seed).shuffle(order)
    for number in order:

        def compute(work: Path, number: int = number) -> Mapping[str, Output]:
            with log.open("a") as file:
                file.write(f"{number}\n")
            (work / "out").write_text(str(number))
            return {"out": Output(path=work / "out", kind="file", name=str(number))}

        once("shared", 1, {"number": number}, {}, compute)


def computed_twice(processes: int, shared: int, folder: Path) -> int:
    """Computations too many when several processes ask for the same steps at once."""
    log = folder / uuid4().hex
    began = time.monotonic()
    children = [start(ask_all, shared, seed, log) for seed in range(processes)]
    for child in children:
        child.join()
    if any(child.exitcode for child in children):
        raise RuntimeError("a process that asked for steps ended with an error, see above")
    computed = [int(line) for line in log.read_text().split()]
    if set(computed) != set(range(shared)):
        raise RuntimeError("a step was not computed at all")
    print(
        f"{processes} processes, {shared} steps: {len(computed)} computed in {time.monotonic() - began:.1f} s"
    )
    return len(computed) - shared


def write(chain: int, started: Any) -> None:
    """Write steps with two files each until killed, in chains in which each rests on the one before."""
    with session(
        read_only=True
    ):  # the first use, and what is asked for once per process, come before the kill
        software()
    started.set()
    for now in count(chain):
        before: list[str] = []
        for number in range(CHAIN):
            name = f"{now} {number}"

            def compute(work: Path, name: str = name) -> Mapping[str, Output]:
                drawn = random.Random(name)
                (work / "model.bin").write_bytes(drawn.randbytes(drawn.randrange(1000, 200_000)))
                (work / "log.txt").write_text(name)
                return {
                    "model": Output(path=work / "model.bin", kind="checkpoint", name=name),
                    "log": Output(path=work / "log.txt", kind="history", name=name),
                }

            before = [once("write", 1, {"name": name}, {"before": before}, compute).outputs["model"]]


def kills_survived(kills: int, seed: int) -> int:
    """Kills after which nothing on record was missing, and no file was half-written."""
    drawn, survived, left = random.Random(seed), 0, 0
    for number in range(kills):
        started = multiprocessing.get_context("forkserver").Event()
        child = start(write, number // KILLS_PER_CHAIN, started)
        started.wait()
        time.sleep(drawn.uniform(0.0, LONGEST))
        child.kill()
        child.join()
        problems = verify(grace=timedelta(0))
        left += sum(problem.kind in HARMLESS for problem in problems)
        harmful = [problem for problem in problems if problem.kind not in HARMLESS]
        survived += not harmful
        for problem in harmful:
            print(f"after kill {number}: {problem.kind} {problem.detail}")
    with session(read_only=True) as s:
        n_steps = s.scalar(select(func.count()).select_from(StepRow).where(StepRow.status == "done"))
    print(f"{kills} kills, {n_steps} steps done; harmless files seen without a row, over all looks: {left}")
    return survived


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A child with modules imported and nothing else shared."""
    child = multiprocessing.get_context("forkserver").Process(
        target=in_home, args=(dict(os.environ), target, *arguments)
    )
    child.start()
    return child


def in_home(environment: Mapping[str, str], target: Callable[..., None], *arguments: Any) -> None:
    """Run in the environment as it was when the child was asked for, not when its server was started."""
    os.environ.update(environment)
    target(*arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=100_000, help="in the record whose lineages are asked for"
    )
    parser.add_argument("--structures", type=int, default=100_000, help="that are put on record")
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--shared", type=int, default=1000, help="steps that all processes ask for")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    multiprocessing.get_context("forkserver").set_forkserver_preload(["db.steps", "models.datasets"])
    figures: list[tuple[str, float, str]] = []
    survived = 0
    with tempfile.TemporaryDirectory() as folder, postgres() as socket:
        scratch = Path(folder)
        print(f"extended XYZ: {read_per_s(args.seed, scratch):.0f} structures read per second")
        for database, kills in (("sqlite", args.kills - args.kills // 2), ("postgresql", args.kills // 2)):
            print(f"{database}:", flush=True)
            new_home(database, scratch, socket)
            figures.append((f"lineage_ms[{database}]", lineage_ms(args.steps, args.seed), "ms"))
            new_home(database, scratch, socket)
            rate, grown = ingestion(args.structures, args.seed, scratch)
            figures.append((f"ingest_per_s[{database}]", rate, "structures/s"))
            figures.append((f"ingest_mb[{database}]", grown, "MB"))
            new_home(database, scratch, socket)
            twice = computed_twice(args.processes, args.shared, scratch)
            figures.append((f"computed_twice[{database}]", twice, f"of {args.shared}"))
            new_home(database, scratch, socket)
            survived += kills_survived(kills, args.seed)
    publish([*figures, ("kills_survived", survived, f"of {args.kills}")], args.json)


if __name__ == "__main__":
    main()
