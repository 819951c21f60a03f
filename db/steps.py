"""Steps: a computation keyed by its content, done once whoever asks.

The row of a step is the memo, the lock and the provenance record at once. Bytes come first and rows second:
a kill at any instant leaves at worst a file without a row.
"""

import errno
import hashlib
import logging
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from db.agent import host, software, user, who
from db.canonical import JSON, canonical, plain
from db.errors import DatabaseUnavailable, MissingFile, ProvenanceError, UnknownArtifact
from db.leases import is_gone, new_owner, renewed
from db.session import insert_new, now, session
from db.settings import settings
from db.store import store
from db.tables import ArtifactRow, GeneratedRow, StepRow, UsedRow

log = logging.getLogger(__name__)

RECORDING_ATTEMPTS = 3
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class ScratchUnavailable(ProvenanceError):
    """A step has no folder to work in: the disk is full, or it may not be written to."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file that a computation made, and what is known about it."""

    path: Path
    kind: str
    name: str
    metadata: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished step.

    Attributes:
        outputs: role to artifact id.
        reused: True if this call did not compute it.
        seconds: how long the computation took when it was done.
    """

    key: str
    outputs: Mapping[str, str]
    reused: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What a step is and who asks for it."""

    key: str
    kind: str
    version: int
    parameters: dict[str, Any]
    inputs: Mapping[str, Sequence[str]]
    seed: int | None
    flow_run_id: str | None

    @property
    def label(self) -> str:
        return f"step {self.kind} {self.key[:12]}"


def step_key(
    kind: str,
    version: int,
    parameters: Mapping[str, JSON],
    inputs: Mapping[str, str | Sequence[str]],
    seed: int | None = None,
) -> str:
    """sha256 of everything that decides the result: kind, version of the code, parameters, inputs, seed.

    A single id and a list of one are the same input; order within a list counts.

    Raises:
        NotCanonical: a parameter that is not JSON or not finite; names it.
    """
    content = {
        "kind": kind,
        "version": version,
        "parameters": plain(parameters, "parameters"),
        "inputs": _listed(inputs),
        "seed": seed,
    }
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def once(
    kind: str,
    version: int,
    parameters: Mapping[str, JSON],
    inputs: Mapping[str, str | Sequence[str]],
    compute: Callable[[Path], Mapping[str, Output]],
    *,
    seed: int | None = None,
    flow_run_id: str | None = None,
) -> Done:
    """The outputs of a step: those on record if it is done, otherwise computed now, by one caller at a time.

    ``compute`` gets a scratch folder that is its own, survives a kill, and is the same at the next attempt,
    so it can leave checkpoints there (written under a temporary name and renamed) and continue from them. It
    returns role to ``Output``; the files are copied to the store and the folder is removed.

    While another process computes the step, this call waits for its result. It takes over as soon as that
    process is seen to be dead on this machine, or when its lease is not renewed. Whoever lost a step that
    way and finishes late gets the result on record; its own is dropped.

    A step whose files have left the store is computed again. Its record then names the new files; should
    their bytes differ, the old artifacts and their lineage stay on record.

    Raises:
        NotCanonical: a parameter that is not JSON or not finite.
        UnknownArtifact: an input that is not on record.
        ScratchUnavailable: the scratch folder cannot be written to.
        BaseException: whatever ``compute`` raises; the step is then on record as failed, and free to retry.
    """
    step = _Step(
        key=step_key(kind, version, parameters, inputs, seed),
        kind=kind,
        version=version,
        parameters=plain(parameters, "parameters"),
        inputs=_listed(inputs),
        seed=seed,
        flow_run_id=flow_run_id,
    )
    work = settings().work_root / step.key
    pause = FIRST_PAUSE_SECONDS
    while True:
        with session(read_only=True) as s:
            found = _look(s, step.key)
        if isinstance(found, Done):
            shutil.rmtree(work, ignore_errors=True)  # left by a kill between the record and the clean-up
            return found
        if isinstance(found, str):
            if pause == FIRST_PAUSE_SECONDS:
                log.info("%s: waiting for %s", step.label, found)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            continue
        owner = new_owner()
        if _claim(step, owner) and (made := _attempt(step, owner, compute, work)):
            return made


def done(
    kind: str,
    version: int,
    parameters: Mapping[str, JSON],
    inputs: Mapping[str, str | Sequence[str]],
    *,
    seed: int | None = None,
) -> Done | None:
    """The outputs of a step that is on record; None where `once` would have to compute it.

    Raises NotCanonical as `once` does.
    """
    with session(read_only=True) as s:
        found = _look(s, step_key(kind, version, parameters, inputs, seed))
    return found if isinstance(found, Done) else None


def _listed(inputs: Mapping[str, str | Sequence[str]]) -> dict[str, list[str]]:
    return {role: [ids] if isinstance(ids, str) else list(ids) for role, ids in inputs.items()}


def _look(s: Session, key: str, *, lock: bool = False) -> Done | str | None:
    """The result on record, or else who is computing it, or else None: it is free to claim."""
    query = select(StepRow).where(StepRow.key == key)
    row = s.scalar(query.with_for_update() if lock else query)
    if row is None or row.status == "failed":
        return None
    if row.status == "done":
        outputs = generated(s, key)
        if all(store().has(artifact_id) for artifact_id in outputs.values()):
            return Done(key=key, outputs=outputs, reused=True, seconds=row.seconds or 0.0)
        log.warning("step %s %s: its files have left the store, computing it again", row.kind, key[:12])
        return None
    owner, until = row.lease_owner, row.lease_until
    return owner if owner and until and until > now(s) and not is_gone(owner) else None


def generated(s: Session, key: str) -> dict[str, str]:
    """Role to id of a step's present outputs, by role."""
    query = select(GeneratedRow).where(GeneratedRow.step_key == key).order_by(GeneratedRow.role)
    return {edge.role: edge.artifact_id for edge in s.scalars(query)}


def _claim(step: _Step, owner: str) -> bool:
    """Take the lease; False if someone else was faster."""
    with session() as s:
        at = now(s)
        claim: dict[str, Any] = {
            "status": "running",
            "error": None,
            "lease_owner": owner,
            "lease_until": at + timedelta(seconds=settings().lease_seconds),
            "started_at": at,
            "finished_at": None,
            "seconds": None,
            "software": software(),
            "host": host(),
            "user": user(),
            "flow_run_id": step.flow_run_id,
        }
        ids = {artifact_id for listed in step.inputs.values() for artifact_id in listed}
        known = set(s.scalars(select(ArtifactRow.id).where(ArtifactRow.id.in_(ids))))
        for role, listed in step.inputs.items():
            for artifact_id in listed:
                if artifact_id not in known:
                    raise UnknownArtifact(
                        f"{step.label}: its input {role} '{artifact_id}' is not on record; import it"
                    )
        what = {"kind": step.kind, "version": step.version, "parameters": step.parameters, "seed": step.seed}
        if insert_new(s, StepRow, key=step.key, attempt=1, **what, **claim):
            s.add_all(
                UsedRow(step_key=step.key, role=role, position=position, artifact_id=artifact_id)
                for role, listed in step.inputs.items()
                for position, artifact_id in enumerate(listed)
            )
            return True
        if _look(s, step.key, lock=True) is not None:
            return False
        row = s.get_one(StepRow, step.key)
        row.attempt += 1
        for column, value in claim.items():
            setattr(row, column, value)
        return True


def _attempt(
    step: _Step, owner: str, compute: Callable[[Path], Mapping[str, Output]], work: Path
) -> Done | None:
    """Compute and record. None if the lease was lost meanwhile, so that someone else's result counts."""
    started = time.monotonic()
    try:
        with renewed(step.key, owner):
            with _writing(work):
                work.mkdir(parents=True, exist_ok=True)
                outputs = compute(work)
            seconds = time.monotonic() - started
            rows = {role: _keep(step, role, output) for role, output in outputs.items()}
        recorded = _recorded(step, owner, rows, seconds)
    except BaseException as error:
        if _fail(step, owner, error) or not isinstance(error, Exception):
            raise
        log.warning("%s: failed after its lease was lost", step.label, exc_info=True)
        return None
    if not recorded:
        log.warning("%s: finished after its lease was lost, the result is dropped", step.label)
        return None
    shutil.rmtree(work, ignore_errors=True)
    outputs_by_id = {role: row["id"] for role, row in rows.items()}
    return Done(key=step.key, outputs=outputs_by_id, reused=False, seconds=seconds)


@contextmanager
def _writing(work: Path) -> Iterator[None]:
    """Say which disk is full; whatever else a computation fails of stays as it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise ScratchUnavailable(
            f"the scratch folder {work} cannot be written to: {error.strerror}; make room or make it "
            "writable, then run again"
        ) from error


def _keep(step: _Step, role: str, output: Output) -> dict[str, Any]:
    """Put a file into the store; the row to write for it."""
    metadata = plain(output.metadata, f"{step.label}: metadata of output {role}")
    if not output.path.is_file():
        raise MissingFile(f"{step.label}: its output {role} should be at {output.path}, which is not a file")
    return {
        "id": store().put(output.path, output.path.suffix),
        "kind": output.kind,
        "name": output.name,
        "suffix": output.path.suffix,
        "size": output.path.stat().st_size,
        "metadata_": metadata,
    }


def _recorded(step: _Step, owner: str, rows: Mapping[str, dict[str, Any]], seconds: float) -> bool:
    """Record what took long to compute, also where the connection breaks; False if the lease is not ours."""
    for _ in range(RECORDING_ATTEMPTS - 1):
        try:
            return _record(step, owner, rows, seconds)
        except DatabaseUnavailable as error:
            log.warning("%s: not recorded, trying again: %s", step.label, error)
    return _record(step, owner, rows, seconds)


def _record(step: _Step, owner: str, rows: Mapping[str, dict[str, Any]], seconds: float) -> bool:
    """Write artifacts, edges and status in one transaction; False if the lease is not ours any more."""
    with session() as s:
        row = s.get_one(StepRow, step.key, with_for_update=True)
        if row.lease_owner != owner:
            return False
        before, after = generated(s, step.key), {role: made["id"] for role, made in rows.items()}
        if before and before != after:
            log.warning("%s: computed again, its bytes differ from before", step.label)
        at = now(s)
        for made in rows.values():
            insert_new(s, ArtifactRow, step_key=step.key, created_at=at, created_by=who(), **made)
        s.execute(delete(GeneratedRow).where(GeneratedRow.step_key == step.key))
        s.add_all(GeneratedRow(step_key=step.key, role=role, artifact_id=id_) for role, id_ in after.items())
        row.status, row.finished_at, row.seconds = "done", at, seconds
        row.lease_owner = row.lease_until = None
        return True


def _fail(step: _Step, owner: str, error: BaseException) -> bool:
    """Record the failure and free the lease; False if the lease is not ours any more."""
    text = "".join(traceback.format_exception(error)) if isinstance(error, Exception) else "interrupted"
    try:
        with session(patient=False) as s:
            row = s.get_one(StepRow, step.key, with_for_update=True)
            if row.lease_owner != owner:
                return False
            row.status, row.finished_at = "failed", now(s)
            # PostgreSQL text holds neither NUL nor lone surrogates.
            row.error = text.replace("\0", "").encode(errors="replace").decode()
            row.lease_owner = row.lease_until = None
    except (SQLAlchemyError, DatabaseUnavailable):
        log.exception("%s: its failure could not be recorded", step.label)
    return True
