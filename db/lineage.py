"""Lineage: everything an artifact was made from, back to the imported files, and what was made from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CTE, select

from db.artifacts import Artifact
from db.errors import UnknownArtifact
from db.session import session
from db.tables import ArtifactRow, StepRow, UsedRow


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


def ancestors(artifact_id: str) -> Lineage:
    """Everything behind an artifact, itself included, in one query.

    Raises:
        UnknownArtifact: no artifact has this full id.
    """
    return _graph(artifact_id, behind(artifact_id))


def descendants(artifact_id: str) -> Lineage:
    """Everything that was made from an artifact, itself included, in one query.

    What the steps also read that is not made from it is left out, and so is the step that made it.

    Raises:
        UnknownArtifact: no artifact has this full id.
    """
    itself = select(ArtifactRow.id).where(ArtifactRow.id == artifact_id)
    reached = itself.cte("ahead", recursive=True)
    reached = reached.union(
        select(ArtifactRow.id)
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
    query = (
        select(ArtifactRow, StepRow, UsedRow)
        .join(reached, reached.c.id == ArtifactRow.id)
        .outerjoin(StepRow, StepRow.key == ArtifactRow.step_key)
        .outerjoin(UsedRow, UsedRow.step_key == StepRow.key)
        .order_by(ArtifactRow.id, UsedRow.role, UsedRow.position)
    )
    artifacts: dict[str, Artifact] = {}
    steps: dict[str, Step] = {}
    made_by: dict[str, str] = {}
    used: dict[str, dict[tuple[str, int], Edge]] = {}
    with session(read_only=True) as s:
        for artifact, step, edge in s.execute(query).tuples():
            artifacts[artifact.id] = Artifact.of(artifact)
            # The outer joins give None where there is no step or no edge, which their types do not say.
            if isinstance(step, StepRow):
                steps[step.key] = Step.of(step)
                made_by[artifact.id] = step.key
            if isinstance(edge, UsedRow):
                used.setdefault(edge.step_key, {})[edge.role, edge.position] = Edge(
                    step_key=edge.step_key,
                    artifact_id=edge.artifact_id,
                    role=edge.role,
                    position=edge.position,
                )
    if not artifacts:
        raise UnknownArtifact(f"no artifact has the id '{artifact_id}'")
    return Lineage(
        artifacts=artifacts,
        steps=steps,
        made_by=made_by,
        used={key: list(edges.values()) for key, edges in used.items()},
    )


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
