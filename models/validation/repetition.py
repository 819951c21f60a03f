"""An acceptance that was measured again: what became of each figure, and of each line of its gate."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy import special

from models.validation import CHECKS
from models.validation.acceptance import described
from models.validation.base import Number
from models.validation.gate import Findings, Other, PromotedAs, Threshold, Verdict, judge

COVERAGE = 0.95  # of the intervals of all figures of an acceptance together


class Outcome(StrEnum):
    """What became of a figure, from best to worst."""

    same = "the same"
    small = "within the tolerance"
    noise = "within the noise"
    changed = "changed"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A figure as it was accepted, and as it is now.

    Attributes:
        figure: check and figure, as accuracy.forces.
        before, after: None where it could not be measured.
        interval: of `after` minus `before`, from the same samples of both; None where there are no such.
        samples: how many these are.
        worse: whether `after` is on the worse side of `before`.
    """

    figure: str
    before: Number
    after: Number
    interval: tuple[float, float] | None
    samples: int
    outcome: Outcome
    worse: bool

    def __str__(self) -> str:
        was, now = ("not measurable" if v is None else f"{v:.4g}" for v in (self.before, self.after))
        said = f"{described(self.figure)}: was {was}, is {now}"
        if self.interval is not None:
            low, high = self.interval
            said += f" (change {low:+.2g} to {high:+.2g}, in pairs on {self.samples} samples)"
        return said


def compare(before: Findings, after: Findings, tolerance: float) -> list[Change]:
    """Every figure of checks that can be repeated, as it was `before` and as it is `after`.

    A figure has changed where it is off by more than the relative `tolerance` and, if it comes with samples,
    the interval of the difference in pairs excludes zero. The intervals of all figures hold together with
    95 %, so that a night in which nothing happened raises no alarm for one figure out of many.
    """
    pairs = {
        f"{kind}.{name}": (was, after.get(kind, {"figures": {}})["figures"].get(name, _UNMEASURED))
        for kind, finding in before.items()
        if CHECKS[kind].repeatable
        for name, was in finding["figures"].items()
    }
    in_pairs = {figure: _samples(was, now) for figure, (was, now) in pairs.items() if was != now}
    level = 1 - (1 - COVERAGE) / max(1, sum(samples is not None for samples in in_pairs.values()))
    return [
        _change(figure, was, now, in_pairs.get(figure), level, tolerance)
        for figure, (was, now) in pairs.items()
    ]


_UNMEASURED: Mapping[str, Any] = {"value": None, "samples": {}}


def _samples(was: Mapping[str, Any], now: Mapping[str, Any]) -> np.ndarray | None:
    """Sums and weights before and now (samples, 4); None where they are fewer than two, or others now."""
    names = sorted(was["samples"])
    if len(names) < 2 or names != sorted(now["samples"]):
        return None
    values = np.array([[*was["samples"][name], *now["samples"][name]] for name in names], float)
    return values if np.isfinite(values).all() else None


def _change(
    figure: str,
    was: Mapping[str, Any],
    now: Mapping[str, Any],
    samples: np.ndarray | None,
    level: float,
    tolerance: float,
) -> Change:
    before, after = was["value"], now["value"]
    kind, _, name = figure.partition(".")
    interval = None if samples is None else _interval(samples, level)
    if was == now:
        outcome = Outcome.same
    elif before is None or after is None:
        outcome = Outcome.same if before is after else Outcome.changed
    elif abs(after - before) <= tolerance * max(abs(before), 1e-9):
        outcome = Outcome.small
    elif interval is not None and interval[0] <= 0 <= interval[1]:
        outcome = Outcome.noise
    else:
        outcome = Outcome.changed
    rising = before is not None and after is not None and after > before
    return Change(
        figure=figure,
        before=before,
        after=after,
        interval=interval,
        samples=0 if samples is None else len(samples),
        outcome=outcome,
        worse=outcome != Outcome.same
        and (after is None or rising == (CHECKS[kind].quantities[name].better == "lower")),
    )


def _interval(samples: np.ndarray, level: float) -> tuple[float, float]:
    """The interval of Σ sums / Σ weights now minus before, by Student's t on the samples' residuals.

    Not by the bootstrap of the gate: of four replicas that only jitter, it excludes zero one time in five.
    The residuals are those of a ratio estimator (Cochran, Sampling Techniques, 3rd ed., section 6.3).
    """
    n = len(samples)
    values, residuals = [], []
    for sums, weights in (samples[:, :2].T, samples[:, 2:].T):
        value = sums.sum() / weights.sum()
        values.append(value)
        residuals.append((sums - value * weights) / weights.mean())
    change = values[1] - values[0]
    error = np.sqrt(((residuals[1] - residuals[0]) ** 2).sum() / (n * (n - 1)))
    half = float(special.stdtrit(n - 1, (1 + level) / 2) * error)
    return float(change - half), float(change + half)


def lost(
    verdicts: Iterable[Mapping[str, Any]],
    role: PromotedAs,
    findings: Findings,
    others: Mapping[Other, Findings | None],
) -> list[Verdict]:
    """The lines of a gate that held when `verdicts` (as JSON) were given, and no longer do on `findings`."""
    held = [
        Threshold(
            figure=verdict["figure"],
            at_least=verdict["threshold"] if verdict["at_least"] else None,
            at_most=None if verdict["at_least"] else verdict["threshold"],
            relative_to=verdict["relative_to"],
        )
        for verdict in verdicts
        if verdict["passed"]
    ]
    quantities = {kind: check.quantities for kind, check in CHECKS.items()}
    return [verdict for verdict in judge(held, role, findings, others, quantities) if not verdict.passed]
