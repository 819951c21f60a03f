"""Retractions: an artifact that must not be used, and with it everything that was made from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session, aliased

from db.agent import who
from db.artifacts import Artifact, titled
from db.errors import BadRetraction, UnknownArtifact
from db.lineage import behind
from db.session import now, one_at_a_time, session
from db.tables import ArtifactRow, RetractionEventRow, UsedRow


@dataclass(frozen=True, kw_only=True)
class Event:
    """An artifact was retracted or reinstated: when (UTC), by whom (``user@host``) and why."""

    artifact_id: str
    event: Literal["retracted", "reinstated"]
    at: datetime
    by: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Retraction:
    """A retraction in force: of what, since when (UTC), by whom (``user@host``) and why."""

    artifact: Artifact
    at: datetime
    by: str
    reason: str

    def __str__(self) -> str:
        it = self.artifact
        return f"{titled(it)}, which was {self._said}"

    def about(self, artifact_id: str) -> str:
        """What it means for an artifact, to follow its name: "retracted …", or "made from …, which was …"."""
        return self._said if artifact_id == self.artifact.id else f"made from {self}"

    @property
    def _said(self) -> str:
        return f"retracted on {self.at:%Y-%m-%d} by {self.by}: {self.reason}"


def retract(artifact_id: str, reason: str) -> Retraction:
    """Retract an artifact: it and all that is made from it, now or later, is tainted until it is reinstated.

    Retracted again, the last reason counts; all stay on record.

    Raises:
        UnknownArtifact: no artifact has this full id.
        BadRetraction: ``reason`` is blank.
    """
    if not reason.strip():
        raise BadRetraction("a retraction needs a reason: say what is wrong, for whoever meets it later")
    with session() as s:
        one_at_a_time(s)
        artifact = _locked(s, artifact_id)
        row = _add(s, artifact_id, "retracted", reason)
        return Retraction(artifact=artifact, at=row.at, by=row.by, reason=row.reason)


def reinstate(artifact_id: str, reason: str = "") -> None:
    """Take back the retraction of an artifact; both stay on record.

    Raises:
        UnknownArtifact: no artifact has this full id.
        BadRetraction: it is not retracted itself; if something behind it is, that is named.
    """
    with session() as s:
        artifact = _locked(s, artifact_id)
        retraction = tainted_in(s, artifact_id)
        if retraction is None or retraction.artifact.id != artifact_id:
            said = f"{titled(artifact)} is not retracted"
            if retraction is not None:
                said += f" itself, it was {retraction.about(artifact_id)}; reinstate that"
            raise BadRetraction(said)
        _add(s, artifact_id, "reinstated", reason)


def tainted(artifact_id: str) -> Retraction | None:
    """The retraction that an artifact is under: its own, or else the oldest one behind it.

    None if there is none, and for an id that is not on record.
    """
    with session(read_only=True) as s:
        return tainted_in(s, artifact_id)


def tainted_in(opened: Session, artifact_id: str) -> Retraction | None:
    """``tainted`` as part of a transaction."""
    reached = behind(artifact_id)
    query = (
        select(RetractionEventRow, ArtifactRow)
        .join(ArtifactRow, ArtifactRow.id == RetractionEventRow.artifact_id)
        .join(reached, reached.c.id == RetractionEventRow.artifact_id)
        .where(in_force())
        .order_by(RetractionEventRow.artifact_id != artifact_id, RetractionEventRow.id)
    )
    row = opened.execute(query).tuples().first()
    return _retraction(*row) if row else None


def all_tainted() -> Mapping[str, Retraction]:
    """Every artifact under a retraction, by id: its own, or else the oldest one behind it."""
    retracted = (
        select(RetractionEventRow, ArtifactRow)
        .join(ArtifactRow, ArtifactRow.id == RetractionEventRow.artifact_id)
        .where(in_force())
    )
    own = select(RetractionEventRow.artifact_id, RetractionEventRow.id.label("event_id")).where(in_force())
    reached = own.cte("tainted", recursive=True)
    reached = reached.union(
        select(ArtifactRow.id, reached.c.event_id)
        .join(UsedRow, UsedRow.step_key == ArtifactRow.step_key)
        .join(reached, reached.c.artifact_id == UsedRow.artifact_id)
    )
    with session(read_only=True) as s:
        retractions = {event.id: _retraction(event, of) for event, of in s.execute(retracted).tuples()}
        pairs = s.execute(select(reached.c.artifact_id, reached.c.event_id).order_by("event_id")).tuples()
        found: dict[str, Retraction] = {}
        for artifact_id, event_id in pairs:
            if event_id in retractions:  # a retraction may have come in between the two queries
                found.setdefault(artifact_id, retractions[event_id])
    return found | {retraction.artifact.id: retraction for retraction in retractions.values()}


def history(artifact_id: str) -> list[Event]:
    """When an artifact itself was retracted and reinstated, oldest first."""
    query = (
        select(RetractionEventRow)
        .where(RetractionEventRow.artifact_id == artifact_id)
        .order_by(RetractionEventRow.id)
    )
    with session(read_only=True) as s:
        return [
            Event(**{name: getattr(row, name) for name in Event.__dataclass_fields__})
            for row in s.scalars(query)
        ]


def in_force() -> ColumnElement[bool]:
    """An event is a retraction, and the last event of its artifact."""
    other = aliased(RetractionEventRow)
    last = select(func.max(other.id)).group_by(other.artifact_id)
    return and_(RetractionEventRow.event == "retracted", RetractionEventRow.id.in_(last))


def _locked(opened: Session, artifact_id: str) -> Artifact:
    """The artifact, kept from other retractions until the end of the transaction."""
    row = opened.get(ArtifactRow, artifact_id, with_for_update=True)
    if row is None:
        raise UnknownArtifact(f"no artifact has the id '{artifact_id}'")
    return Artifact.of(row)


def _add(opened: Session, artifact_id: str, event: str, reason: str) -> RetractionEventRow:
    row = RetractionEventRow(
        artifact_id=artifact_id, event=event, at=now(opened), by=who(), reason=reason.strip()
    )
    opened.add(row)
    return row


def _retraction(event: RetractionEventRow, of: ArtifactRow) -> Retraction:
    return Retraction(artifact=Artifact.of(of), at=event.at, by=event.by, reason=event.reason)
