"""What has to be done to compute an artifact again, read from its record and checked beforehand."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from db import artifacts, retractions, trust
from db.artifacts import titled
from db.errors import MissingFile, ProvenanceError
from db.manifest import ArtifactPart, StepPart
from db.session import session
from db.steps import step_key
from db.store import DamagedFile
from db.transfer import collect
from models import foundation
from tasks.datasets import INGEST_LABELS, PSEUDOLABEL_REPLAY
from tasks.distillation import DISTIL, LABEL_CURVATURE, LABEL_FOR_STUDENT
from tasks.exploration import EXPLORE, FIT_UNCERTAINTY, SELECT
from tasks.foundation import RESOLVE_FOUNDATION
from tasks.labelling import LABEL
from tasks.rounds import MERGE_LABELS
from tasks.training import FINE_TUNE, REFIT_E0S
from tasks.validation import SIMULATE

KINDS = {
    kind.name: kind
    for kind in (
        *(RESOLVE_FOUNDATION, INGEST_LABELS, PSEUDOLABEL_REPLAY, REFIT_E0S),
        *(FINE_TUNE, SIMULATE, LABEL_FOR_STUDENT, LABEL_CURVATURE, DISTIL),
        *(FIT_UNCERTAINTY, EXPLORE, SELECT, LABEL, MERGE_LABELS),
    )
}
"""The kinds of steps that can lie behind a checkpoint."""

SHOWN_REFUSALS = 3


class NotReproducible(ProvenanceError):
    """A lineage that cannot be computed again here; the message says what stands in the way."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be computed again.

    Attributes:
        artifacts: by id, with all that they rest on.
        behind: ids of what was asked for and of all that it rests on.
        leaves: ids of the imported files that the steps start from.
        steps: in an order in which they can be computed.
        files: id to where the file on record is; those that are gone or changed are not in it.
        vouched: foundations whose pickles the record lets be opened.
        warnings: what a person should know before, one sentence each.
    """

    artifacts: Mapping[str, ArtifactPart]
    behind: set[str]
    leaves: list[str]
    steps: list[StepPart]
    files: Mapping[str, Path]
    vouched: list[str]
    warnings: list[str]


def prepare(artifact_id: str) -> Plan:
    """How an artifact can be computed again. Everything that is needed is read and checked before.

    Raises:
        NotReproducible: a step is of another version of the code or of another kind, its record or an
            imported file has changed, or there is nothing to compute.
        UnfinishedStep: a step is being computed, or failed.
        Untrusted: a foundation is a pickle, and nobody vouches for it any more.
    """
    with session(read_only=True) as s:
        record = collect(s, [artifact_id])
    known = {part.id: part for part in record.artifacts}
    steps = _ordered(artifact_id, known, {step.key: step for step in record.steps})
    if not steps:
        raise NotReproducible(f"{titled(known[artifact_id])} was imported: there is nothing to compute again")
    used = {id_ for step in steps for ids in step.used.values() for id_ in ids}
    leaves = sorted(id_ for id_ in used if known[id_].step_key is None)
    outputs = {id_ for step in steps for id_ in step.generated.values()}
    first_made = {id_ for step in steps for id_ in step.generated.values() if known[id_].step_key == step.key}
    files = {id_: path for id_ in {*leaves, *outputs} if (path := _sound(id_)) is not None}

    refusals = [refusal for step in steps for refusal in _refusals(step, known)]
    refusals += [
        f"{titled(known[id_])}: the step that made it was done again later and came out differently, so that "
        "these bytes cannot be expected of it"
        for id_ in sorted({artifact_id, *used} - {*leaves, *first_made})
    ]
    refusals += [
        f"{titled(known[id_])}: its file is gone or has changed; import it again"
        for id_ in leaves
        if id_ not in files
    ]
    if refusals:
        more = [f"and {len(refusals) - SHOWN_REFUSALS} more"] if len(refusals) > SHOWN_REFUSALS else []
        raise NotReproducible("; ".join(refusals[:SHOWN_REFUSALS] + more))
    warnings = [
        f"{titled(known[id_])}: its file is gone or has changed; only its hash can be compared"
        for id_ in sorted(outputs - files.keys())
    ]
    if (retraction := retractions.tainted(artifact_id)) is not None:
        warnings.append(f"{titled(known[artifact_id])} was {retraction.about(artifact_id)}")
    return Plan(
        artifacts=known,
        behind={artifact_id, *used},
        leaves=leaves,
        steps=steps,
        files=files,
        vouched=[name for step in steps if (name := _vouched(step, files)) is not None],
        warnings=warnings,
    )


def _ordered(
    artifact_id: str, known: Mapping[str, ArtifactPart], steps: Mapping[str, StepPart]
) -> list[StepPart]:
    """The steps behind an artifact, each after those whose outputs it used; else as they were done."""
    graph: dict[str, set[str]] = {}
    todo = [known[artifact_id].step_key]
    while todo:
        key = todo.pop()
        if key is not None and key not in graph:
            makers = {known[id_].step_key for ids in steps[key].used.values() for id_ in ids}
            graph[key] = {maker for maker in makers if maker is not None}
            todo += graph[key]
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    ordered: list[StepPart] = []
    while sorter.is_active():
        ready = sorted(
            (steps[key] for key in sorter.get_ready()), key=lambda step: (step.started_at, step.key)
        )
        ordered += ready
        sorter.done(*(step.key for step in ready))
    return ordered


def _refusals(step: StepPart, known: Mapping[str, ArtifactPart]) -> Iterator[str]:
    """Why a step cannot be computed again by this Temper."""
    title = f"step {step.kind} {step.key[:12]}"
    if step.kind not in KINDS:
        yield f"{title}: steps of this kind cannot be computed again"
    elif step.version != KINDS[step.kind].version:
        git = step.software.get("git", {})
        made_by = f"Temper {step.software.get('temper-mlip', 'unknown')}"
        made_by += f", commit {git['commit'][:12]}" if git else ""
        yield (
            f"{title} is of version {step.version}, and this Temper computes version "
            f"{KINDS[step.kind].version}; use the one that made it ({made_by})"
        )
    elif step_key(step.kind, step.version, step.parameters, step.used, step.seed) != step.key:
        yield f"{title}: its parameters, inputs or seed on record were changed after it was computed"


def _vouched(step: StepPart, files: Mapping[str, Path]) -> str | None:
    """The foundation that a step opens, if that is a pickle for which somebody vouches on record."""
    if step.kind != RESOLVE_FOUNDATION.name:
        return None
    name = str(files[step.used["file"][0]]) if "file" in step.used else step.parameters["name"]
    digest = foundation.admit(name, trust.trusted)
    return name if digest is not None and trust.trusted(digest) else None


def _sound(artifact_id: str) -> Path | None:
    """Where a file on record is; None where it is gone or its bytes have changed."""
    try:
        return artifacts.path(artifact_id)
    except (MissingFile, DamagedFile):
        return None
