import hashlib
import resource
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from db.errors import MissingFile, UnknownArtifact
from db.store import Store, StoreUnavailable


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.extxyz"
    path.write_bytes(b"\0\1" * (3 << 20))  # several chunks
    return path


def files(store: Store) -> list[str]:
    every = [*store.files(), *store.unfinished()]
    return sorted(str(file.path.relative_to(store.root)) for file in every)


def test_file_is_kept_under_its_hash(store: Store, file: Path) -> None:
    id_ = store.put(file, ".extxyz")
    assert id_ == hashlib.sha256(file.read_bytes()).hexdigest()
    assert files(store) == [f"{id_[:2]}/{id_[2:]}.extxyz"]
    assert store.path(id_).read_bytes() == file.read_bytes()
    assert store.path(id_).stat().st_mode & 0o777 == 0o444
    assert store.has(id_)
    assert store.verify(id_)
    assert file.exists()


def test_same_bytes_are_kept_once_even_under_another_suffix(store: Store, file: Path) -> None:
    assert store.put(file, ".extxyz") == store.put(file, ".extxyz") == store.put(file, ".xyz")
    assert len(files(store)) == 1


def test_leftovers_of_a_kill_do_no_harm(store: Store, file: Path) -> None:
    (store.root / ".incoming").mkdir(parents=True)
    (store.root / ".incoming" / "half").write_bytes(file.read_bytes()[:100])
    id_ = store.put(file, ".extxyz")
    assert store.verify(id_)


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
    assert files(store) == []


def test_changed_file_is_seen_and_healed(store: Store, file: Path) -> None:
    id_ = store.put(file, ".extxyz")
    kept = store.path(id_)
    kept.chmod(0o644)
    kept.write_bytes(b"\0\2" * (3 << 20))
    assert not store.verify(id_)
    store.put(file, ".extxyz")
    assert store.verify(id_)


def test_missing_file_is_one_clear_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=f"has no file {'a' * 64}"):
        store.path("a" * 64)
    with pytest.raises(MissingFile, match=r"labels\.extxyz is not a file"):
        store.put(tmp_path / "labels.extxyz", ".extxyz")


@pytest.mark.parametrize("id_", ["../../etc/passwd", "", "A" * 64, "a" * 63])
def test_only_a_hash_names_a_file(store: Store, id_: str) -> None:
    with pytest.raises(UnknownArtifact, match="not a sha256"):
        store.path(id_)


def test_files_are_listed_with_what_they_are(store: Store, file: Path) -> None:
    assert files(store) == []
    id_ = store.put(file, ".extxyz")
    (store.path(id_).parent / "notes").touch()  # not the store's
    (store.root / ".incoming" / "half").write_text("half")
    (kept,), (half,) = store.files(), store.unfinished()
    assert (kept.artifact_id, kept.path, kept.size) == (id_, store.path(id_), file.stat().st_size)
    assert kept.written_at == datetime.fromtimestamp(store.path(id_).stat().st_mtime, UTC)
    assert (half.artifact_id, half.size) == ("", 4)


def test_a_file_is_removed_unless_it_was_put_again(store: Store, file: Path) -> None:
    id_ = store.put(file, ".extxyz")
    (listed,) = store.files()
    store.put(file, ".extxyz")
    assert not store.remove(listed)
    assert store.verify(id_)
    (listed,) = store.files()
    assert store.remove(listed)
    assert not store.remove(listed)
    assert files(store) == []
