"""Content-addressed files: each is kept under the sha256 of its bytes and never changes."""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from db.errors import MissingFile, ProvenanceError, UnknownArtifact
from db.settings import settings

CHUNK = 1 << 20
NAME = re.compile(r"([0-9a-f]{2})/([0-9a-f]{62})(\..*)?")

GRACE = timedelta(days=1)
"""How long bytes may wait for their row. It takes seconds; a suspended laptop may need a night."""


class StoreUnavailable(ProvenanceError):
    """The store cannot take a file: the disk is full, or it may not be written to."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file in the store.

    Attributes:
        artifact_id: the sha256 it is named after; empty for a copy that was not finished.
        size: bytes.
        written_at: when its bytes were last put there, UTC.
    """

    artifact_id: str
    path: Path
    size: int
    written_at: datetime


class Store:
    """A folder of files named ``ab/cdef….suffix`` after the sha256 of their bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, path: Path, suffix: str) -> str:
        """Copy a file into the store and return the sha256 of its bytes as hex.

        The copy appears under its final name in one move, complete and on the disk; a kill leaves at worst
        a file in ``.incoming``. Putting the same bytes again makes them new, or heals a damaged copy.

        Raises:
            MissingFile: ``path`` is not a file.
            StoreUnavailable: the disk is full, or the store may not be written to.
        """
        if not path.is_file():
            raise MissingFile(f"{path} is not a file")
        with path.open("rb") as source:
            return self.receive(source, suffix)

    def receive(self, source: BinaryIO, suffix: str) -> str:
        """``put`` for bytes that are read from an open file.

        Raises:
            StoreUnavailable: the disk is full, or the store may not be written to.
        """
        incoming = self._incoming / uuid4().hex
        with self._writing():
            incoming.parent.mkdir(parents=True, exist_ok=True)
            try:
                digest = hashlib.sha256()
                with incoming.open("xb") as copy:
                    while chunk := source.read(CHUNK):
                        digest.update(chunk)
                        copy.write(chunk)
                    copy.flush()
                    os.fsync(copy.fileno())
                incoming.chmod(0o444)
                artifact_id = digest.hexdigest()
                with self._locked(fcntl.LOCK_SH):
                    final = (
                        self._find(artifact_id) or self._folder(artifact_id) / f"{artifact_id[2:]}{suffix}"
                    )
                    final.parent.mkdir(exist_ok=True)
                    incoming.replace(final)
                _fsync_folder(final.parent)
                return artifact_id
            finally:
                incoming.unlink(missing_ok=True)

    def path(self, artifact_id: str) -> Path:
        """Where the file with this sha256 is.

        Raises:
            UnknownArtifact: ``artifact_id`` is not a full sha256.
            MissingFile: the store does not hold it.
        """
        found = self._find(artifact_id)
        if found is None:
            raise MissingFile(
                f"the store {self.root} has no file {artifact_id}: put it back, import it again, "
                "or run the step that made it again"
            )
        return found

    def has(self, artifact_id: str) -> bool:
        """Whether the store holds a file of this name; its bytes are not read."""
        return self._find(artifact_id) is not None

    def verify(self, artifact_id: str) -> bool:
        """Whether the bytes of the file still have the sha256 they are named after."""
        with self.path(artifact_id).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == artifact_id

    def files(self) -> Iterator[StoredFile]:
        """Every file that is kept, in no order. Files of other names are not the store's and left out."""
        for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
            name = NAME.fullmatch(path.relative_to(self.root).as_posix())
            if name is not None and (file := _described(path, name[1] + name[2])):
                yield file

    def unfinished(self) -> Iterator[StoredFile]:
        """Copies that are being written, or that a kill cut off."""
        for path in self._incoming.glob("*"):
            if file := _described(path, ""):
                yield file

    def remove(self, file: StoredFile) -> bool:
        """Remove a file, unless its bytes were put there again since it was listed; True if it was removed.

        Raises:
            StoreUnavailable: the store may not be written to.
        """
        with self._writing(), self._locked(fcntl.LOCK_EX):
            if _described(file.path, file.artifact_id) != file:
                return False
            file.path.unlink()
            return True

    @property
    def _incoming(self) -> Path:
        return self.root / ".incoming"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(
                f"the store {self.root} cannot be written to: {error.strerror}; make room or make it "
                "writable, then run again"
            ) from error

    @contextmanager
    def _locked(self, mode: int) -> Iterator[None]:
        """Keep ``put`` and ``remove`` apart, so that a file put again is never the one that is removed."""
        with (self.root / ".lock").open("ab") as lock:
            fcntl.flock(lock, mode)  # released when the file is closed, also by kill -9
            yield

    def _folder(self, artifact_id: str) -> Path:
        if not re.fullmatch("[0-9a-f]{64}", artifact_id):
            raise UnknownArtifact(f"'{artifact_id}' is not a sha256 of 64 hex digits")
        return self.root / artifact_id[:2]

    def _find(self, artifact_id: str) -> Path | None:
        return min(self._folder(artifact_id).glob(f"{artifact_id[2:]}*"), default=None)


def store() -> Store:
    """The store of the current settings."""
    return Store(settings().store_root)


def _described(path: Path, artifact_id: str) -> StoredFile | None:
    """What is known about a file; None if it is gone by now."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    written_at = datetime.fromtimestamp(status.st_mtime, UTC)
    return StoredFile(artifact_id=artifact_id, path=path, size=status.st_size, written_at=written_at)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
