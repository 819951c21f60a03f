"""What belongs together: artifacts, the steps that made them, and all that these used and made."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from db.tables import ArtifactRow, GeneratedRow, UsedRow


@dataclass(frozen=True, kw_only=True)
class Closure:
    """A part of the record that stands on its own: artifact ids and step keys."""

    artifacts: set[str]
    steps: set[str]


def closure(opened: Session, artifacts: Iterable[str], steps: Iterable[str] = ()) -> Closure:
    """The smallest part of the record that holds these artifacts and steps and refers to nothing outside.

    With an artifact comes the step that made it; with a step, all that it used and all that it made, so that
    it still counts as done. A step that made again what others had made first is in it too, if all its
    inputs and outputs are.
    """
    makers = dict(opened.execute(select(ArtifactRow.id, ArtifactRow.step_key)).tuples().all())
    used = _by_step(opened.execute(select(UsedRow.step_key, UsedRow.artifact_id)).tuples())
    made = _by_step(opened.execute(select(GeneratedRow.step_key, GeneratedRow.artifact_id)).tuples())
    found = Closure(artifacts=set(), steps=set())
    more_artifacts, more_steps = list(artifacts), list(steps)
    while more_artifacts or more_steps:
        while more_artifacts:
            artifact_id = more_artifacts.pop()
            if artifact_id not in found.artifacts:
                found.artifacts.add(artifact_id)
                if maker := makers.get(artifact_id):
                    more_steps.append(maker)
        while more_steps:
            key = more_steps.pop()
            if key not in found.steps:
                found.steps.add(key)
                more_artifacts += [*used.get(key, ()), *made.get(key, ())]
    found.steps.update(
        key
        for key, outputs in made.items()
        if found.artifacts.issuperset(outputs) and found.artifacts.issuperset(used.get(key, ()))
    )
    return found


def freeze(opened: Session) -> None:
    """Nobody else changes the graph or an alias until this transaction ends.

    On SQLite it has the only write lock already.
    """
    if opened.get_bind().dialect.name == "postgresql":
        opened.execute(text("LOCK TABLE alias, step, artifact, used, generated IN EXCLUSIVE MODE"))


def _by_step(edges: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for key, artifact_id in edges:
        grouped.setdefault(key, []).append(artifact_id)
    return grouped
