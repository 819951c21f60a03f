"""The gate: what a checkpoint must reach to be promoted, and the verdict on each line of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.validation.base import Quantity, compare_in_pairs

PromotedAs = Literal["champion", "engine"]
Other = Literal["foundation", "teacher", "current"]

_OTHERS: Mapping[Other, str] = {
    "foundation": "the foundation's",
    "teacher": "its teacher's",
    "current": "that of what is promoted",
}


class Threshold(BaseModel):
    """One line of a gate: the figure of a check, and the limit on it.

    An absolute limit is on the figure's value. A relative one is on the ratio to another model's (for
    figures in %, on the difference in percentage points), compared in pairs on the same samples: it holds
    only where the worse end of the 95 % interval holds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    figure: str = Field(pattern=r"^\w+\.\w+$", description="check and figure, as accuracy.forces")
    at_least: float | None = None
    at_most: float | None = None
    relative_to: Other | None = Field(
        None, description="the foundation, a student's teacher, or what is promoted at present"
    )
    of: PromotedAs | None = Field(None, description="of the champion or the engine only; both where not said")

    @model_validator(mode="after")
    def _one_limit(self) -> "Threshold":
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"{self.figure}: give either at_least or at_most")
        return self

    @property
    def check(self) -> str:
        """The kind of check that the figure is of."""
        return self.figure.partition(".")[0]

    @property
    def name(self) -> str:
        """The figure's name within its check."""
        return self.figure.partition(".")[2]

    @property
    def limit(self) -> float:
        """The number on which it turns."""
        return self.at_least if self.at_least is not None else float(self.at_most or 0.0)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one threshold, with its evidence.

    Attributes:
        figure: check and figure, as accuracy.forces.
        check: what was measured, in words.
        value: the figure or, of a relative threshold, the ratio or difference; None: it could not be had.
        interval: 95 %, where it rests on several samples.
        threshold: the limit.
        unit: of value and limit.
        at_least: whether the limit is a least value.
        relative_to: what it was compared with.
        evidence: on what the verdict rests, in words.
        passed: whether it holds.
    """

    figure: str
    check: str
    value: float | None
    interval: tuple[float, float] | None
    threshold: float
    unit: str
    at_least: bool
    relative_to: Other | None
    evidence: str
    passed: bool


Findings = Mapping[str, Mapping[str, Any]]
"""By kind of check: a finding, as JSON."""


def judge(
    gate: Iterable[Threshold],
    role: PromotedAs,
    findings: Findings,
    others: Mapping[Other, Findings | None],
    quantities: Mapping[str, Mapping[str, Quantity]],
) -> list[Verdict]:
    """The verdicts of a gate on what is to be promoted as `role`.

    `others` holds the findings of the models compared with, None where there is none yet, such as nothing
    promoted. Thresholds on checks that were left out, or on figures that do not apply, have no verdict.
    """
    found = []
    for threshold in gate:
        figure = findings.get(threshold.check, {"figures": {}})["figures"].get(threshold.name)
        if threshold.of in (None, role) and figure is not None:
            quantity = quantities[threshold.check][threshold.name]
            if threshold.relative_to is None:
                found.append(_absolute(threshold, quantity, figure))
            else:
                other = others.get(threshold.relative_to)
                found.append(_relative(threshold, quantity, figure, other))
    return found


def _absolute(threshold: Threshold, quantity: Quantity, figure: Mapping[str, Any]) -> Verdict:
    value = figure["value"]
    n = len(figure["samples"])
    return Verdict(
        figure=threshold.figure,
        check=quantity.words,
        value=value,
        interval=None if figure["interval"] is None else tuple(figure["interval"]),
        threshold=threshold.limit,
        unit=quantity.unit,
        at_least=threshold.at_least is not None,
        relative_to=None,
        evidence="could not be measured" if value is None else f"{n} samples" if n > 1 else "one measurement",
        passed=value is not None and _holds(threshold, value),
    )


def _relative(
    threshold: Threshold, quantity: Quantity, figure: Mapping[str, Any], other: Findings | None
) -> Verdict:
    assert threshold.relative_to is not None
    difference = quantity.unit == "%"
    value, interval, passed = None, None, False
    if other is None:
        evidence, passed = "nothing else is promoted to be compared with", True
    elif figure["value"] is None:
        evidence = "could not be measured"
    else:
        theirs = other[threshold.check]["figures"][threshold.name]
        try:
            value, interval = compare_in_pairs(figure["samples"], theirs["samples"], difference=difference)
        except ValueError as failure:
            evidence = str(failure)
        else:
            n = len(figure["samples"].keys() & theirs["samples"].keys())
            ends: Sequence[float] = interval or (value,)
            passed = all(_holds(threshold, end) for end in ends)
            evidence = f"compared in pairs on {n} samples" if n > 1 else "one sample: no interval"
    between = "minus" if difference else "over"
    return Verdict(
        figure=threshold.figure,
        check=f"{quantity.words} {between} {_OTHERS[threshold.relative_to]}",
        value=value,
        interval=interval,
        threshold=threshold.limit,
        unit="points" if difference else "×",
        at_least=threshold.at_least is not None,
        relative_to=threshold.relative_to,
        evidence=evidence,
        passed=passed,
    )


def _holds(threshold: Threshold, value: float) -> bool:
    """Whether a value is on the right side of the limit; one that is no number is not."""
    return value >= threshold.limit if threshold.at_least is not None else value <= threshold.limit
