"""The rounds of a campaign, as a report shows them: how the error fell with the labels it asked for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models import figures
from models.validation.base import Line, Plot

ALL = "all labels"
"""What the campaign's own model is called in the figures, beside those of single arms."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One row: a round, the start being number 0, and the model that was trained after it.

    Attributes:
        number: of the round.
        labels: that the model was trained on, in all.
        new: labels that this round brought.
        failed: calculations of this round that gave no label.
        doubtful: labels of this round that were not trained on.
        forces: force MAE on the test structures, meV/Å, which are the same in all rounds.
        forces_interval: 95 %.
        passed: whether the gate holds.
        coverage: share of held-out atoms whose force error is within the calibrated uncertainty.
        cpu_hours: of the reference calculator.
    """

    number: int
    labels: int
    new: int = 0
    failed: int = 0
    doubtful: int = 0
    forces: float | None = None
    forces_interval: tuple[float, float] | None = None
    passed: bool | None = None
    coverage: float | None = None
    cpu_hours: float | None = None


@dataclass(frozen=True, kw_only=True)
class ArmPoint:
    """A model trained on the first labels and on those of one arm alone; forces in meV/Å."""

    name: str
    labels: int
    forces: float | None
    forces_interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The force error after random labels over that after as many selected ones, with its 95 % interval."""

    ratio: float
    interval: tuple[float, float] | None = None

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out 1, so that one way is better than the other."""
        return self.interval is not None and not self.interval[0] <= 1.0 <= self.interval[1]


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """What the rounds of a campaign came to.

    Attributes:
        rows: one for each round, the start first.
        stopped: why there was no further round, as the end of a sentence.
        gain: what the selection gained, where there is a control arm.
        arms: models of single arms, for comparison.
        asked: the force MAE that the gate asks for, meV/Å.
        stated: the share of atoms that the uncertainty promises to cover.
        plots: further figures, such as the reliability of the last uncertainty.
    """

    rows: Sequence[Round]
    stopped: str
    gain: Gain | None = None
    arms: Sequence[ArmPoint] = ()
    asked: float | None = None
    stated: float | None = None
    plots: Sequence[Plot] = ()

    @property
    def asking(self) -> int:
        """How many rounds asked for labels."""
        return sum(row.number > 0 for row in self.rows)

    @property
    def brought(self) -> int:
        """How many labels they brought."""
        return sum(row.new for row in self.rows)


def names(rounds: Rounds) -> list[str]:
    """What the models in the figures are called."""
    return list(dict.fromkeys([ALL, *(point.name for point in rounds.arms)]))


def grid(rounds: Rounds, colours: Mapping[str, str]) -> figures.Grid:
    """The learning curve over the rounds, with the arms, and the further plots."""
    models: dict[str, list[Round | ArmPoint]] = {name: [] for name in names(rounds)}
    models[ALL] += rounds.rows
    for point in rounds.arms:
        models[point.name].append(point)
    asked = []
    if rounds.asked is not None:
        ends = [float(point.labels) for points in models.values() for point in points]
        asked = [Line(x=[min(ends), max(ends)], y=[rounds.asked] * 2, name="asked for by the gate")]
    curve = {
        name: Plot(
            title="Force error over rounds",
            x_label="labels",
            y_label="force MAE, meV/Å",
            lines=[_line([p for p in points if p.forces is not None]), *asked],
            log="y",
        )
        for name, points in models.items()
    }
    return figures.grid(
        {"Force error over rounds": curve, **{p.title: {ALL: p} for p in rounds.plots}}, colours
    )


def _line(points: Sequence[Round | ArmPoint]) -> Line:
    """A curve of force errors; a 95 % interval is 3.92 standard errors wide."""
    widths = [b - a for a, b in (p.forces_interval or (math.nan, math.nan) for p in points)]
    return Line(
        x=[float(point.labels) for point in points],
        y=[point.forces for point in points],
        error=[width / 3.92 for width in widths],
    )
