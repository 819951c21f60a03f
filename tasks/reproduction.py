"""A lineage computed again from its record, in a clean store, and compared with what is on record."""

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from db import agent, artifacts, trust
from db.manifest import StepPart
from models import foundation
from models.comparison import compare
from tasks.children import in_child
from tasks.records import Recipe, made
from tasks.reproduction_plan import KINDS, NotReproducible, Plan

TOLERANCE = 1e-4
"""Of the range of an array. Other instructions of the same processor took a pass of a float32 network up to
2e-5 away, and weights after a short training 6e-6; another training is far beyond."""


class Verdict(StrEnum):
    """How a step's outputs compare with those on record, from best to worst."""

    identical = "identical"
    close = "equal within tolerance"
    different = "different"
    failed = "failed"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of several; of none, identical."""
    return max(verdicts, key=list(Verdict).index, default=Verdict.identical)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A step that was computed again.

    Attributes:
        verdict: on those of its outputs that what was asked for rests on.
        details: per output that is not identical, what differs most; or why the step failed.
        on_new_inputs: whether something that it used had come out differently before.
        then, now: s.
    """

    kind: str
    name: str
    verdict: Verdict
    details: list[str]
    on_new_inputs: bool
    then: float
    now: float


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What came out.

    Attributes:
        outcomes: of the steps, in the order in which they were computed.
        environment: by name, what was different around the steps on record: their values, and the present.
    """

    outcomes: list[Outcome]
    environment: Mapping[str, tuple[list[Any], Any]]

    @property
    def verdict(self) -> Verdict:
        """That of the worst step."""
        return worst(outcome.verdict for outcome in self.outcomes)

    @property
    def first_difference(self) -> Outcome | None:
        """The first step that did not come out byte for byte."""
        return next((o for o in self.outcomes if o.verdict != Verdict.identical), None)


def reproduce(
    plan: Plan,
    home: Path,
    tolerance: float = TOLERANCE,
    on_step: Callable[[Outcome], None] | None = None,
) -> Reproduction:
    """Compute a plan's steps in the empty folder `home`, one after the other, in a process of its own.

    Where a step comes out differently, those that use it go on from what came out now. One that fails is
    the last. `on_step` is told of each when it is done. Raises NotReproducible where `home` is not empty.
    """
    if home.exists() and any(home.iterdir()):
        raise NotReproducible(f"{home} is not empty; give a new folder, or an empty one")
    logging.getLogger("alembic.runtime.plugins").disabled = True  # the child's lists them when it is imported
    outcomes: list[Outcome] = []

    def done(message: Mapping[str, Any]) -> None:
        outcomes.append(message["outcome"])
        if on_step is not None:
            on_step(message["outcome"])

    now = in_child(_compute_again, plan, home, tolerance, on_progress=done)
    environment: dict[str, tuple[list[Any], Any]] = {}
    for step in plan.steps:
        for name, (then, present) in agent.changes(step.software, now).items():
            thens, _ = environment.setdefault(name, ([], present))
            if then not in thens:
                thens.append(then)
    return Reproduction(outcomes=outcomes, environment=environment)


def _compute_again(
    plan: Plan, home: Path, tolerance: float, report: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """The child's part of `reproduce`; returns the software that it ran with."""
    os.environ["TEMPER_HOME"] = str(home)
    for name in ("TEMPER_DATABASE_URL", "TEMPER_STORE", "TEMPER_TRACKERS"):
        os.environ.pop(name, None)
    now: dict[str, str] = {}  # ids on record to ids here
    for id_ in plan.leaves:
        leaf = plan.artifacts[id_]
        now[id_] = artifacts.import_file(plan.files[id_], leaf.kind, leaf.name, leaf.metadata).id
    for name in plan.vouched:
        trust.trust(foundation.fetch(name), "model-file", "trusted by the record that is reproduced")
    for step in plan.steps:
        outcome = _again(plan, step, now, tolerance)
        report({"outcome": outcome})
        if outcome.verdict == Verdict.failed:
            break
    return agent.software()


def _again(plan: Plan, step: StepPart, now: dict[str, str], tolerance: float) -> Outcome:
    """Compute a step on what is here `now`, add its outputs to that, and compare them with the record."""
    names = {role: plan.artifacts[id_].name for role, id_ in step.generated.items()}
    inputs = {role: [now[id_] for id_ in ids] for role, ids in step.used.items()}
    recipe = Recipe(parameters=step.parameters, inputs=inputs, names=names, seed=step.seed)
    started = time.monotonic()
    outputs: Mapping[str, str] = {}
    try:
        outputs = made(KINDS[step.kind], recipe)
        failures = [f"{role}: is not made now" for role in step.generated if role not in outputs]
    except Exception as error:
        failures = [f"{type(error).__name__}: {error}"]
    seconds = time.monotonic() - started
    verdicts, details = [Verdict.failed] if failures else [], failures
    for role, id_ in outputs.items():
        before = step.generated.get(role)
        verdict, detail = _compared(plan, before, id_, tolerance)
        beside = "" if before in plan.behind else ", on which nothing here rests"
        verdicts += [] if beside else [verdict]
        details += [f"{role}{beside}: {detail}"] if detail else []
    now |= {
        before: outputs[role]
        for role, before in step.generated.items()
        if role in outputs and plan.artifacts[before].step_key == step.key
    }
    return Outcome(
        kind=step.kind,
        name=", ".join(sorted(names[role] for role, id_ in step.generated.items() if id_ in plan.behind)),
        verdict=worst(verdicts),
        details=details,
        on_new_inputs=inputs != step.used,
        then=step.seconds or 0.0,
        now=seconds,
    )


def _compared(plan: Plan, before: str | None, after: str, tolerance: float) -> tuple[Verdict, str]:
    """An output against that on record: the verdict, and what differs most."""
    if before == after:
        return Verdict.identical, ""
    if before is None or before not in plan.files:
        return Verdict.different, "the bytes; there is no sound file on record to measure by how much"
    most = compare(plan.files[before], artifacts.path(after))
    if math.isinf(most.relative):
        return Verdict.different, most.where
    verdict = Verdict.close if most.relative <= tolerance else Verdict.different
    return verdict, f"{most.where}: {most.absolute:.2g} apart, {most.relative:.2g} of its range"
