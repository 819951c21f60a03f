"""Check what is promoted: its bytes, whether it is retracted, and its acceptance on the pinned inputs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact

from db import agent, aliases, licences, retractions
from db.errors import ProvenanceError, UnknownArtifact
from db.lineage import step_of
from db.verification import verify
from models.validation import AnyCheck, acceptance, repetition
from models.validation.acceptance import Simulation
from models.validation.gate import Verdict
from models.validation.repetition import Change, Outcome
from tasks.display import display
from tasks.records import read


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """An acceptance by which a name stood for another checkpoint, and when that was promoted."""

    acceptance: str
    checkpoint: str
    since: str


@dataclass(frozen=True, kw_only=True)
class Health:
    """How a checkpoint is, compared with how it was accepted.

    Attributes:
        alarms: what is not as it was and should be, one sentence each.
        notes: what else is not as it was.
        unfit: whether an alarm says that it should not be used: damaged, retracted, or worse.
        identical: whether everything that was measured again came out bit for bit.
        done: what was done about it.
    """

    alarms: Sequence[str] = ()
    notes: Sequence[str] = ()
    unfit: bool = False
    identical: bool = False
    done: str = ""

    def __str__(self) -> str:
        fine = "unchanged and as accepted" + (", bit for bit" if self.identical else "")
        return "; ".join(filter(None, [*(self.alarms or [fine]), *self.notes, self.done]))


@task(name="find acceptance", task_run_name="acceptance-{name}")
def accepted(name: str) -> str | None:
    """The id of the acceptance behind `nacl@champion`; None where nothing is promoted."""
    try:
        return aliases.resolve(_acceptance_of(name)).id
    except UnknownArtifact:
        return None


@task(name="verify bytes", task_run_name="verify-{name}")
def verify_bytes(name: str, acceptance_id: str) -> list[str]:
    """What is missing, changed or retracted among an acceptance and everything it was measured on."""
    damaged = verify([acceptance_id])
    if damaged:
        return [problem.detail for problem in damaged]
    content = read(acceptance_id)
    if "findings" not in content:
        return ["was accepted by an earlier version, whose checks there are no more: run its campaign again"]
    compared = (id_ for theirs in content["compared"].values() for id_ in (theirs or {}).values())
    inputs = {content["checkpoint"], *content["files"].values(), *content["findings"].values(), *compared}
    found = [problem.detail for problem in verify(sorted(inputs))]
    behind = (retractions.tainted(id_) for id_ in (content["checkpoint"], acceptance_id, *sorted(inputs)))
    return found + list(dict.fromkeys(f"rests on {one}" for one in behind if one is not None))


def misplaced(name: str, acceptance_id: str) -> list[str]:
    """Whether a name stands for something else than what was accepted, in words."""
    promoted, checkpoint = aliases.resolve(name).id, read(acceptance_id)["checkpoint"]
    if promoted == checkpoint:
        return []
    return [f"stands for {promoted[:12]}, but {checkpoint[:12]} is what was accepted"]


def pinned(acceptance_id: str) -> tuple[str, dict[str, str], Simulation, list[AnyCheck]]:
    """What an acceptance was measured on: checkpoint, files by role, dynamics, and what can be repeated."""
    content = read(acceptance_id)
    checks = [acceptance.check_from(check) for check in content["checks"]]
    return (
        content["checkpoint"],
        content["files"],
        Simulation.model_validate(content["simulation"]),
        [check for check in checks if check.repeatable],
    )


@task(name="compare", task_run_name="compare-{name}")
def compare(name: str, acceptance_id: str, findings: Mapping[str, str], tolerance: float) -> Health:
    """How a checkpoint is (see `judged`); every figure goes into a table in Prefect."""
    health, changes = judged(acceptance_id, findings, tolerance)
    display(
        create_table_artifact,
        table=[
            {
                "figure": acceptance.described(change.figure),
                "accepted": change.before,
                "now": change.after,
                "change, in pairs": change.interval and "{:+.2g} to {:+.2g}".format(*change.interval),
                "outcome": change.outcome.value,
            }
            for change in changes
        ],
        key=f"revalidation-{name}".replace("@", "-").replace("_", "-"),
        description=f"{name}: what it was accepted with, and what is measured now",
    )
    return health


def judged(
    acceptance_id: str, findings: Mapping[str, str], tolerance: float
) -> tuple[Health, Sequence[Change]]:
    """How a checkpoint is by the findings of today, by kind of check, and what became of every figure."""
    content = read(acceptance_id)
    before, now = _contents(content["findings"]), _contents(findings)
    others = {other: theirs and _contents(theirs) for other, theirs in content["compared"].items()}
    changes = repetition.compare(before, now, tolerance)
    lost = repetition.lost(content["verdicts"], content["role"], now, others)
    changed = [change for change in changes if change.outcome == Outcome.changed]
    alarms = [f"no longer passes its gate: {_asked_for(verdict)}" for verdict in lost]
    alarms += [f"{change} ({'worse' if change.worse else 'better'})" for change in changed]
    outcomes = [change.outcome for change in changes]
    notes = [
        f"{n} of its {len(changes)} figures {'differs' if n == 1 else 'differ'} {outcome.value}"
        for outcome in (Outcome.small, Outcome.noise)
        if (n := outcomes.count(outcome))
    ]
    if drift := _drift(content["findings"].values()):
        notes.append(f"since it was accepted: {', '.join(drift)}")
    health = Health(
        alarms=alarms,
        notes=notes,
        unfit=bool(lost) or any(change.worse for change in changed),
        identical=all(content["findings"][kind] == id_ for kind, id_ in findings.items()),
    )
    return health, changes


def moves_back(acceptance_id: str) -> bool:
    """Whether the campaign of an acceptance wants its names moved back; not where that cannot be read."""
    try:
        return bool(read(acceptance_id).get("night", {}).get("move_back", False))
    except ProvenanceError:
        return False


def earlier(name: str, acceptance_id: str) -> Iterator[Earlier]:
    """What a name stood for by other acceptances, the newest first, as far as these can be read."""
    seen = {read(acceptance_id)["checkpoint"]}
    for event in reversed(aliases.history(_acceptance_of(name))):
        try:
            checkpoint = read(event.artifact_id)["checkpoint"]
        except (ProvenanceError, KeyError):  # damaged, or of an earlier version
            continue
        if checkpoint not in seen:
            seen.add(checkpoint)
            yield Earlier(
                acceptance=event.artifact_id, checkpoint=checkpoint, since=f"{event.set_at:%Y-%m-%d}"
            )


@task(name="move back", task_run_name="move-{name}-back")
def move_back(name: str, acceptance_id: str, to: Earlier, reason: str) -> None:
    """Let a name, and its acceptance with it, stand again for what it stood for earlier.

    Raises ProvenanceError where it stands for something else by now, or where that is retracted or comes
    under terms that its campaign forbids.
    """
    now = read(acceptance_id)
    licences.check(to.checkpoint, now["forbidden_licences"])
    moves = {_acceptance_of(name): (acceptance_id, to.acceptance), name: (now["checkpoint"], to.checkpoint)}
    aliases.move(moves, reason=reason)


def _contents(findings: Mapping[str, str]) -> dict[str, Any]:
    return {kind: read(id_) for kind, id_ in findings.items()}


def _acceptance_of(name: str) -> str:
    return f"{name}-acceptance"


def _asked_for(verdict: Verdict) -> str:
    """What a line of a gate asks for, and what is found instead."""
    value = verdict.evidence if verdict.value is None else f"{verdict.value:.4g} {verdict.unit}".strip()
    limit = f"{verdict.threshold:g} {verdict.unit}".strip()
    return f"{verdict.check}: {value}, asked for {'at least' if verdict.at_least else 'at most'} {limit}"


def _drift(findings: Iterable[str]) -> list[str]:
    """How what computes here now differs from what has computed these findings, in words."""
    now = agent.software()
    steps = (step_of(id_) for id_ in findings)
    return list(dict.fromkeys(said for step in steps if step for said in agent.drift(step.software, now)))
