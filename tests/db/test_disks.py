"""A disk that is full, or may not be written to: one clear error, and a campaign that goes on afterwards."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

import db
from db import aliases, artifacts
from db.errors import DatabaseUnavailable
from db.session import session
from db.settings import settings
from db.steps import Output, ScratchUnavailable, once
from db.store import StoreUnavailable, store
from db.tables import StepRow
from db.verification import verify

NO_GRACE = timedelta(0)


def nothing() -> None:
    """What happens to the disk of a campaign that is not disturbed."""


def campaign(
    tmp_path: Path, meanwhile: Callable[[], None] = nothing, between: Callable[[], None] = nothing
) -> str:
    """Labels, a split of them, a model trained on it with a checkpoint to go on from, and its promotion."""
    labels = tmp_path / "labels.extxyz"
    labels.write_text("labels")
    given = artifacts.import_file(labels, "labels", labels.name).id

    def ingest(work: Path) -> Mapping[str, Output]:
        (work / "train.extxyz").write_text("train")
        return {"train": Output(path=work / "train.extxyz", kind="dataset", name="train")}

    def train(work: Path) -> Mapping[str, Output]:
        with (work / "checkpoint").open("a") as checkpoint:
            checkpoint.write("epoch\n")
        (work / "model").write_bytes(bytes(4 << 20))
        meanwhile()
        metadata = {"epochs": len((work / "checkpoint").read_text().splitlines())}
        return {"model": Output(path=work / "model", kind="checkpoint", name="model", metadata=metadata)}

    data = once("ingest", 1, {}, {"labels": given}, ingest).outputs
    between()
    model = once("train", 1, {}, data, train).outputs["model"]
    aliases.promote("salt@champion", model, reason="accepted")
    return model


def steps() -> dict[str, tuple[str, int]]:
    """Status and attempt of each step, by kind."""
    with session(read_only=True) as s:
        return {row.kind: (row.status, row.attempt) for row in s.scalars(select(StepRow))}


def goes_on(tmp_path: Path, epochs: int = 2) -> None:
    """The campaign runs to its end: what was done is not done again, the training continues where it was."""
    model = campaign(tmp_path)
    assert artifacts.get(model).metadata == {"epochs": epochs}
    assert aliases.resolve("salt@champion").id == model
    assert steps() == {"ingest": ("done", 1), "train": ("done", 2)}
    assert verify(grace=NO_GRACE) == []


class Disk:
    """A small disk, mounted for one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave not a byte."""
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def lock(self) -> None:
        """Nothing may be written any more."""
        self._remount("ro")

    def heal(self) -> None:
        """There is room again, and it may be written to."""
        self._remount("rw")
        self._filler.unlink(missing_ok=True)

    def _remount(self, mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk, and not in every container")
    yield Disk(folder)
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("trouble", "reason"), [("fill", "No space left on device"), ("lock", "Read-only file system")]
)
def test_the_disk_of_the_store(
    url: str, disk: Disk, trouble: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_HOME", str(disk.folder / "temper"))
    message = (
        f"^the store {disk.folder}/temper/store cannot be written to: {reason}; make room or make it writ"
    )
    with pytest.raises(StoreUnavailable, match=message) as caught:
        campaign(tmp_path, getattr(disk, trouble))
    assert "\n" not in str(caught.value)
    assert steps() == {"ingest": ("done", 1), "train": ("failed", 1)}
    disk.heal()
    goes_on(tmp_path)


@pytest.mark.parametrize(
    ("trouble", "reason"), [("fill", "No space left on device"), ("lock", "Read-only file system")]
)
def test_the_disk_of_the_scratch_folders(
    url: str, disk: Disk, trouble: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_HOME", str(disk.folder / "temper"))
    message = f"^the scratch folder {settings().work_root}/[0-9a-f]* cannot be written to: {reason};"
    with pytest.raises(ScratchUnavailable, match=message):
        campaign(tmp_path, between=getattr(disk, trouble))
    assert steps() == {"ingest": ("done", 1), "train": ("failed", 1)}
    disk.heal()
    goes_on(tmp_path, epochs=1)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("trouble", "reason"),
    [("fill", "disk I/O error|database or disk is full"), ("lock", "unable to open|readonly database")],
)
def test_the_disk_of_the_database(
    url: str, disk: Disk, trouble: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_DATABASE_URL", f"sqlite:///{disk.folder}/temper.db")
    monkeypatch.setenv("TEMPER_LEASE_SECONDS", "0.5")  # this process lives on, so the lease has to run out
    message = rf"^database sqlite:///{disk.folder}/temper\.db: .*({reason}).*; check "
    with pytest.raises(DatabaseUnavailable, match=message) as caught:
        campaign(tmp_path, getattr(disk, trouble))
    assert "\n" not in str(caught.value)
    disk.heal()
    goes_on(tmp_path)


@pytest.fixture
def small_files() -> Iterator[Callable[[], None]]:
    """From the call on no file of this process can grow beyond 2 MiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_may_not_grow(url: str, small_files: Callable[[], None], tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(StoreUnavailable, match="cannot be written to: File too large; make room"):
        campaign(tmp_path, small_files)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert steps() == {"ingest": ("done", 1), "train": ("failed", 1)}
    assert [*store().unfinished()] == []
    goes_on(tmp_path)


TRAIN = """
from db.errors import ProvenanceError
from db.steps import Output, once

def compute(work):
    (work / "model").write_bytes(bytes(4 << 20))
    return {"model": Output(path=work / "model", kind="checkpoint", name="model")}

try:
    print(once("train", 1, {}, {}, compute).outputs["model"])
except ProvenanceError as error:
    print(error)
"""


def train(*as_anybody: str) -> str:
    """What a process says that trains: the id of the model, or why there is none."""
    command = [*as_anybody, sys.executable, "-c", TRAIN]
    root = Path(db.__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    return line


def test_a_store_of_somebody_else(url: str) -> None:
    as_anybody: list[str] = []
    if os.geteuid() == 0:  # root may write anywhere, without these capabilities it may not
        as_anybody = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        if url.startswith("postgresql"):  # and then it may not look into the folder of the socket
            Path(url.rpartition("host=")[2]).chmod(0o755)
    folder = settings().home / "store"
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    said = train(*as_anybody)
    folder.chmod(0o755)
    assert said.startswith(f"the store {folder} cannot be written to: Permission denied; make room or make")
    assert steps() == {"train": ("failed", 1)}
    assert artifacts.path(train()).stat().st_size == 4 << 20
    assert steps() == {"train": ("done", 2)}
    assert verify(grace=NO_GRACE) == []
