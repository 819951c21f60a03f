"""Check that what is on record is still there and still the same bytes, and that the store holds no more."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import select, union
from sqlalchemy.orm import Session

from db.session import session
from db.store import GRACE, store
from db.tables import AliasEventRow, AliasRow, ArtifactRow, GeneratedRow, UsedRow


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is not as recorded.

    Attributes:
        kind: ``missing`` and ``changed`` files, ``unknown`` artifacts, a ``dangling`` alias or edge; and
            files without a row: an ``orphan`` with sound bytes, a ``half-written`` one whose bytes are not
            those of its name, an ``unfinished`` copy. A kill may leave the first and the last, which do no
            harm.
        artifact_id: the artifact it is about; empty for an unfinished copy.
        detail: one sentence for a person.
    """

    kind: Literal["missing", "changed", "unknown", "dangling", "orphan", "half-written", "unfinished"]
    artifact_id: str
    detail: str


def verify(ids: Iterable[str] | None = None, *, grace: timedelta = GRACE) -> list[Problem]:
    """Read every file on record, or those of ``ids``, and compare its bytes with its id.

    Without ``ids`` also report aliases and edges that point to no artifact, and files older than ``grace``
    that have no row. Reads each file once.
    """
    with session(read_only=True) as s:
        query = select(ArtifactRow.id, ArtifactRow.kind, ArtifactRow.name)
        known = {id_: f"{kind} '{name}'" for id_, kind, name in s.execute(query).tuples()}
        dangling = list(_dangling(s)) if ids is None else []
    problems = []
    for artifact_id in known if ids is None else dict.fromkeys(ids):
        if artifact_id not in known:
            detail = f"no artifact has the id '{artifact_id}'"
            problems.append(Problem(kind="unknown", artifact_id=artifact_id, detail=detail))
        elif not store().has(artifact_id):
            detail = f"{known[artifact_id]}: its file is not in the store"
            problems.append(Problem(kind="missing", artifact_id=artifact_id, detail=detail))
        elif not store().verify(artifact_id):
            detail = f"{known[artifact_id]}: the bytes of {store().stat(artifact_id).location} have changed"
            problems.append(Problem(kind="changed", artifact_id=artifact_id, detail=detail))
    if ids is None:
        problems += [*dangling, *_without_row(known, grace)]
    return problems


def _dangling(s: Session) -> Iterator[Problem]:
    """Aliases and edges that point to no artifact."""
    names = union(
        select(AliasRow.name, AliasRow.artifact_id), select(AliasEventRow.name, AliasEventRow.artifact_id)
    ).subquery()
    edges = union(
        select(UsedRow.step_key, UsedRow.role, UsedRow.artifact_id),
        select(GeneratedRow.step_key, GeneratedRow.role, GeneratedRow.artifact_id),
    ).subquery()
    known = select(ArtifactRow.id)
    pointers = [
        (f"alias {name}", artifact_id)
        for name, artifact_id in s.execute(select(names).where(names.c.artifact_id.not_in(known)))
    ]
    pointers += [
        (f"step {key[:12]}, {role}", artifact_id)
        for key, role, artifact_id in s.execute(select(edges).where(edges.c.artifact_id.not_in(known)))
    ]
    for pointer, artifact_id in pointers:
        detail = f"{pointer}: points to artifact {artifact_id[:12]}, which is not on record"
        yield Problem(kind="dangling", artifact_id=artifact_id, detail=detail)


def _without_row(known: Collection[str], grace: timedelta) -> Iterator[Problem]:
    """Files that nothing on record refers to, unless they are so young that their row may still come."""
    before = datetime.now(UTC) - grace
    for file in store().files():
        if file.artifact_id in known or file.written_at > before:
            continue
        if store().verify(file.artifact_id):
            detail = f"{file.location}: nothing on record refers to it; temper gc removes it"
            yield Problem(kind="orphan", artifact_id=file.artifact_id, detail=detail)
        else:
            detail = f"{file.location}: its bytes are not those of its name; temper gc removes it"
            yield Problem(kind="half-written", artifact_id=file.artifact_id, detail=detail)
    for file in store().unfinished():
        if file.written_at <= before:
            detail = f"{file.location}: a copy that was cut off; temper gc removes it"
            yield Problem(kind="unfinished", artifact_id="", detail=detail)
