"""Trust: files that may be opened although opening them runs the code in them, as pickles do.

Who vouches for what is kept among the events of the aliases, under a name that no alias can have. So all who
share a database share it, `gc` keeps the file, and no archive from elsewhere can bring it in.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select

from db import artifacts
from db.agent import who
from db.artifacts import Artifact
from db.errors import ProvenanceError, Retracted
from db.retractions import tainted_in
from db.session import now, session
from db.tables import AliasEventRow

NAME = "trusted"


class BadTrust(ProvenanceError):
    """Trust without a reason."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """A file that somebody vouches for: since when (UTC), who (``user@host``) and why."""

    artifact: Artifact
    at: datetime
    by: str
    reason: str


def trust(path: Path, kind: str, reason: str) -> Trust:
    """Vouch for the bytes that a file has now: put it on record and let it be opened from now on.

    Raises:
        BadTrust: ``reason`` is blank.
        MissingFile: ``path`` is not a file.
        Retracted: these bytes are retracted.
    """
    if not reason.strip():
        raise BadTrust(f"{path}: say why it can be trusted, for whoever meets it later")
    artifact = artifacts.import_file(path, kind, path.name)
    with session() as s:
        if (retraction := tainted_in(s, artifact.id)) is not None:
            raise Retracted(
                f"{artifacts.titled(artifact)} was "
                f"{retraction.about(artifact.id)}. Take another, or take the retraction back: "
                f"temper reinstate {retraction.artifact.id[:12]}"
            )
        said = AliasEventRow(
            name=NAME,
            artifact_id=artifact.id,
            set_at=now(s),
            set_by=who(),
            step_key=None,
            reason=reason.strip(),
        )
        s.add(said)
        return Trust(artifact=artifact, at=said.set_at, by=said.set_by, reason=said.reason)


def trusted(artifact_id: str) -> bool:
    """Whether somebody vouches for the file with this sha256, and nobody has retracted it."""
    query = select(AliasEventRow.id).where(
        AliasEventRow.name == NAME, AliasEventRow.artifact_id == artifact_id
    )
    with session(read_only=True) as s:
        return s.scalar(query.limit(1)) is not None and tainted_in(s, artifact_id) is None
