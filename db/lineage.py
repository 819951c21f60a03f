"""Lineage: everything an artifact was made from, back to the imported files, and what was made from it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import CTE, select
from sqlalchemy.orm import QueryableAttribute, Session

from db.artifacts import Artifact
from db.errors import UnknownArtifact
from db.session import session
from db.tables import ArtifactRow, Base, StepRow, UsedRow

AT_ONCE = 1000  # values in one query; databases take some ten thousands
Row = TypeVar("Row", bound=Base)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A computation that made an artifact: what, with which software, when (UTC), how long (s), by whom."""

    key: str
    kind: str
    version: int
    parameters: Mapping[str, Any]
    seed: int | None
    software: Mapping[str, Any]
    started_at: datetime
    finished_at: datetime | None
    seconds: float | None
    user: str
    host: str
    flow_run_id: str | None

    @classmethod
    def of(cls, row: StepRow) -> "Step":
        """The step of a row."""
        return cls(**{name: getattr(row, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A step read an artifact in a role; ``position`` orders the artifacts of one role."""

    step_key: str
    artifact_id: str
    role: str
    position: int

    @classmethod
    def of(cls, row: UsedRow) -> "Edge":
        """The edge of a row."""
        return cls(step_key=row.step_key, artifact_id=row.artifact_id, role=row.role, position=row.position)


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The graph behind one artifact, or ahead of it, each node once.

    Attributes:
        artifacts: by id.
        steps: by key.
        made_by: artifact id to the key of the step that made it; imported artifacts are not in it.
        used: step key to what the step read, ordered by role and position.
    """

    artifacts: Mapping[str, Artifact]
    steps: Mapping[str, Step]
    made_by: Mapping[str, str]
    used: Mapping[str, list[Edge]]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One artifact in a lineage tree.

    Attributes:
        role: the role in which the step of the node above read it; None for the artifact asked about.
        step: what made it; None if it was imported.
        parents: what that step read.
        repeated: True if the artifact is already in the tree, where its parents are.
    """

    artifact: Artifact
    role: str | None
    step: Step | None
    parents: list["Node"]
    repeated: bool


def behind(artifact_id: str) -> CTE:
    """An artifact and everything it was made from, for use in queries: columns ``id`` and ``step_key``."""
    itself = select(ArtifactRow.id, ArtifactRow.step_key).where(ArtifactRow.id == artifact_id)
    reached = itself.cte("behind", recursive=True)
    return reached.union(
        select(ArtifactRow.id, ArtifactRow.step_key)
        .join(UsedRow, UsedRow.artifact_id == ArtifactRow.id)
        .join(reached, UsedRow.step_key == reached.c.step_key)
    )


def step_of(artifact_id: str) -> Step | None:
    """The step that made an artifact; None of an imported one, and of one that is not on record."""
    query = select(StepRow).join(ArtifactRow, ArtifactRow.step_key == StepRow.key)
    with session(read_only=True) as s:
        row = s.scalar(query.where(ArtifactRow.id == artifact_id))
        return None if row is None else Step.of(row)


def ancestors(artifact_id: str) -> Lineage:
    """Everything behind an artifact, itself included.

    Raises:
        UnknownArtifact: no artifact has this full id.
    """
    return _graph(artifact_id, behind(artifact_id))


def descendants(artifact_id: str) -> Lineage:
    """Everything that was made from an artifact, itself included.

    What the steps also read that is not made from it is left out, and so is the step that made it.

    Raises:
        UnknownArtifact: no artifact has this full id.
    """
    itself = select(ArtifactRow.id, ArtifactRow.step_key).where(ArtifactRow.id == artifact_id)
    reached = itself.cte("ahead", recursive=True)
    reached = reached.union(
        select(ArtifactRow.id, ArtifactRow.step_key)
        .join(UsedRow, UsedRow.step_key == ArtifactRow.step_key)
        .join(reached, UsedRow.artifact_id == reached.c.id)
    )
    graph = _graph(artifact_id, reached)
    used = {
        key: inside
        for key, edges in graph.used.items()
        if (inside := [edge for edge in edges if edge.artifact_id in graph.artifacts])
    }
    return Lineage(
        artifacts=graph.artifacts,
        steps={key: graph.steps[key] for key in used},
        made_by={id_: key for id_, key in graph.made_by.items() if id_ != artifact_id},
        used=used,
    )


def _graph(artifact_id: str, reached: CTE) -> Lineage:
    """What is on record about the artifacts of ``reached``, the steps that made them and what those read."""
    with session(read_only=True) as s:
        # The ids first and the rest by id: joined in one query PostgreSQL would scan whole tables.
        made_by = dict(s.execute(select(reached.c.id, reached.c.step_key)).tuples().all())
        keys = {key for key in made_by.values() if key}
        artifacts = [Artifact.of(row) for row in _rows(s, ArtifactRow, ArtifactRow.id, made_by)]
        steps = [Step.of(row) for row in _rows(s, StepRow, StepRow.key, keys)]
        edges = [Edge.of(row) for row in _rows(s, UsedRow, UsedRow.step_key, keys)]
    if not artifacts:
        raise UnknownArtifact(f"no artifact has the id '{artifact_id}'")
    used: dict[str, list[Edge]] = {}
    for edge in sorted(edges, key=lambda edge: (edge.step_key, edge.role, edge.position)):
        used.setdefault(edge.step_key, []).append(edge)
    return Lineage(
        artifacts={artifact.id: artifact for artifact in sorted(artifacts, key=lambda artifact: artifact.id)},
        steps={step.key: step for step in steps},
        made_by={id_: key for id_, key in made_by.items() if key},
        used=used,
    )


def _rows(
    s: Session, table: type[Row], column: QueryableAttribute[str], values: Collection[str]
) -> Iterator[Row]:
    """The rows with one of the values in a column."""
    listed = sorted(values)
    for start in range(0, len(listed), AT_ONCE):
        yield from s.scalars(select(table).where(column.in_(listed[start : start + AT_ONCE])))


def tree(artifact_id: str) -> Node:
    """The lineage of an artifact as a tree; an artifact met again is marked and not expanded again.

    Raises:
        UnknownArtifact: no artifact has this full id.
    """
    lineage = ancestors(artifact_id)
    shown: set[str] = set()
    top: list[Node] = []
    # A stack instead of recursion: a long campaign is deeper than Python's recursion limit.
    todo: list[tuple[str, str | None, list[Node]]] = [(artifact_id, None, top)]
    while todo:
        id_, role, siblings = todo.pop()
        key = lineage.made_by.get(id_)
        node = Node(
            artifact=lineage.artifacts[id_],
            role=role,
            step=lineage.steps[key] if key else None,
            parents=[],
            repeated=id_ in shown,
        )
        siblings.append(node)
        if key and not node.repeated:
            used = lineage.used.get(key, [])
            todo.extend((edge.artifact_id, edge.role, node.parents) for edge in reversed(used))
        shown.add(id_)
    return top[0]
