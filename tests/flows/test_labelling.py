"""The labels of a selection through a real Prefect server: what is kept, what fails, what is done again."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from distributed import LocalCluster
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from db import artifacts
from flows.labelling import TooManyFailures, label_structures
from models.datasets import DataError, fingerprint
from models.reference import Limits, Tblite
from models.reference.command import Command
from waiting import until

pytestmark = pytest.mark.flow

ROOT = Path(__file__).parents[2]
LIMITS = Limits(seconds=300.0, retries=0)


@pytest.fixture(autouse=True)
def server(prefect_server: Any) -> Iterator[Any]:
    """The flows of this process run on the server."""
    with temporary_settings({PREFECT_API_URL: prefect_server.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield prefect_server


@pytest.fixture
def selected(tmp_path: Path) -> Callable[[Sequence[Atoms]], str]:
    """Put structures on record; the id of the file."""

    def put(frames: Sequence[Atoms]) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.extxyz"
        write(path, list(frames))
        return artifacts.import_file(path, "dataset", path.stem).id

    return put


def waters(number: int, seed: int = 0) -> list[Atoms]:
    """Molecules of water, each a little different, with things in their info that are not theirs."""
    rng = np.random.default_rng(seed)
    frames = [molecule("H2O") for _ in range(number)]
    for index, frame in enumerate(frames):
        frame.positions = (frame.positions + rng.normal(scale=0.05, size=(3, 3))).round(4)  # as in the file
        frame.info = {"walker": f"dynamics-{index}", "arm": "selected"}
    return frames


def steps(home: Path) -> dict[str, tuple[str, int, float]]:
    """Status, attempts and seconds of each label's step on record."""
    with closing(sqlite3.connect(f"file:{home}/temper.db?mode=ro", uri=True)) as record:
        rows = record.execute("SELECT key, status, attempt, seconds FROM step WHERE kind = 'label'")
        return {key: (status, attempt, seconds) for key, status, attempt, seconds in rows}


def last_run(server: Any) -> dict[str, Any]:
    """The last run of the flow, with the names of its tasks and the descriptions of its artifacts."""
    query = {"flows": {"name": {"any_": ["label"]}}, "sort": "START_TIME_DESC", "limit": 1}
    (run,) = server.post("/flow_runs/filter", query)
    mine = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    shown = [artifact["description"] for artifact in server.post("/artifacts/filter", mine)]
    return {**run, "shown": shown}


@pytest.fixture
def elsewhere(temper_home: Path) -> Iterator[str]:
    """The address of a Dask scheduler with two workers, which are processes that may have no children."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=None
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(params=["threads", "local", pytest.param("elsewhere", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everywhere where labels are computed."""
    address = request.getfixturevalue("elsewhere") if request.param == "elsewhere" else request.param
    monkeypatch.setenv("TEMPER_DASK", address.removeprefix("threads"))


@pytest.mark.usefixtures("place")
def test_a_structure_is_labelled_once_whoever_asks(
    server: Any, selected: Callable[..., str], temper_home: Path
) -> None:
    frames = waters(4)
    first = label_structures(Tblite(), selected(frames), LIMITS, "salt-1")
    assert first.failures == []
    found = [read(artifacts.path(id_)) for id_ in first.labels]
    assert [fingerprint(frame) for frame in found] == [fingerprint(frame) for frame in frames]
    assert all("walker" not in frame.info and "REF_energy" in frame.info for frame in found)
    run = last_run(server)
    assert (run["name"], run["state"]["type"]) == ("label-salt-1", "COMPLETED")
    assert run["shown"] == ["label salt-1: 4 of 4 labels"]

    computed = steps(temper_home)
    assert label_structures(Tblite(), selected(frames), LIMITS, "salt-1") == first
    for frame in frames:
        frame.info = {"walker": "of another round"}
    another = label_structures(Tblite(), selected([*waters(1, seed=1), frames[2]]), LIMITS, "salt-2")
    assert another.labels[1] == first.labels[2]
    after = steps(temper_home)
    assert len(after) == 5
    assert {key: after[key] for key in computed} == computed


PROGRAM = """
mood=$(sed -n 3p $1 | cut -d' ' -f1)
here=$(dirname $0)
echo "labelling $mood"
if [ ! -e $here/mended ]; then
    case $mood in
        He) echo "a bad day"; exit 3;;
        Ar) echo $$ > $here/Ar.pid; exec sleep 600;;
        Kr) exec python3 -c "import time; held = b'1' * 400_000_000; time.sleep(600)";;
    esac
fi
[ $mood = Ne ] && echo "SCF NOT CONVERGED after 50 cycles" && exit 0
awk 'NR == 1 {print}
     NR == 2 {print "Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc=\\"F F F\\""}
     NR > 2 {print $1, $2, $3, $4, 0.0, 0.0, 0.1}' $1 > $2
"""
"""Labels what it is given, but for a few elements; once it is mended, only neon does not converge."""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program's script; beside it `mended` says that it is, and `Ar.pid` who sleeps on argon."""
    monkeypatch.setenv("TEMPER_PROGRAMS", "sh")
    path = tmp_path / "program" / "program.sh"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    return path


def calling(program: Path) -> Command:
    return Command(
        level_of_theory="made up",
        run=f"sh {program} {{input}} {{output}}",
        output="answer.extxyz",
        output_format="extxyz",
        unconverged="NOT CONVERGED.*",
    )


def test_what_fails_is_told_and_stops_nothing_else(
    server: Any,
    selected: Callable[..., str],
    program: Path,
    temper_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEMPER_LABEL_WORKERS", "3")
    good = waters(4)
    frames = [good[0], *(Atoms(element) for element in ("Ar", "Kr", "He", "Ne")), *good[1:]]
    selection = selected(frames)
    limits = Limits(seconds=4.0, memory_gb=0.2, retries=1)
    made = label_structures(calling(program), selection, limits, "moods")
    labels = [read(artifacts.path(id_)) for id_ in made.labels]
    assert [fingerprint(frame) for frame in labels] == [fingerprint(frame) for frame in good]
    time_, memory, crash, unconverged = (json.loads(artifacts.path(i).read_text()) for i in made.failures)
    assert (time_["error"], time_["structure"]["numbers"]) == ("OutOfTime", [18])
    assert memory["error"] == "OutOfMemory"
    assert crash["error"] == "RuntimeError"
    assert "left with exit code 3" in crash["reason"]
    assert "log.txt:\n" in crash["reason"]
    assert crash["reason"].rstrip().endswith("labelling He\na bad day")
    assert (unconverged["error"], unconverged["reason"]) == (
        "NotConverged",
        "NOT CONVERGED after 50 cycles",
    )
    assert last_run(server)["state"]["type"] == "COMPLETED"
    before = steps(temper_home)
    assert sorted((status, attempt) for status, attempt, _ in before.values()) == [
        *[("done", 1)] * 5,
        *[("failed", 2)] * 3,
    ]

    (program.parent / "mended").touch()
    again = label_structures(calling(program), selection, limits, "moods")
    assert len(again.labels) == 7
    assert again.failures == made.failures[3:]
    after = steps(temper_home)
    assert {key: after[key] for key in before if before[key][0] == "done"} == {
        key: row for key, row in before.items() if row[0] == "done"
    }
    assert sorted(attempt for _, attempt, _ in after.values()) == [1] * 5 + [3] * 3


def test_too_many_failures_are_one_error_that_says_why(
    selected: Callable[..., str], program: Path, temper_home: Path
) -> None:
    rng = np.random.default_rng(0)
    frames = [*waters(1), *(Atoms("HeNe", rng.normal(size=(2, 3))) for _ in range(2)), Atoms("Ne")]
    limits = LIMITS.model_copy(update={"max_failed_share": 0.7})
    with pytest.raises(TooManyFailures) as caught:
        label_structures(calling(program), selected(frames), limits, "moods")
    message = str(caught.value)
    assert message.startswith("labels of moods: 3 of 4 failed, and max_failed_share is 0.7: 2 × RuntimeError")
    assert "1 × NotConverged, as 'NOT CONVERGED after 50 cycles'" in message
    assert message.endswith("The labels that succeeded are kept; mend the cause, run again")
    assert sorted(status for status, _, _ in steps(temper_home).values()) == ["done"] * 2 + ["failed"] * 2


def test_nothing_is_started_where_a_structure_cannot_be_labelled(
    selected: Callable[..., str], temper_home: Path
) -> None:
    odd = molecule("H2O")
    odd.info["multiplicity"] = 2
    with pytest.raises(DataError, match=r"structure 2 \(H2O\): 10 electrons"):
        label_structures(Tblite(), selected([*waters(2), odd]), LIMITS, "odd")
    assert steps(temper_home) == {}


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("dask", ["", "local"])  # for workers elsewhere see `test_clusters`
def test_an_interrupted_batch_ends_its_programs_and_goes_on(
    dask: str,
    selected: Callable[..., str],
    program: Path,
    temper_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEMPER_DASK", dask)
    frames = [*waters(2), Atoms("Ar"), Atoms("ArH"), Atoms("ArH2"), Atoms("ArH3")]
    selection = selected(frames)
    sleeper = program.parent / "Ar.pid"

    def interrupt() -> None:
        until(lambda: sleeper.exists() and sleeper.read_text() != "")
        # To this thread, and not to the main one, which waits: a signal for the process may end up here too.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        label_structures(calling(program), selection, Limits(retries=3), "interrupted")
    watcher.join()
    until(lambda: not psutil.pid_exists(int(sleeper.read_text())))
    before = steps(temper_home)
    # None is at work any more, and none was tried again.
    assert {(status, attempt) for status, attempt, _ in before.values()} <= {("done", 1), ("failed", 1)}
    (program.parent / "mended").touch()
    assert len(label_structures(calling(program), selection, LIMITS, "interrupted").labels) == 6
    after = steps(temper_home)
    assert {key: after[key] for key, row in before.items() if row[0] == "done"} == {
        key: row for key, row in before.items() if row[0] == "done"
    }


CAMPAIGN = """
import sys
from flows.labelling import label_structures
from models.reference import CALCULATOR, Limits

if __name__ == "__main__":
    calculator = CALCULATOR.validate_json(sys.argv[1])
    label_structures(calculator, sys.argv[2], Limits(), "killed")
"""


@pytest.mark.slow  # a whole campaign is killed in `test_rounds`
def test_a_batch_that_is_killed_loses_no_label(
    server: Any, selected: Callable[..., str], program: Path, temper_home: Path
) -> None:
    frames = [*waters(3), Atoms("Ar"), Atoms("ArH")]
    selection, calculator = selected(frames), calling(program)
    sleeper = program.parent / "Ar.pid"
    script = program.with_name("campaign.py")
    script.write_text(CAMPAIGN)
    env = {
        **server.env,
        "PREFECT_API_URL": server.url,
        "TEMPER_HOME": str(temper_home),
        "TEMPER_PROGRAMS": "sh",
    }
    with subprocess.Popen(
        [sys.executable, script, calculator.model_dump_json(), selection],
        env={**env, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    ) as campaign:
        until(
            lambda: (
                sleeper.exists() and sum(status == "done" for status, *_ in steps(temper_home).values()) == 3
            )
        )
        os.killpg(campaign.pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(int(sleeper.read_text())))
    before = steps(temper_home)
    assert {status for status, *_ in before.values()} == {"done", "running"}
    (program.parent / "mended").touch()
    made = label_structures(calculator, selection, LIMITS, "killed")
    assert len(made.labels) == 5
    after = steps(temper_home)
    for key, row in before.items():
        assert after[key] == row if row[0] == "done" else after[key][:2] == ("done", 2)
