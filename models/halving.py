"""What the trainings of a sweep came to: who goes on, the Pareto front, and what is recommended.

All errors are of validation data. Differences between two trials are taken seed by seed, so that what a seed
does to both does not count.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, Literal

from models.sweeps import Rung, Sweep

Axis = Literal["error", "retention", "cpu_seconds", "parameters"]

_BEST: dict[Axis, tuple[str, str]] = {
    "error": ("has the lowest validation error", "meV/Å"),
    "retention": ("forgets least", "meV/Å on the foundation's own ground"),
    "cpu_seconds": ("trains fastest", "CPU seconds"),
    "parameters": ("trains the fewest parameters", ""),
}
_FRONT: tuple[Axis, ...] = ("error", "retention", "cpu_seconds")


class SweepError(ValueError):
    """A sweep of which no trial is left."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training of a trial.

    Attributes:
        rung: from 1.
        goes_on: whether the rung before is part of it.
        error: force MAE on the validation structures, meV/Å.
        retention: force MAE on replay structures that nothing was trained on, meV/Å.
        cpu_seconds: of all its epochs, those of earlier rungs included where it went on from there.
        failure: why there is no model; empty where there is one.
    """

    trial: str
    rung: int
    epochs: int
    seed: int
    goes_on: bool = False
    error: float | None = None
    retention: float | None = None
    cpu_seconds: float | None = None
    parameters: int | None = None
    checkpoint: str = ""
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A trial, as far as it was trained: means over the seeds of its last rung, and standard deviations.

    Attributes:
        settings: those that were varied.
        curve: epochs and validation error of each rung.
        on_front: whether no other is better in one of error, retention and CPU time, and as good in the rest.
        tied: whether its error is that of the best, as far as the seeds and the tolerance tell.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]
    rung: int
    epochs: int
    seeds: int
    error: float | None = None
    error_spread: float | None = None
    retention: float | None = None
    retention_spread: float | None = None
    cpu_seconds: float | None = None
    parameters: int | None = None
    curve: Sequence[tuple[float, float]] = ()
    on_front: bool = False
    tied: bool = False
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The foundation itself, before any training; meV/Å."""

    error: float | None
    retention: float | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a sweep came to.

    Attributes:
        standings: the recommended one first, then by rung and error; what failed is last.
        chosen: the name of the recommended trial.
        strategy: the same as it stands in a campaign file.
        checkpoint: of its training with the first seed.
        reasons: why it is recommended, a sentence each.
        notes: what else a person should know.
        rungs: what each trained: `trials`, `seeds`, `epochs` (from, to) and `budget`, at most so many epochs.
        epochs: that were trained in all; `full`: what all trials with all epochs and seeds would have taken.
        cpu_seconds: of all trainings.
    """

    standings: Sequence[Standing]
    chosen: str
    strategy: Mapping[str, Any]
    checkpoint: str
    reasons: Sequence[str]
    notes: Sequence[str]
    rungs: Sequence[Mapping[str, Any]]
    foundation: Baseline
    epochs: int
    full: int
    cpu_seconds: float | None


def survivors(sweep: Sweep, rung: Rung, trainings: Sequence[Training]) -> list[str]:
    """The names of the trials that go on after `rung`: the lowest errors, as many as the next one takes.

    Raises SweepError where every trial failed.
    """
    ranked = _ranked(trainings, rung)
    if not ranked:
        first = next(t for t in trainings if t.rung == rung.number)
        raise SweepError(f"all trials failed in rung {rung.number}; {first.trial}: {first.failure}")
    following = sweep.schedule()[rung.number : rung.number + 1]
    return [t.trial for t in ranked[: following[0].trials]] if following else [t.trial for t in ranked]


def conclude(sweep: Sweep, trainings: Sequence[Training], foundation: Baseline) -> Result:
    """The standings of all trials, and the recommended one; raises SweepError where none is left."""
    schedule = sweep.schedule()
    last = {t.trial: [o for o in trainings if o.trial == t.trial and o.rung == t.rung] for t in trainings}
    finalists = [
        name
        for name, runs in last.items()
        if runs[0].rung == schedule[-1].number and not any(run.failure for run in runs)
    ]
    if not finalists:
        raise SweepError("no trial of the last rung came through with all seeds; " + _failures(last))
    chosen, tied, reasons = _choose(sweep, {name: last[name] for name in finalists})
    strategies = {trial.name: trial for trial in sweep.trials()}
    standings = [
        Standing(
            name=name,
            kind=trial.strategy.kind,
            settings=trial.settings,
            rung=last[name][0].rung,
            epochs=last[name][0].epochs,
            seeds=len(last[name]),
            **_means(last[name]),
            curve=_curve(name, trainings),
            tied=name in tied,
            failure=next((f"seed {t.seed}: {t.failure}" for t in last[name] if t.failure), ""),
        )
        for name, trial in strategies.items()
        if name in last
    ]
    front = pareto_front({s.name: [getattr(s, axis) for axis in _FRONT] for s in standings if not s.failure})
    standings = [replace(s, on_front=s.name in front) for s in standings]
    spent = [_spent(t, trainings) for t in trainings]
    return Result(
        standings=sorted(
            standings, key=lambda s: (s.name != chosen, bool(s.failure), -s.rung, _number(s.error))
        ),
        chosen=chosen,
        strategy=strategies[chosen].at(strategies[chosen].epochs, sweep.seeds[0]).model_dump(mode="json"),
        checkpoint=last[chosen][0].checkpoint,
        reasons=reasons,
        notes=[note for rung in schedule[:-1] for note in _close_calls(sweep, rung, trainings)],
        rungs=[
            {
                "number": rung.number,
                "trials": len({t.trial for t in trainings if t.rung == rung.number}),
                "seeds": list(rung.seeds),
                "epochs": sorted({t.epochs for t in trainings if t.rung == rung.number}),
                "budget": budget,
            }
            for rung, budget in zip(schedule, sweep.budget(), strict=True)
        ],
        foundation=foundation,
        epochs=sum(epochs for epochs, _ in spent),
        full=sum(trial.epochs for trial in strategies.values()) * len(sweep.seeds),
        cpu_seconds=None if any(s is None for _, s in spent) else sum(s or 0.0 for _, s in spent),
    )


def pareto_front(points: Mapping[str, Sequence[float | None]]) -> set[str]:
    """The names of the points than which no other is lower in one number and as low in the others."""
    known = {name: [_number(x) for x in point] for name, point in points.items()}
    return {
        name
        for name, point in known.items()
        if not any(
            other != point and all(theirs <= own for theirs, own in zip(other, point, strict=True))
            for other in known.values()
        )
    }


def _choose(sweep: Sweep, runs: Mapping[str, Sequence[Training]]) -> tuple[str, list[str], list[str]]:
    """The recommended trial, those whose error ties with the best, and why."""
    left, reasons, as_good = list(runs), [], list(runs)
    axes: list[Axis] = ["error", sweep.prefer, "parameters"]
    for axis in dict.fromkeys(axes):
        if len(left) == 1 and axis != "error":
            break
        if any(getattr(run, axis) is None for name in left for run in runs[name]):
            continue
        best = min(left, key=lambda name: _mean(runs[name], axis))
        left = [name for name in left if _ties(runs[name], runs[best], axis, sweep.tolerance)]
        what, unit = _BEST[axis]
        among = "" if axis == "error" else "Of these, "
        reasons.append(f"{among}{best} {what}: {_said(runs[best], axis)} {unit}".rstrip() + ".")
        others = ", ".join(f"{name} ({_said(runs[name], axis)})" for name in left if name != best)
        how = f"within {sweep.tolerance:.0%} or one standard error of the difference over seeds"
        reasons.append(f"As good, {how}: {others}." if others else "No other one is as good.")
        if axis == "error":
            as_good = left
    chosen = min(left, key=lambda name: _mean(runs[name], "error"))
    if len(left) > 1:
        reasons.append(
            f"Nothing tells {' and '.join(left)} apart; {chosen} has the lowest mean error of them."
        )
    return chosen, as_good, reasons


def _ties(runs: Sequence[Training], best: Sequence[Training], axis: Axis, tolerance: float) -> bool:
    """Whether the mean difference is within its standard error over seeds, or within the tolerance."""
    apart = [getattr(a, axis) - getattr(b, axis) for a, b in zip(runs, best, strict=True)]
    noise = stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0
    return fmean(apart) <= max(noise, tolerance * _mean(best, axis))


def _mean(runs: Sequence[Training], axis: Axis) -> float:
    return fmean(_number(getattr(run, axis)) for run in runs)


def _means(runs: Sequence[Training]) -> dict[str, Any]:
    """Means over the seeds that came through; the spread of what seeds decide."""
    known = {axis: [v for run in runs if (v := getattr(run, axis)) is not None] for axis in _BEST}
    return {
        **{axis: fmean(values) if values else None for axis, values in known.items()},
        **{f"{a}_spread": stdev(known[a]) if len(known[a]) > 1 else None for a in ("error", "retention")},
        "parameters": next(iter(known["parameters"]), None),
    }


def _said(runs: Sequence[Training], axis: Axis) -> str:
    """A mean and its standard deviation over seeds, in words."""
    mean = f"{_mean(runs, axis):,.0f}" if axis == "parameters" else f"{_mean(runs, axis):.1f}"
    spread = _means(runs).get(f"{axis}_spread")
    return mean if spread is None else f"{mean} ± {spread:.1f}"


def _ranked(trainings: Sequence[Training], rung: Rung) -> list[Training]:
    """The trainings of a rung that came through, by their errors; one of each trial."""
    through = [t for t in trainings if t.rung == rung.number and t.seed == rung.seeds[0] and not t.failure]
    return sorted(through, key=lambda t: _number(t.error))


def _close_calls(sweep: Sweep, rung: Rung, trainings: Sequence[Training]) -> list[str]:
    """What was left out though it was about as good as the last that went on."""
    ranked = _ranked(trainings, rung)
    stayed = len(survivors(sweep, rung, trainings))
    if not stayed < len(ranked):
        return []
    limit = _number(ranked[stayed - 1].error)
    close = [t for t in ranked[stayed:] if _number(t.error) <= (1.0 + sweep.tolerance) * limit]
    if not close:
        return []
    names = ", ".join(f"{t.trial} ({t.error:.1f})" for t in close)
    return [
        f"Left out after rung {rung.number}, within {sweep.tolerance:.0%} of the last that went on "
        f"({ranked[stayed - 1].trial}, {limit:.1f} meV/Å), so that chance may have decided: {names}."
    ]


def _curve(name: str, trainings: Sequence[Training]) -> list[tuple[float, float]]:
    rungs: dict[int, list[float]] = {}
    for t in trainings:
        if t.trial == name and t.error is not None:
            rungs.setdefault(t.epochs, []).append(t.error)
    return [(float(epochs), fmean(errors)) for epochs, errors in rungs.items()]


def _spent(training: Training, trainings: Sequence[Training]) -> tuple[int, float | None]:
    """Epochs and CPU seconds of a training, without those of the rung before that it went on from."""
    if not training.goes_on or training.cpu_seconds is None:
        return training.epochs, training.cpu_seconds
    same = (training.trial, training.seed, training.rung - 1)
    (before,) = (t for t in trainings if (t.trial, t.seed, t.rung) == same)
    return training.epochs - before.epochs, training.cpu_seconds - (before.cpu_seconds or 0.0)


def _failures(runs: Mapping[str, Sequence[Training]]) -> str:
    return "; ".join(
        f"{t.trial}, seed {t.seed}: {t.failure}" for many in runs.values() for t in many if t.failure
    )


def _number(value: float | None) -> float:
    """Something to sort by: what was not measured, or is no number, is last."""
    return value if value is not None and math.isfinite(value) else math.inf
