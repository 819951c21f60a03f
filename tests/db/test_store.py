"""What holds for a store wherever it is, and what only a folder does."""

import hashlib
import os
import resource
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep

import fsspec
import pytest

from db.errors import MissingFile, UnknownArtifact
from db.folder_store import FolderStore
from db.remote_store import RemoteStore
from db.store import DamagedFile, Store, StoreUnavailable


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture(params=["folder", "s3", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return request.getfixturevalue("folder")
    url = request.getfixturevalue("s3") if request.param == "s3" else f"memory://{tmp_path.name}/store"
    return RemoteStore(url, tmp_path / "cache")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.extxyz"
    path.write_bytes(b"\0\1" * (1 << 20))  # several chunks
    return path


def damage(store: Store, id_: str, bytes_: bytes) -> None:
    """Write other bytes over a file in the store, and forget the copies of it."""
    location = store.stat(id_).location
    if isinstance(store, FolderStore):
        Path(location).chmod(0o644)
    else:
        store._cache.path(id_).unlink()
    files, key = fsspec.url_to_fs(location)
    files.pipe_file(key, bytes_)


def names(store: Store) -> list[str]:
    every = [*store.files(), *store.unfinished()]
    return sorted(file.location.removeprefix(f"{store.place}/") for file in every)


def test_file_is_kept_under_its_hash(store: Store, file: Path) -> None:
    id_ = store.put(file, ".extxyz")
    assert id_ == hashlib.sha256(file.read_bytes()).hexdigest()
    assert names(store) == [f"{id_[:2]}/{id_[2:]}.extxyz"]
    assert store.path(id_).read_bytes() == file.read_bytes()
    assert store.path(id_).suffix == ".extxyz"
    assert store.path(id_).stat().st_mode & 0o777 == 0o444
    assert store.has(id_)
    assert store.verify(id_)
    assert file.exists()


def test_same_bytes_are_kept_once_even_under_another_suffix(store: Store, file: Path) -> None:
    assert store.put(file, ".extxyz") == store.put(file, ".extxyz") == store.put(file, ".xyz")
    assert len(names(store)) == 1


def test_bytes_that_are_not_those_expected_are_not_stored(store: Store, file: Path) -> None:
    with file.open("rb") as source, pytest.raises(DamagedFile, match="should have the sha256 aaa"):
        store.receive(source, ".xyz", expected="a" * 64)
    assert names(store) == []


@pytest.mark.parametrize("bytes_", [b"\0\2" * (1 << 20), b"\0\1" * 1000, b""])
def test_changed_file_is_never_used_and_can_be_healed(store: Store, file: Path, bytes_: bytes) -> None:
    id_ = store.put(file, ".extxyz")
    assert store.path(id_).exists()
    damage(store, id_, bytes_)
    assert not store.verify(id_)
    with pytest.raises(DamagedFile, match=f"the bytes of {store.place}/.* have changed: remove it, then"):
        store.path(id_)
    assert store.put(file, ".extxyz") == id_
    assert store.verify(id_)
    assert store.path(id_).read_bytes() == file.read_bytes()


def test_missing_file_is_one_clear_error(store: Store, tmp_path: Path) -> None:
    assert not store.has("a" * 64)
    for ask in (store.path, store.verify, store.stat):
        with pytest.raises(MissingFile, match=f"the store {store.place} has no file {'a' * 64}"):
            ask("a" * 64)
    with pytest.raises(MissingFile, match=r"labels\.extxyz is not a file"):
        store.put(tmp_path / "labels.extxyz", ".extxyz")


@pytest.mark.parametrize("id_", ["../../etc/passwd", "", "A" * 64, "a" * 63])
def test_only_a_hash_names_a_file(store: Store, id_: str) -> None:
    for ask in (store.path, store.has):
        with pytest.raises(UnknownArtifact, match="not a sha256"):
            ask(id_)


def test_files_are_listed_with_what_they_are(store: Store, file: Path) -> None:
    assert names(store) == []
    id_ = store.put(file, ".extxyz")
    files, key = fsspec.url_to_fs(store.stat(id_).location)
    files.pipe_file(f"{key.rpartition('/')[0]}/notes", b"not the store's")
    (kept,) = store.files()
    assert kept == store.find(id_)
    assert (kept.artifact_id, kept.size) == (id_, file.stat().st_size)
    assert timedelta(0) <= datetime.now(UTC) - kept.written_at < timedelta(minutes=10)


def test_a_file_is_removed_unless_it_was_put_again(store: Store, file: Path) -> None:
    id_ = store.put(file, ".extxyz")
    (listed,) = store.files()
    sleep(1.1 if store.place.startswith("s3:") else 0.01)  # S3 tells times to the second
    store.put(file, ".extxyz")
    assert not store.remove(listed)
    assert store.verify(id_)
    (listed,) = store.files()
    assert store.remove(listed)
    assert not store.remove(listed)
    assert names(store) == []
    with pytest.raises(MissingFile):
        store.path(id_)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process can grow beyond 1 MiB, as if the disk ended there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_is_one_clear_error_and_leaves_nothing(store: Store, file: Path, full_disk: None) -> None:
    with pytest.raises(StoreUnavailable, match=r"store .* cannot be written to: File too large; make room"):
        store.put(file, ".extxyz")
    assert names(store) == []


def test_leftovers_of_a_kill_do_no_harm(folder: FolderStore, file: Path) -> None:
    (folder.root / ".incoming").mkdir(parents=True)
    (folder.root / ".incoming" / "half").write_bytes(file.read_bytes()[:100])
    (half,) = folder.unfinished()
    assert (half.artifact_id, half.location, half.size) == ("", f"{folder.root}/.incoming/half", 100)
    assert folder.verify(folder.put(file, ".extxyz"))


def test_bytes_are_read_again_only_if_the_file_looks_different(
    folder: FolderStore, file: Path, reads: Callable[[], int]
) -> None:
    id_ = folder.put(file, ".extxyz")
    path = folder.path(id_)
    before = reads()
    for _ in range(3):
        assert folder.path(id_) == path
    assert reads() - before < 1 << 20
    path.chmod(0o644)
    os.utime(path, ns=(0, 0))
    folder.path(id_)
    assert reads() - before > file.stat().st_size
    with path.open("r+b") as opened:
        opened.write(b"\1")
    os.utime(path, ns=(0, 0))  # of the same size, and as old as before
    with pytest.raises(DamagedFile):
        folder.path(id_)


@pytest.fixture
def reads() -> Callable[[], int]:
    """How many bytes this process has read from files so far."""

    def count() -> int:
        said = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(said["rchar"])

    return count


def test_a_file_that_cannot_be_read_is_one_clear_error(folder: FolderStore, file: Path) -> None:
    path = folder.path(folder.put(file, ".extxyz"))
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreUnavailable, match=r"store .* cannot be read: Is a directory; make it readable"):
        folder.path(hashlib.sha256(file.read_bytes()).hexdigest())
