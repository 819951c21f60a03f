"""Take a part of the record out of one database, and enter it into another."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from db.agent import who
from db.artifacts import titled
from db.closure import closure, freeze
from db.errors import ConflictingMetadata, ProvenanceError, UnknownArtifact
from db.manifest import EDGES, AliasPart, ArtifactPart, Record, RetractionPart, StepPart
from db.retractions import in_force, tainted_in
from db.session import insert_new, now
from db.steps import generated
from db.tables import (
    AliasEventRow,
    AliasRow,
    ArtifactRow,
    GeneratedRow,
    RetractionEventRow,
    StepRow,
    UsedRow,
)

Choice = Literal["keep", "replace"]


class UnfinishedStep(ProvenanceError):
    """Something cannot be handed on because the step that made it is not done."""


class ConflictingRecords(ProvenanceError):
    """What comes from elsewhere contradicts what is on record here."""


@dataclass(frozen=True, kw_only=True)
class Entered:
    """What was new here.

    Attributes:
        artifacts: how many.
        steps: how many.
        aliases: those that were set.
        kept: aliases that stand for something else here, and still do.
        blocked: aliases that were not set, because what they stand for is retracted, with the retraction.
    """

    artifacts: int
    steps: int
    aliases: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    blocked: dict[str, str] = field(default_factory=dict)


def collect(s: Session, ids: Iterable[str]) -> Record:
    """These artifacts and all they rest on, with the aliases and retractions of any of them.

    Raises:
        UnknownArtifact: no artifact has one of the full ids.
        UnfinishedStep: a step that made one of them is being computed again, or failed at that.
    """
    asked = list(ids)
    for artifact_id in asked:
        if s.get(ArtifactRow, artifact_id) is None:
            raise UnknownArtifact(f"no artifact has the id '{artifact_id}'")
    whole = closure(s, asked)
    artifacts = [s.get_one(ArtifactRow, artifact_id) for artifact_id in sorted(whole.artifacts)]
    makers = {row.step_key for row in artifacts}
    steps = []
    for step in (s.get_one(StepRow, key) for key in sorted(whole.steps)):
        if step.status == "done":
            steps.append(_step(s, step))
        elif step.key in makers:
            raise UnfinishedStep(
                f"step {step.kind} {step.key[:12]} is on record as {step.status}: "
                "run it to its end before what it made is handed on"
            )
    aliases = s.scalars(select(AliasRow).order_by(AliasRow.name)).all()
    retracted = s.scalars(select(RetractionEventRow).where(in_force()).order_by(RetractionEventRow.id))
    return Record(
        artifacts=[_artifact(row) for row in artifacts],
        steps=steps,
        aliases=[_alias(row, steps) for row in aliases if row.artifact_id in whole.artifacts],
        retractions=[_retraction(row) for row in retracted if row.artifact_id in whole.artifacts],
    )


def conflicts(s: Session, record: Record, choice: Choice | None) -> None:
    """Refuse a record that contradicts what is here.

    Raises:
        ConflictingRecords: the same step made something else, or an alias stands for something else and
            there is no ``choice``. All of them are named.
        ConflictingMetadata: something else was said about the same imported bytes.
    """
    found = []
    for step in record.steps:
        row = s.get(StepRow, step.key)
        if row is not None and row.status == "done" and (here := generated(s, step.key)) != step.generated:
            roles = here.keys() | step.generated.keys()
            other = sorted(role for role in roles if here.get(role) != step.generated.get(role))
            found.append(f"step {step.kind} {step.key[:12]} made another {', '.join(other)} here")
    for alias in record.aliases:
        stands = s.get(AliasRow, alias.name)
        if choice is None and stands is not None and stands.artifact_id != alias.artifact_id:
            found.append(
                f"{alias.name} stands for {stands.artifact_id[:12]} here and for "
                f"{alias.artifact_id[:12]} there (choose with --aliases keep or --aliases replace)"
            )
    if found:
        raise ConflictingRecords("; ".join(found))
    for artifact in record.artifacts:
        known = s.get(ArtifactRow, artifact.id)
        if known is None or known.step_key or artifact.step_key:
            continue
        for name, value in artifact.metadata.items():
            if known.metadata_.get(name, value) != value:
                raise ConflictingMetadata(
                    f"{titled(known)} is on record with "
                    f"{name}={known.metadata_[name]!r} here and with {name}={value!r} there; "
                    "correct the one that is wrong"
                )


def enter(s: Session, record: Record, choice: Choice | None) -> Entered:
    """Enter a record as part of a transaction; what is here already stays as it is.

    A step that is not done here becomes done: whoever computes it gets this result.

    Raises:
        ConflictingRecords, ConflictingMetadata: see ``conflicts``.
    """
    freeze(s)
    conflicts(s, record, choice)
    steps = [step for step in record.steps if _enter_step(s, step)]
    n_artifacts = sum(_enter_artifact(s, artifact) for artifact in record.artifacts)
    for step in steps:
        _enter_edges(s, step)
    for retraction in record.retractions:
        said = {**retraction.model_dump(), "event": "retracted"}
        if s.scalar(select(RetractionEventRow.id).filter_by(**said)) is None:
            s.add(RetractionEventRow(**said))
    entered = Entered(artifacts=n_artifacts, steps=len(steps))
    for alias in record.aliases:
        _enter_alias(s, alias, choice, entered)
    return entered


def _enter_step(s: Session, step: StepPart) -> bool:
    """Make a step done; False if it was."""
    values = step.model_dump(exclude=EDGES)
    values |= {"status": "done", "error": None, "lease_owner": None, "lease_until": None}
    if insert_new(s, StepRow, **values):
        return True
    row = s.get_one(StepRow, step.key)
    if row.status == "done":
        return False
    for column, value in values.items():
        setattr(row, column, value)
    return True


def _enter_artifact(s: Session, artifact: ArtifactPart) -> bool:
    """Record an artifact; False if it was, and then what was said about an import is added to."""
    values = artifact.model_dump(exclude={"metadata"})
    if insert_new(s, ArtifactRow, metadata_=artifact.metadata, **values):
        return True
    row = s.get_one(ArtifactRow, artifact.id)
    if row.step_key is None and artifact.step_key is None:
        row.metadata_ = {**artifact.metadata, **row.metadata_}
    return False


def _enter_edges(s: Session, step: StepPart) -> None:
    s.execute(delete(GeneratedRow).where(GeneratedRow.step_key == step.key))
    for role, artifact_id in step.generated.items():
        insert_new(s, GeneratedRow, step_key=step.key, role=role, artifact_id=artifact_id)
    for role, listed in step.used.items():
        for position, artifact_id in enumerate(listed):
            edge = {"role": role, "position": position, "artifact_id": artifact_id}
            insert_new(s, UsedRow, step_key=step.key, **edge)


def _enter_alias(s: Session, alias: AliasPart, choice: Choice | None, entered: Entered) -> None:
    """Set an alias here and now; what was said when it was set there becomes the reason."""
    row = s.get(AliasRow, alias.name)
    if row is not None and row.artifact_id == alias.artifact_id:
        return
    if row is not None and choice == "keep":
        entered.kept.append(alias.name)
        return
    if retraction := tainted_in(s, alias.artifact_id):
        entered.blocked[alias.name] = retraction.about(alias.artifact_id)
        return
    there = f"{alias.set_at:%Y-%m-%d %H:%M} UTC by {alias.set_by}"
    said = {
        "name": alias.name,
        "artifact_id": alias.artifact_id,
        "set_at": now(s),
        "set_by": who(),
        "step_key": alias.step_key,
        "reason": f"{alias.reason} (pulled; set there on {there})",
    }
    s.merge(AliasRow(**said))
    s.add(AliasEventRow(**said))
    entered.aliases.append(alias.name)


def _step(s: Session, row: StepRow) -> StepPart:
    own = {name: getattr(row, name) for name in StepPart.model_fields if name not in EDGES}
    used: dict[str, list[str]] = {}
    edges = select(UsedRow).where(UsedRow.step_key == row.key).order_by(UsedRow.role, UsedRow.position)
    for edge in s.scalars(edges):
        used.setdefault(edge.role, []).append(edge.artifact_id)
    return StepPart(**own, used=used, generated=generated(s, row.key))


def _artifact(row: ArtifactRow) -> ArtifactPart:
    own = {name: getattr(row, name) for name in ArtifactPart.model_fields if name != "metadata"}
    return ArtifactPart(**own, metadata=row.metadata_)


def _alias(row: AliasRow, steps: Iterable[StepPart]) -> AliasPart:
    own = {name: getattr(row, name) for name in AliasPart.model_fields}
    if row.step_key not in {step.key for step in steps}:
        own["step_key"] = None
    return AliasPart(**own)


def _retraction(row: RetractionEventRow) -> RetractionPart:
    return RetractionPart(**{name: getattr(row, name) for name in RetractionPart.model_fields})
