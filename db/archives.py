"""Archives: artifacts with all that they rest on in one file, which another store takes in.

An archive is a plain tar: ``manifest.json`` first, then ``files/`` with each file under its sha256. Nothing
is ever unpacked by the names in it.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import cast
from uuid import uuid4

from pydantic import ValidationError

from db import artifacts
from db.canonical import JSON, canonical
from db.errors import NotCanonical, ProvenanceError
from db.manifest import Record
from db.session import one_at_a_time, session
from db.store import DamagedFile, store
from db.tables import ArtifactRow
from db.transfer import Choice, Entered, collect, conflicts, enter

FORMAT = 1
MANIFEST = "manifest.json"
READ_ONLY = 0o444


class BadArchive(ProvenanceError):
    """A file that is no archive, is damaged, comes from a newer Temper, or cannot be written."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What an archive holds: how many artifacts and steps, the aliases, and its size in bytes."""

    artifacts: int
    steps: int
    aliases: list[str]
    size: int


def push(ids: Iterable[str], file: Path) -> Pushed:
    """Write artifacts and all that they rest on to an archive; the same record gives the same bytes.

    Raises:
        MissingFile, DamagedFile: the store does not hold one of the files, or not unchanged.
        UnfinishedStep: a step that made one of them is not done.
        BadArchive: ``file`` exists, or cannot be written.
    """
    if file.exists():
        raise BadArchive(f"{file} is there already; give another name")
    with session(read_only=True) as s:
        record = collect(s, ids)
    files = {artifact.id: artifacts.path(artifact.id) for artifact in record.artifacts}
    said = record.model_dump(mode="json")
    manifest = {"format": FORMAT, "sha256": _digest(said), "record": said}
    unfinished = file.with_name(f".{file.name}.{uuid4().hex[:8]}")
    try:
        with unfinished.open("xb") as opened:
            with tarfile.open(fileobj=opened, mode="w") as tar:
                text = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
                tar.addfile(_member(MANIFEST, len(text)), BytesIO(text))
                for artifact in record.artifacts:
                    with files[artifact.id].open("rb") as source:
                        tar.addfile(_member(f"files/{artifact.id}", artifact.size), source)
            opened.flush()
            os.fsync(opened.fileno())
        unfinished.replace(file)
    except OSError as error:
        raise BadArchive(f"{file} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return Pushed(
        artifacts=len(record.artifacts),
        steps=len(record.steps),
        aliases=[alias.name for alias in record.aliases],
        size=file.stat().st_size,
    )


def pull(file: Path, choice: Choice | None = None) -> Entered:
    """Take an archive in. Its steps count as done here; what is here already is not stored again.

    Every file is compared with its hash before anything is stored, and all is recorded in one transaction.
    ``choice`` says what becomes of aliases that stand for something else here.

    Raises:
        BadArchive: it is damaged, of a newer format, or no archive. Nothing is stored or recorded.
        ConflictingRecords, ConflictingMetadata: it contradicts what is here. Nothing is stored or recorded.
        StoreUnavailable: the disk is full. Nothing is recorded.
    """
    with _opened(file) as tar:
        members = {member.name: member for member in tar}
        record = _record(tar, members, file)
        _check(tar, members, record, file)
        with session(read_only=True) as s:
            conflicts(s, record, choice)
            here = {artifact.id for artifact in record.artifacts if s.get(ArtifactRow, artifact.id)}
        for artifact in record.artifacts:
            if artifact.id in here and store().has(artifact.id) and store().verify(artifact.id):
                continue
            bytes_ = _bytes(tar, members[f"files/{artifact.id}"])
            try:
                store().receive(bytes_, artifact.suffix, expected=artifact.id)
            except DamagedFile as error:
                raise BadArchive(f"{file} changed while it was read") from error
    with session() as s:
        one_at_a_time(s)  # it may bring retractions and aliases
        return enter(s, record, choice)


@contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    """The archive; whatever tar finds wrong with it is one error."""
    try:
        with tarfile.open(file, "r:") as tar:
            yield tar
    except (OSError, tarfile.TarError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadArchive(
            f"{file} cannot be read as an archive: {reason}; check the path, or get it again"
        ) from error


def _record(tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], file: Path) -> Record:
    """The manifest, if it is of a known format and unchanged."""
    if next(iter(members), None) != MANIFEST or not members[MANIFEST].isreg():
        raise BadArchive(f"{file} is not an archive of Temper: it does not begin with {MANIFEST}")
    try:
        manifest = json.loads(_bytes(tar, members[MANIFEST]).read())
        if (version := manifest["format"]) != FORMAT:
            raise BadArchive(f"{file} has format {version!r}, this Temper reads {FORMAT}: upgrade Temper")
        if _digest(manifest["record"]) != manifest["sha256"]:
            raise BadArchive(f"{file} is damaged: its {MANIFEST} has changed; get it again")
        return Record.model_validate(manifest["record"])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadArchive(f"{file}: its {MANIFEST} is wrong: {place}: {first['msg']}") from error
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        RecursionError,
        KeyError,
        TypeError,
        NotCanonical,
    ) as error:
        raise BadArchive(f"{file} is damaged: its {MANIFEST} cannot be read; get it again") from error


def _check(tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], record: Record, file: Path) -> None:
    """Refuse an archive that does not hold exactly the files of its manifest, byte for byte."""
    expected = {f"files/{artifact.id}": artifact for artifact in record.artifacts}
    if len(tar.getmembers()) != len(members):
        raise BadArchive(f"{file} holds something twice")
    for name in members.keys() - expected.keys() - {MANIFEST}:
        raise BadArchive(f"{file} holds {name!r}, which its {MANIFEST} does not list")
    for name, artifact in expected.items():
        label = artifacts.titled(artifact)
        if name not in members:
            raise BadArchive(f"{file} is damaged: it lacks {label}; get it again")
        member = members[name]
        sound = member.isreg() and member.size == artifact.size
        if not sound or hashlib.file_digest(_bytes(tar, member), "sha256").hexdigest() != artifact.id:
            raise BadArchive(f"{file} is damaged: the bytes of {label} have changed; get it again")


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> BufferedReader:
    return cast(BufferedReader, tar.extractfile(member))


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, READ_ONLY
    return member


def _digest(record: JSON) -> str:
    return hashlib.sha256(canonical(record).encode()).hexdigest()
