"""Garbage: files and scratch folders that nothing refers to and, if asked for, what no alias rests on.

What is being computed is never garbage: bytes that are younger than a grace period may still get their row,
and a step whose lease is held keeps its folder, its inputs and all that they were made from.
"""

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import bindparam, delete, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from db.artifacts import Artifact
from db.closure import closure, freeze
from db.errors import ProvenanceError
from db.leases import is_gone
from db.session import now, session
from db.settings import settings
from db.store import GRACE, StoredFile, store
from db.tables import ArtifactRow, Base, GeneratedRow, StepRow, UsedRow

REMOVED = ".removed-"
GRAPH = ("step", "artifact", "used", "generated", "calculation", "dataset", "label")


class EmptyRecord(ProvenanceError):
    """There are files in the store, but nothing at all is on record."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A scratch folder, its size in bytes, and why it is not needed."""

    path: Path
    size: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """What may be removed.

    Attributes:
        files: files that no artifact is on record for.
        unfinished: copies into the store that a kill cut off.
        folders: scratch folders of steps that are done, or that nobody computes any more.
        artifacts: what no alias rests on; only if it was asked for.
        steps: the keys of the steps that go with them.
        grace: nothing younger than this is in here.
    """

    files: list[StoredFile]
    unfinished: list[StoredFile]
    folders: list[Folder]
    artifacts: list[Artifact]
    steps: list[str]
    grace: timedelta

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        files = sum(file.size for file in [*self.files, *self.unfinished])
        return files + sum(f.size for f in self.folders) + sum(a.size for a in self.artifacts)


def find(*, unreachable: bool = False, grace: timedelta = GRACE) -> Garbage:
    """Look for garbage; nothing is changed.

    With ``unreachable`` also artifacts and steps that no alias rests on, now or in its history. Whatever else
    names an artifact (a retraction), or is younger than ``grace``, counts like an alias.

    Raises:
        EmptyRecord: nothing is on record, but there are files: most likely this is another database.
    """
    before = datetime.now(UTC) - grace
    with session(read_only=True) as s:
        known = set(s.scalars(select(ArtifactRow.id)))
        folders = list(_folders(s, grace))
        artifacts: list[Artifact] = []
        steps: list[str] = []
        if unreachable:
            lost, steps = _unreachable(s, grace)
            artifacts = [Artifact.of(s.get_one(ArtifactRow, artifact_id)) for artifact_id in lost]
    files = list(store().files())
    if files and not known:
        raise EmptyRecord(
            f"the store {store().place} holds {len(files)} files, but nothing is on record: check "
            "TEMPER_DATABASE_URL, TEMPER_STORE and TEMPER_HOME. If none of them is wanted, remove them all"
        )
    return Garbage(
        files=[file for file in files if file.artifact_id not in known and file.written_at < before],
        unfinished=[file for file in store().unfinished() if file.written_at < before],
        folders=folders,
        artifacts=sorted(artifacts, key=lambda artifact: (artifact.kind, artifact.name, artifact.id)),
        steps=steps,
        grace=grace,
    )


def remove(garbage: Garbage) -> int:
    """Remove what was found, as far as it is still garbage; the number of bytes that went.

    Rows go first, in one transaction, then files: a kill leaves at worst files that the next call finds.
    """
    shown = {file.artifact_id for file in garbage.files} | {artifact.id for artifact in garbage.artifacts}
    with session() as s:
        freeze(s)
        if garbage.artifacts or garbage.steps:
            _forget(s, garbage)
        known = set(s.scalars(select(ArtifactRow.id)))
        folders = [folder for folder in _folders(s, garbage.grace) if folder in garbage.folders]
        # Moved away while no step can be claimed: whoever claims one later starts in a folder of its own.
        moved = [folder.path.rename(folder.path.with_name(REMOVED + uuid4().hex)) for folder in folders]
    freed = sum(folder.size for folder in folders)
    for path in moved:
        shutil.rmtree(path)
    before = datetime.now(UTC) - garbage.grace
    listed = (file for file in store().files() if file.artifact_id in shown - known)
    for file in [*listed, *garbage.unfinished]:
        if file.written_at < before and store().remove(file):
            freed += file.size
    return freed


def _folders(s: Session, grace: timedelta) -> Iterator[Folder]:
    """Scratch folders that are not needed."""
    root = settings().work_root
    paths = sorted(root.iterdir()) if root.is_dir() else []
    held = _held(s)
    done = set(s.scalars(select(StepRow.key).where(StepRow.status == "done")))
    before = datetime.now(UTC) - grace
    for path in paths:
        ours = path.name.startswith(REMOVED) or re.fullmatch("[0-9a-f]{64}", path.name)
        if not ours or path.name in held or not path.is_dir():
            continue
        try:
            size, changed_at = _measured(path)
        except FileNotFoundError:  # somebody is at work in it
            continue
        if path.name in done:
            yield Folder(path=path, size=size, reason="its step is done")
        elif path.name.startswith(REMOVED):
            yield Folder(path=path, size=size, reason="its removal was cut off")
        elif changed_at < before:
            yield Folder(path=path, size=size, reason=f"untouched since {changed_at:%Y-%m-%d}")


def _measured(folder: Path) -> tuple[int, datetime]:
    """Bytes in a folder, and when anything in it changed last."""
    statuses = [path.lstat() for path in [folder, *folder.rglob("*")]]
    changed_at = datetime.fromtimestamp(max(status.st_mtime for status in statuses), UTC)
    return sum(status.st_size for status in statuses[1:]), changed_at


def _held(s: Session) -> set[str]:
    """The keys of the steps that somebody computes now."""
    leased = select(StepRow).where(StepRow.status == "running", StepRow.lease_until > now(s))
    return {row.key for row in s.scalars(leased) if row.lease_owner and not is_gone(row.lease_owner)}


def _unreachable(s: Session, grace: timedelta) -> tuple[set[str], list[str]]:
    """Artifacts and steps that nothing in use rests on."""
    artifacts = set(s.scalars(select(ArtifactRow.id)))
    steps = set(s.scalars(select(StepRow.key)))
    kept = closure(s, *_roots(s, grace))
    return artifacts - kept.artifacts, sorted(steps - kept.steps)


def _roots(s: Session, grace: timedelta) -> tuple[set[str], set[str]]:
    """Artifacts and steps that are in use by themselves: named, young, or being computed."""
    since = now(s) - grace
    artifacts = set(s.scalars(select(ArtifactRow.id).where(ArtifactRow.created_at >= since)))
    young = or_(StepRow.started_at >= since, StepRow.finished_at >= since)
    steps = set(s.scalars(select(StepRow.key).where(young)))
    steps |= _held(s)
    for table in Base.metadata.tables.values():
        for reference in table.foreign_keys if table.name not in GRAPH else ():
            named = set(s.scalars(select(reference.parent).where(reference.parent.is_not(None))))
            (artifacts if reference.column.table.name == "artifact" else steps).update(named)
    # Bytes that were put there again lately belong to somebody who is about to use them.
    artifacts |= {
        file.artifact_id for file in store().files() if file.written_at >= datetime.now(UTC) - grace
    }
    return artifacts, steps


def _forget(s: Session, garbage: Garbage) -> None:
    """Delete the rows of artifacts and steps that were shown, but for what came into use since."""
    shown, keys = {artifact.id for artifact in garbage.artifacts}, set(garbage.steps)
    artifacts, steps = _roots(s, garbage.grace)
    artifacts |= set(s.scalars(select(ArtifactRow.id))) - shown
    steps |= set(s.scalars(select(StepRow.key))) - keys
    kept = closure(s, artifacts, steps)
    _delete(s, UsedRow, UsedRow.step_key, keys - kept.steps)
    _delete(s, GeneratedRow, GeneratedRow.step_key, keys - kept.steps)
    _delete(s, ArtifactRow, ArtifactRow.id, shown - kept.artifacts)
    _delete(s, StepRow, StepRow.key, keys - kept.steps)


def _delete(s: Session, table: type[Base], column: InstrumentedAttribute[Any], values: Iterable[str]) -> None:
    rows = [{"value": value} for value in values]
    if rows:
        s.connection().execute(delete(table).where(column == bindparam("value")), rows)
