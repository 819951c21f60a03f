"""Content-addressed files: each is kept under the sha256 of its bytes and never changes.

``ab/cdef….suffix`` is the name of a file in every store, so that one can be copied to another with any tool.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from db.errors import MissingFile, ProvenanceError, UnknownArtifact
from db.settings import settings

CHUNK = 1 << 20
NAME = re.compile(r"([0-9a-f]{2})/([0-9a-f]{62})(\..*)?")

GRACE = timedelta(days=1)
"""How long bytes may wait for their row. It takes seconds; a suspended laptop may need a night."""


class StoreUnavailable(ProvenanceError):
    """The store cannot be used: its disk is full, it may not be written to, or its server does not answer."""


class DamagedFile(ProvenanceError):
    """The bytes of a file are not those that it is named after."""

    @classmethod
    def at(cls, location: str) -> "DamagedFile":
        """The error for a file that is kept there."""
        return cls(
            f"the bytes of {location} have changed: remove it, then import it again or run the step that "
            "made it again; temper verify lists all such files"
        )


class Source(Protocol):
    """Something that bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, none at the end."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file in the store.

    Attributes:
        artifact_id: the sha256 it is named after; empty for a copy that was not finished.
        location: its path, or its URL.
        size: bytes.
        written_at: when its bytes were last put there, UTC.
    """

    artifact_id: str
    location: str
    size: int
    written_at: datetime


class Store(ABC):
    """Files under the sha256 of their bytes.

    Attributes:
        place: where they are: a folder, or a URL.
    """

    place: str

    def put(self, path: Path, suffix: str) -> str:
        """Copy a file into the store and return the sha256 of its bytes as hex.

        The copy appears under its final name at once and complete. Putting the same bytes again makes them
        new, or heals a damaged copy.

        Raises:
            MissingFile: ``path`` is not a file.
            StoreUnavailable: the store cannot take it.
        """
        if not path.is_file():
            raise MissingFile(f"{path} is not a file")
        with path.open("rb") as source:
            return self.receive(source, suffix)

    @abstractmethod
    def receive(self, source: Source, suffix: str, *, expected: str | None = None) -> str:
        """``put`` for bytes that are read from ``source``.

        Raises:
            DamagedFile: their sha256 is not the ``expected`` one. Nothing is stored.
            StoreUnavailable: the store cannot take them.
        """

    @abstractmethod
    def path(self, artifact_id: str) -> Path:
        """A file of this machine with these bytes, read-only; they have been compared with their sha256.

        Raises:
            UnknownArtifact: ``artifact_id`` is not a full sha256.
            MissingFile: the store does not hold it.
            DamagedFile: its bytes have changed.
            StoreUnavailable: the store cannot be reached.
        """

    @abstractmethod
    def find(self, artifact_id: str) -> StoredFile | None:
        """What is known about a file without reading its bytes; None if the store does not hold it.

        Raises:
            UnknownArtifact: ``artifact_id`` is not a full sha256.
            StoreUnavailable: the store cannot be reached.
        """

    @abstractmethod
    def verify(self, artifact_id: str) -> bool:
        """Read the file: whether its bytes still have the sha256 they are named after.

        Raises:
            UnknownArtifact, MissingFile, StoreUnavailable: as for ``path``.
        """

    @abstractmethod
    def files(self) -> Iterator[StoredFile]:
        """Every file that is kept, in no order. Files of other names are not the store's and left out."""

    @abstractmethod
    def unfinished(self) -> Iterator[StoredFile]:
        """Copies that are being written, or that a kill cut off."""

    @abstractmethod
    def remove(self, file: StoredFile) -> bool:
        """Remove a file, unless its bytes were put there again since it was listed; True if it was removed.

        Raises:
            StoreUnavailable: the store may not be written to, or cannot be reached.
        """

    def has(self, artifact_id: str) -> bool:
        """Whether the store holds a file of this name; its bytes are not read."""
        return self.find(artifact_id) is not None

    def stat(self, artifact_id: str) -> StoredFile:
        """``find`` for a file that should be there.

        Raises:
            UnknownArtifact, MissingFile, StoreUnavailable: as for ``path``.
        """
        found = self.find(artifact_id)
        if found is None:
            raise MissingFile(
                f"the store {self.place} has no file {artifact_id}: put it back, import it again, "
                "or run the step that made it again"
            )
        return found


def require_sha256(artifact_id: str) -> None:
    """Raise UnknownArtifact for anything else, so that nothing else ever becomes part of a path."""
    if not re.fullmatch("[0-9a-f]{64}", artifact_id):
        raise UnknownArtifact(f"'{artifact_id}' is not a sha256 of 64 hex digits")


def store() -> Store:
    """The store of the current settings: a folder, or whatever its URL says."""
    place = settings().store_place
    if isinstance(place, Path):
        from db.folder_store import FolderStore

        return FolderStore(place)
    from db.remote_store import RemoteStore

    return RemoteStore(place, settings().cache_root)
