"""What is on record after kills, on a full disk, in a store that may not be written to."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from random import Random
from time import sleep

import pytest
from sqlalchemy import func, select

import db
from db import artifacts, garbage
from db.session import session
from db.settings import settings
from db.steps import Done, Output, once
from db.store import StoreUnavailable, store
from db.tables import StepRow
from db.verification import verify

Start = Callable[..., subprocess.Popen[str]]

NO_GRACE = timedelta(0)
KILLS_PER_CHAIN = 4

# argv: the chain to begin with. Writes chains of 30 steps, each with two files, one chain after the other.
WRITER = """
import sys
from itertools import count
from random import Random
from db.agent import software
from db.session import session
from db.steps import Output, once

def write(chain, number, before):
    def compute(work):
        size = Random(number).randrange(1000, 200_000)
        (work / "model.bin").write_bytes(Random(f"{chain} {number}").randbytes(size))
        (work / "log.txt").write_text(f"{chain} {number}")
        return {
            "model": Output(path=work / "model.bin", kind="checkpoint", name=f"{chain}-{number}"),
            "log": Output(path=work / "log.txt", kind="history", name=f"{chain}-{number}"),
        }
    parameters = {"chain": chain, "number": number}
    return once("write", 1, parameters, {"before": before}, compute).outputs["model"]

with session(read_only=True):
    software()
print("writing", flush=True)
for chain in count(int(sys.argv[1])):
    before = []
    for number in range(30):
        before = [write(chain, number, before)]
    print("chain", chain, flush=True)
"""


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_kills_leave_nothing_missing_and_nothing_half_written(url: str, process: Start, kills: int) -> None:
    instants = Random(0)
    for number in range(kills):
        writer = process(WRITER, str(number // KILLS_PER_CHAIN))
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        sleep(instants.uniform(0.0, 0.5))
        writer.kill()
        writer.communicate()
        # What a kill may leave, and the next run uses or gc removes.
        assert [p for p in verify(grace=NO_GRACE) if p.kind not in ("orphan", "unfinished")] == []
    writer = process(WRITER, "0")
    assert writer.stdout is not None
    assert [writer.stdout.readline() for _ in range(2)] == ["writing\n", "chain 0\n"]
    writer.kill()
    writer.communicate()
    garbage.remove(garbage.find(grace=NO_GRACE))
    assert verify(grace=NO_GRACE) == []
    assert not any(settings().work_root.iterdir())
    with session(read_only=True) as s:
        done = select(func.count()).select_from(StepRow).where(StepRow.status == "done")
        assert (s.scalar(done) or 0) >= 30


def train(before_it_is_kept: Callable[[], None] = lambda: None) -> Done:
    """A step with a checkpoint that makes a file of 4 MiB."""

    def compute(work: Path) -> Mapping[str, Output]:
        with (work / "checkpoint").open("a") as checkpoint:
            checkpoint.write("epoch\n")
        (work / "model").write_bytes(bytes(4 << 20))
        before_it_is_kept()
        epochs = len((work / "checkpoint").read_text().splitlines())
        metadata = {"epochs": epochs}
        return {"model": Output(path=work / "model", kind="checkpoint", name="model", metadata=metadata)}

    return once("train", 1, {}, {}, compute)


def status() -> tuple[str, int]:
    with session(read_only=True) as s:
        row = s.scalars(select(StepRow)).one()
        return row.status, row.attempt


def resumed() -> None:
    """Trained again, the step goes on from its checkpoint, and all is as if nothing had happened."""
    done = train()
    assert artifacts.get(done.outputs["model"]).metadata == {"epochs": 2}
    assert status() == ("done", 2)
    assert verify(grace=NO_GRACE) == []


@pytest.fixture
def fill_disk() -> Iterator[Callable[[], None]]:
    """From the call on no file of this process can grow beyond 2 MiB, as if the disk ended there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_fails_the_step_which_goes_on_when_there_is_room(
    url: str, fill_disk: Callable[[], None]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(StoreUnavailable, match="cannot be written to: File too large; make room"):
        train(fill_disk)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status() == ("failed", 1)
    assert [*store().files(), *store().unfinished()] == []
    resumed()


TRAIN = """
import sys
from pathlib import Path
from db.errors import ProvenanceError
from db.steps import Output, once

def compute(work):
    (work / "checkpoint").write_text("epoch\\n")
    (work / "model").write_bytes(bytes(4 << 20))
    return {"model": Output(path=work / "model", kind="checkpoint", name="model")}

try:
    once("train", 1, {}, {}, compute)
except ProvenanceError as error:
    print(error)
"""


def test_a_store_that_may_not_be_written_to_fails_the_step_which_goes_on_when_it_may(url: str) -> None:
    as_anybody: list[str] = []
    if os.geteuid() == 0:  # root may write anywhere, without these capabilities it may not
        as_anybody = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        if url.startswith("postgresql"):  # and then it may not look into the folder of the socket
            Path(url.rpartition("host=")[2]).chmod(0o755)
    store().root.mkdir(parents=True)
    store().root.chmod(0o555)
    said = subprocess.run(
        [*as_anybody, sys.executable, "-c", TRAIN],
        cwd=Path(db.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    store().root.chmod(0o755)
    (line,) = said.stdout.splitlines()
    assert line.startswith(
        f"the store {store().root} cannot be written to: Permission denied; make room or make"
    )
    assert status() == ("failed", 1)
    resumed()
