"""The store in a folder of this machine: nothing in it is ever half-written."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from db.store import (
    CHUNK,
    NAME,
    DamagedFile,
    Source,
    Store,
    StoredFile,
    StoreUnavailable,
    require_sha256,
)

_sound: dict[Path, tuple[int, ...]] = {}
"""How a file looked when its bytes were last found to be those of its name."""


class FolderStore(Store):
    """A folder that only grows by moves of complete files, each on the disk before it gets its name.

    A kill leaves at worst a file in ``.incoming``. ``put`` and ``remove`` are kept apart by a lock. This is
    not done through fsspec, whose local files are neither synced nor safe from a kill.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place = str(root)

    def receive(self, source: Source, suffix: str, *, expected: str | None = None) -> str:
        """See ``Store.receive``."""
        incoming = self._incoming / uuid4().hex
        with self._using("written to", "make room or make it writable"):
            incoming.parent.mkdir(parents=True, exist_ok=True)
            try:
                digest = hashlib.sha256()
                with incoming.open("xb") as copy:
                    while chunk := source.read(CHUNK):
                        digest.update(chunk)
                        copy.write(chunk)
                    copy.flush()
                    os.fsync(copy.fileno())
                artifact_id = digest.hexdigest()
                if expected not in (None, artifact_id):
                    raise DamagedFile(f"bytes that should have the sha256 {expected} have {artifact_id}")
                incoming.chmod(0o444)
                with self._locked(fcntl.LOCK_SH):
                    final = self._path(artifact_id) or self._folder(artifact_id) / (artifact_id[2:] + suffix)
                    final.parent.mkdir(exist_ok=True)
                    incoming.replace(final)
                _fsync_folder(final.parent)
                return artifact_id
            finally:
                incoming.unlink(missing_ok=True)

    def path(self, artifact_id: str) -> Path:
        """See ``Store.path``. A file that was read before is read again only if it looks different."""
        path = Path(self.stat(artifact_id).location)
        if _sound.get(path) != _look(path.stat()) and not self.verify(artifact_id):
            raise DamagedFile.at(str(path))
        return path

    def find(self, artifact_id: str) -> StoredFile | None:
        """See ``Store.find``."""
        path = self._path(artifact_id)
        return _described(path, artifact_id) if path else None

    def verify(self, artifact_id: str) -> bool:
        """See ``Store.verify``."""
        path = Path(self.stat(artifact_id).location)
        with self._using("read", "make it readable"), path.open("rb") as file:
            look = _look(os.fstat(file.fileno()))
            sound = hashlib.file_digest(file, "sha256").hexdigest() == artifact_id
        if sound:
            _sound[path] = look
        return sound

    def files(self) -> Iterator[StoredFile]:
        """See ``Store.files``."""
        for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
            name = NAME.fullmatch(path.relative_to(self.root).as_posix())
            if name is not None and (file := _described(path, name[1] + name[2])):
                yield file

    def unfinished(self) -> Iterator[StoredFile]:
        """See ``Store.unfinished``."""
        for path in self._incoming.glob("*"):
            if file := _described(path, ""):
                yield file

    def remove(self, file: StoredFile) -> bool:
        """See ``Store.remove``."""
        path = Path(file.location)
        with self._using("written to", "make room or make it writable"), self._locked(fcntl.LOCK_EX):
            if _described(path, file.artifact_id) != file:
                return False
            path.unlink()
            return True

    @property
    def _incoming(self) -> Path:
        return self.root / ".incoming"

    @contextmanager
    def _using(self, use: str, remedy: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(
                f"the store {self.root} cannot be {use}: {error.strerror}; {remedy}, then run again"
            ) from error

    @contextmanager
    def _locked(self, mode: int) -> Iterator[None]:
        """Keep ``put`` and ``remove`` apart, so that a file put again is never the one that is removed."""
        with (self.root / ".lock").open("ab") as lock:
            fcntl.flock(lock, mode)  # released when the file is closed, also by kill -9
            yield

    def _folder(self, artifact_id: str) -> Path:
        require_sha256(artifact_id)
        return self.root / artifact_id[:2]

    def _path(self, artifact_id: str) -> Path | None:
        return min(self._folder(artifact_id).glob(f"{artifact_id[2:]}*"), default=None)


def _described(path: Path, artifact_id: str) -> StoredFile | None:
    """What is known about a file; None if it is gone by now."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    written_at = datetime.fromtimestamp(status.st_mtime, UTC)
    return StoredFile(artifact_id=artifact_id, location=str(path), size=status.st_size, written_at=written_at)


def _look(status: os.stat_result) -> tuple[int, ...]:
    """What changes when somebody writes to a file; ctime also where the time of the bytes was set back."""
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
