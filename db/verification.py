"""Check that what is on record is still there and still the same bytes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select

from db.session import session
from db.store import store
from db.tables import AliasRow, ArtifactRow, GeneratedRow, UsedRow


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is not as recorded.

    Attributes:
        kind: ``missing`` and ``changed`` files, ``unknown`` artifacts, a ``dangling`` alias or edge.
        artifact_id: the artifact it is about.
        detail: one sentence for a person.
    """

    kind: Literal["missing", "changed", "unknown", "dangling"]
    artifact_id: str
    detail: str


def verify(ids: Iterable[str] | None = None) -> list[Problem]:
    """Read every file on record, or those of ``ids``, and compare its bytes with its id.

    Without ``ids`` also report aliases and edges that point to no artifact. Reads each file once.
    """
    with session(read_only=True) as s:
        known = {row.id: f"{row.kind} '{row.name}'" for row in s.scalars(select(ArtifactRow))}
        pointers: list[tuple[str, str]] = []
        if ids is None:
            pointers += [(row.artifact_id, f"alias {row.name}") for row in s.scalars(select(AliasRow))]
            for edge in [*s.scalars(select(UsedRow)), *s.scalars(select(GeneratedRow))]:
                pointers.append((edge.artifact_id, f"step {edge.step_key[:12]}, {edge.role}"))
    problems = []
    for artifact_id in known if ids is None else dict.fromkeys(ids):
        if artifact_id not in known:
            detail = f"no artifact has the id '{artifact_id}'"
            problems.append(Problem(kind="unknown", artifact_id=artifact_id, detail=detail))
        elif not store().has(artifact_id):
            detail = f"{known[artifact_id]}: its file is not in the store"
            problems.append(Problem(kind="missing", artifact_id=artifact_id, detail=detail))
        elif not store().verify(artifact_id):
            detail = f"{known[artifact_id]}: the bytes of {store().path(artifact_id)} have changed"
            problems.append(Problem(kind="changed", artifact_id=artifact_id, detail=detail))
    for artifact_id, pointer in pointers:
        if artifact_id not in known:
            detail = f"{pointer}: points to artifact {artifact_id[:12]}, which is not on record"
            problems.append(Problem(kind="dangling", artifact_id=artifact_id, detail=detail))
    return problems
