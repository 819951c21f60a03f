"""Content-addressed files: each is kept under the sha256 of its bytes and never changes."""

import hashlib
import os
import re
from pathlib import Path
from uuid import uuid4

from db.errors import MissingFile, UnknownArtifact
from db.settings import settings

CHUNK = 1 << 20


class Store:
    """A folder of files named ``ab/cdef….suffix`` after the sha256 of their bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, path: Path, suffix: str) -> str:
        """Copy a file into the store and return the sha256 of its bytes as hex.

        The copy appears under its final name in one move, complete and on the disk; a kill leaves at worst
        a file in ``.incoming``. Putting the same bytes again changes nothing, or heals a damaged copy.

        Raises:
            MissingFile: ``path`` is not a file.
        """
        if not path.is_file():
            raise MissingFile(f"{path} is not a file")
        incoming = self.root / ".incoming" / uuid4().hex
        incoming.parent.mkdir(parents=True, exist_ok=True)
        try:
            digest = hashlib.sha256()
            with path.open("rb") as source, incoming.open("xb") as copy:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    copy.write(chunk)
                copy.flush()
                os.fsync(copy.fileno())
            incoming.chmod(0o444)
            artifact_id = digest.hexdigest()
            final = self._find(artifact_id) or self._folder(artifact_id) / f"{artifact_id[2:]}{suffix}"
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

    def _folder(self, artifact_id: str) -> Path:
        if not re.fullmatch("[0-9a-f]{64}", artifact_id):
            raise UnknownArtifact(f"'{artifact_id}' is not a sha256 of 64 hex digits")
        return self.root / artifact_id[:2]

    def _find(self, artifact_id: str) -> Path | None:
        return min(self._folder(artifact_id).glob(f"{artifact_id[2:]}*"), default=None)


def store() -> Store:
    """The store of the current settings."""
    return Store(settings().store_root)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
