"""The order of an acceptance: dynamics, checks side by side, the models it is compared with, the gate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from db.settings import settings
from flows.runners import result
from models import devices
from models.campaign import Campaign
from models.validation import AnyCheck, acceptance
from models.validation.acceptance import Simulation
from models.validation.gate import Other, PromotedAs
from tasks.promotion import judge, promoted
from tasks.validation import measure, simulate

SIDE_BY_SIDE: TaskRunner[PrefectFuture[Any]] = ThreadPoolTaskRunner[Any](  # type: ignore[assignment]  # invariant
    max_workers=1 if devices.is_gpu(settings().device) else 2
)
"""Runs what a flow submits, each in a child on one thread: a GPU runs one training at a time."""

Ground = tuple[str, Mapping[str, str]]
"""A checkpoint that another is compared with, and the files it is measured on, by role."""


def measured_on(
    data: Mapping[str, str], replay: Mapping[str, str], evidence: Mapping[str, str]
) -> dict[str, str]:
    """The files that a checkpoint is measured on, by role: of labels and replay what no training has seen."""
    return {"test": data["test"], "replay_test": replay["replay_test"], **evidence}


@dataclass(frozen=True, kw_only=True)
class Examination:
    """The checks of one checkpoint, on their way."""

    started: Mapping[str, PrefectFuture[str]]

    @property
    def trajectories(self) -> str | None:
        """The id of the dynamics; None where no check needs any."""
        return result(self.started["trajectories"]) if "trajectories" in self.started else None

    def findings(self) -> dict[str, str]:
        """By kind of check: the id of what it found. Waits for all."""
        # In the order in which they were started: of several that fail, the first is the cause.
        found = {kind: result(future) for kind, future in self.started.items()}
        return {kind: id_ for kind, id_ in found.items() if kind != "trajectories"}


def examine(
    name: str,
    simulation: Simulation,
    checks: Iterable[AnyCheck],
    checkpoint: str,
    files: Mapping[str, str],
    *,
    beside: bool = False,
    occasion: str | None = None,
) -> Examination:
    """Start the checks that these files allow.

    `beside` something else that computes, one at a time. Dynamics, the longest, has a place of its own;
    what takes the time comes last and alone. On an `occasion` all is measured again, whatever is on record.
    """
    feasible = [check for check in checks if acceptance.lacking(check, (*files, "trajectories")) is None]
    started: dict[str, PrefectFuture[str]] = {}
    with_dynamics = dict(files)
    if any("trajectories" in check.needs for check in feasible):
        starts = starts_from(files)
        started["trajectories"] = simulate.submit(name, simulation, checkpoint, starts, occasion)
        with_dynamics["trajectories"] = started["trajectories"]  # type: ignore[assignment]  # Prefect waits
    for check in sorted(feasible, key=lambda check: (not check.repeatable, "trajectories" in check.needs)):
        given = with_dynamics if "trajectories" in check.needs else files
        earlier = [future for kind, future in started.items() if kind != "trajectories"]
        before = list(started.values()) if not check.repeatable else earlier[-1:] if beside else []
        started[check.kind] = measure.submit(
            name, check, checkpoint, given, occasion, wait_for=before, return_state=False
        )
    return Examination(started=started)


def accept(
    plan: Campaign,
    role: PromotedAs,
    checkpoint: str,
    files: Mapping[str, str],
    examination: Examination,
    others: Mapping[Other, Ground],
) -> PrefectFuture[str]:
    """The acceptance of a checkpoint as `role`, on its way. Waits for all that it rests on.

    `others`: the checkpoint and the files of the models that the gate may compare with. What is promoted
    at present is looked up; a checkpoint is not compared with itself.
    """
    known: dict[Other, Ground | None] = {**others}
    current = promoted(plan, role)
    known["current"] = None if current in (None, checkpoint) else (current, files)
    compared: dict[Other, dict[str, str] | None] = {}
    for other, given in known.items():
        kinds = [t.check for t in plan.gate if t.relative_to == other and t.of in (None, role)]
        if not kinds:
            continue
        compared[other] = None
        if given is not None:
            compared[other] = examine(other, plan.simulation, chosen(plan, kinds), *given).findings()
    findings = examination.findings()
    return judge.submit(plan, role, checkpoint, files, findings, compared, return_state=False)


def starts_from(files: Mapping[str, str]) -> str:
    """The id of the structures from which dynamics starts."""
    return files.get("reference", files["test"])


def chosen(plan: Campaign, kinds: Sequence[str]) -> list[AnyCheck]:
    """The campaign's checks of these kinds."""
    return [check for check in plan.checks if check.kind in kinds]
