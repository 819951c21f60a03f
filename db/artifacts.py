"""Artifacts: files with a content hash, a kind, a name and what is known about them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import select

from db.agent import who
from db.canonical import JSON, plain
from db.errors import AmbiguousArtifact, ConflictingMetadata, MissingFile, UnknownArtifact
from db.session import insert_new, now, session
from db.store import DamagedFile, require_sha256, store
from db.tables import AliasRow, ArtifactRow

SHORTEST_PREFIX = 6
CANDIDATES_SHOWN = 5
NEEDS = "needs"
"""The metadata field of a file that is of use only with another one: the id of that, an input of its step."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file that never changes.

    Attributes:
        id: sha256 of its bytes, hex.
        kind: what it is (``dataset``, ``checkpoint``, …).
        size: bytes.
        metadata: what is known about it: level of theory, licence, counts, ….
        created_at: when it was first recorded, UTC.
        created_by: ``user@host``.
    """

    id: str
    kind: str
    name: str
    size: int
    metadata: Mapping[str, Any]
    created_at: datetime
    created_by: str

    @classmethod
    def of(cls, row: ArtifactRow) -> "Artifact":
        """The artifact of a row."""
        return cls(
            id=row.id,
            kind=row.kind,
            name=row.name,
            size=row.size,
            metadata=row.metadata_,
            created_at=row.created_at,
            created_by=row.created_by,
        )


class Named(Protocol):
    """An artifact, in whatever form."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...


def titled(it: Named) -> str:
    """How messages name an artifact: kind, name and the beginning of its id."""
    return f"{it.kind} '{it.name}' ({it.id[:12]})"


def import_file(path: Path, kind: str, name: str, metadata: Mapping[str, JSON] | None = None) -> Artifact:
    """Record a file that no step made. Importing the same bytes again returns the same artifact.

    Kind and name stay what they were first; metadata may be added to, not contradicted.

    Raises:
        MissingFile: ``path`` is not a file.
        NotCanonical: metadata that is not JSON.
        ConflictingMetadata: these bytes are on record with another value of a metadata field.
    """
    said = plain(metadata or {}, f"metadata of {path}")
    artifact_id = store().put(path, path.suffix)
    size = store().stat(artifact_id).size
    with session() as s:
        insert_new(
            s,
            ArtifactRow,
            id=artifact_id,
            kind=kind,
            name=name,
            suffix=path.suffix,
            size=size,
            metadata_=said,
            created_at=now(s),
            created_by=who(),
        )
        row = s.execute(
            select(ArtifactRow).where(ArtifactRow.id == artifact_id).with_for_update()
        ).scalar_one()
        for field, value in said.items():
            if row.metadata_.get(field, value) != value:
                raise ConflictingMetadata(
                    f"{path}: the same bytes are on record as {titled(row)} with "
                    f"{field}={row.metadata_[field]!r}, now {field}={value!r} is given; "
                    "correct the one that is wrong"
                )
        row.metadata_ = {**said, **row.metadata_}
        return Artifact.of(row)


def get(artifact_id: str) -> Artifact:
    """The artifact with this full id.

    Raises:
        UnknownArtifact: there is none.
    """
    with session(read_only=True) as s:
        row = s.get(ArtifactRow, artifact_id)
        if row is None:
            raise UnknownArtifact(f"no artifact has the id '{artifact_id}'")
        return Artifact.of(row)


def path(artifact_id: str) -> Path:
    """A read-only file with the bytes of an artifact, after they were found to have its hash.

    What it needs is then on this machine too, and sound, under the same names as in every store.
    A process reads the bytes again only if the file looks different since. Reading 1 GB takes about a second.

    Raises:
        UnknownArtifact: ``artifact_id`` is not a full id.
        MissingFile: the store does not hold the file.
        DamagedFile: its bytes have changed.
        StoreUnavailable: the store cannot be reached.
    """
    require_sha256(artifact_id)
    with session(read_only=True) as s:
        row = s.get(ArtifactRow, artifact_id)
    try:
        found = store().path(artifact_id)
    except (MissingFile, DamagedFile) as error:
        label = titled(row) if row else f"artifact {artifact_id[:12]}"
        raise type(error)(f"{label}: {error}") from error
    if row is not None and NEEDS in row.metadata_:
        path(row.metadata_[NEEDS])
    return found


def find(text: str) -> Artifact:
    """The artifact a person means: an alias, a full id, or the first digits of one (6 or more).

    Raises:
        UnknownArtifact: nothing fits; known aliases are listed.
        AmbiguousArtifact: the digits fit several; they are listed.
    """
    with session(read_only=True) as s:
        if "@" in text:
            row = s.scalar(
                select(ArtifactRow)
                .join(AliasRow, AliasRow.artifact_id == ArtifactRow.id)
                .where(AliasRow.name == text)
            )
            if row is None:
                known = ", ".join(s.scalars(select(AliasRow.name).order_by(AliasRow.name))) or "none yet"
                raise UnknownArtifact(f"no alias '{text}'; known: {known}")
            return Artifact.of(row)
        if not re.fullmatch(f"[0-9a-f]{{{SHORTEST_PREFIX},64}}", text):
            raise UnknownArtifact(
                f"'{text}' is neither an alias (nacl@champion) nor {SHORTEST_PREFIX}+ hex digits of an id"
            )
        rows = s.scalars(
            select(ArtifactRow)
            .where(ArtifactRow.id.startswith(text))
            .order_by(ArtifactRow.id)
            .limit(CANDIDATES_SHOWN + 1)
        ).all()
        if not rows:
            raise UnknownArtifact(f"no artifact has an id that starts with '{text}'")
        if len(rows) > 1:
            shown = ", ".join(f"{row.id[:16]} ({row.kind} {row.name})" for row in rows[:CANDIDATES_SHOWN])
            more = ", …" if len(rows) > CANDIDATES_SHOWN else ""
            raise AmbiguousArtifact(f"'{text}' fits several artifacts, give more digits: {shown}{more}")
        return Artifact.of(rows[0])
