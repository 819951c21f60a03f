"""Aliases: names such as ``nacl@champion`` for the artifact that stands there now, with their history."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import artifacts
from db.agent import who
from db.artifacts import Artifact, titled
from db.errors import BadAlias, Retracted, UnknownArtifact
from db.retractions import tainted_in
from db.session import insert_new, now, one_at_a_time, session
from db.tables import AliasEventRow, AliasRow, ArtifactRow

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*@[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True, kw_only=True)
class Alias:
    """What a name stands for, since when (UTC), by whom (``user@host``), after which step and why."""

    name: str
    artifact_id: str
    set_at: datetime
    set_by: str
    step_key: str | None
    reason: str

    @classmethod
    def of(cls, row: AliasRow | AliasEventRow) -> "Alias":
        """The alias of a row."""
        return cls(
            name=row.name,
            artifact_id=row.artifact_id,
            set_at=row.set_at,
            set_by=row.set_by,
            step_key=row.step_key,
            reason=row.reason,
        )


def promote(name: str, artifact_id: str, *, step_key: str | None = None, reason: str) -> Alias:
    """Let ``name`` stand for an artifact. If it does already, nothing changes.

    Raises:
        BadAlias: ``name`` is not of the form ``nacl@champion``.
        UnknownArtifact: no artifact has this full id.
        Retracted: the artifact, or one that it was made from, is retracted.
    """
    if not NAME.fullmatch(name):
        raise BadAlias(
            f"alias '{name}': give lower-case letters, digits, _ and - around one @, as nacl@champion"
        )
    with session() as s:
        one_at_a_time(s)  # nothing is retracted between the look and the promotion
        return _promote(s, name, artifact_id, step_key, reason)


def move(moves: Mapping[str, tuple[str, str]], *, reason: str) -> list[Alias]:
    """Let names stand for other artifacts, all or none: name to what it stands for now, and what it will.

    Raises:
        BadAlias: one stands for something else by now, or does not exist.
        UnknownArtifact: no artifact has one of the full ids.
        Retracted: one of the artifacts, or what it was made from, is retracted.
    """
    with session() as s:
        one_at_a_time(s)  # nobody else promotes between the look and the moves
        for name, (away_from, _) in moves.items():
            row = s.get(AliasRow, name)
            if row is None or row.artifact_id != away_from:
                now_for = "nothing" if row is None else row.artifact_id[:12]
                raise BadAlias(
                    f"alias {name}: is not moved, since it stands for {now_for} by now, not {away_from[:12]}"
                )
        return [_promote(s, name, to, None, reason) for name, (_, to) in moves.items()]


def _promote(s: Session, name: str, artifact_id: str, step_key: str | None, reason: str) -> Alias:
    """``promote`` as part of a transaction."""
    artifact = s.get(ArtifactRow, artifact_id)
    if artifact is None:
        raise UnknownArtifact(f"alias {name}: no artifact has the id '{artifact_id}'")
    retraction = tainted_in(s, artifact_id)
    if retraction is not None:
        raise Retracted(
            f"alias {name}: {titled(artifact)} was "
            f"{retraction.about(artifact_id)}. Promote something else, or take the retraction back: "
            f"temper reinstate {retraction.artifact.id[:12]}"
        )
    said = {
        "name": name,
        "artifact_id": artifact_id,
        "set_at": now(s),
        "set_by": who(),
        "step_key": step_key,
        "reason": reason,
    }
    if not insert_new(s, AliasRow, **said):
        row = s.get_one(AliasRow, name, with_for_update=True)
        if row.artifact_id == artifact_id:
            return Alias.of(row)
        for column, value in said.items():
            setattr(row, column, value)
    event = AliasEventRow(**said)
    s.add(event)
    return Alias.of(event)


def resolve(name: str) -> Artifact:
    """The artifact that ``name`` stands for now, retracted or not.

    Raises:
        BadAlias: ``name`` is not of the form ``nacl@champion``.
        UnknownArtifact: there is no such alias; known ones are listed.
    """
    if not NAME.fullmatch(name):
        raise BadAlias(f"'{name}' is not an alias such as nacl@champion")
    return artifacts.find(name)


def all() -> list[Alias]:
    """Every alias as it stands now, by name."""
    with session(read_only=True) as s:
        return [Alias.of(row) for row in s.scalars(select(AliasRow).order_by(AliasRow.name))]


def history(name: str) -> list[Alias]:
    """All that ``name`` has stood for, oldest first."""
    query = select(AliasEventRow).where(AliasEventRow.name == name).order_by(AliasEventRow.id)
    with session(read_only=True) as s:
        return [Alias.of(row) for row in s.scalars(query)]
