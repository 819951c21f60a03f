"""What every check of an acceptance is made of: its inputs, its findings, and what they are called."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from ase import Atoms
from pydantic import BaseModel, ConfigDict

from models.datasets import read_structures
from models.potentials import Potential
from models.tracing import traced

Role = Literal[
    "test", "replay_test", "reference", "trajectories", "minima", "paths", "crystals", "teacher", "foundation"
]
"""What a check may be measured on beside the checkpoint.

`test`: labelled structures kept from training. `replay_test`: structures of the foundation's own ground
with labels. `reference`: frames of trajectories at the reference's level (info keys `trajectory` and,
where known, `time_fs`). `trajectories`: the dynamics that the acceptance has run from the reference's
starts. `minima`: relaxed structures at the reference's level. `paths`: reaction paths (info keys `path`
and `image`). `crystals`: relaxed crystals (info key `crystal`), with what is known of them. `teacher`: the
checkpoint that a student learnt from. `foundation`: the checkpoint that a specialist was fine-tuned from.
"""

Number = float | None
RESAMPLES = 1000  # of a bootstrap
COVERAGE = (2.5, 97.5)  # %


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What a figure of a check means.

    Attributes:
        words: what is measured, for a table.
        unit: of the figure; empty for a bare number.
        better: which way is better.
        paired: whether the figure comes with samples, by which two models can be compared in pairs.
    """

    words: str
    unit: str
    better: Literal["lower", "higher"]
    paired: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number that a check found.

    Attributes:
        value: None where it could not be measured; a note of the finding then says why.
        interval: 95 % of a bootstrap over independent samples, where there are several.
        samples: by trajectory, replica or structure: a sum and its weight, so that the value is the sum
            of the sums over the sum of the weights. Two models measured on the same samples are compared
            in pairs.
    """

    value: Number
    interval: tuple[float, float] | None = None
    samples: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve, a cloud of points or a row of bars; `error` is one standard error of `y`.

    `name` is empty for the model itself; another line, such as "reference", is drawn once for all models.
    """

    x: Sequence[float] | Sequence[str]
    y: Sequence[Number]
    name: str = ""
    error: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A small figure. The same `title` of several models is drawn in one panel.

    `kind`: a `parity` plot is points about the diagonal. `log` names the logarithmic axes.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    kind: Literal["line", "points", "bars", "parity"] = "line"
    log: Literal["", "x", "y", "xy"] = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of numbers and words; units stand in the heads of the columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Number]]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A structure that a person should look at, such as the worst one or a hole, and why."""

    title: str
    text: str
    symbols: Sequence[str]
    positions: Sequence[Sequence[float]]
    cell: Sequence[Sequence[float]]
    pbc: Sequence[bool]


def shown(atoms: Atoms, title: str, text: str) -> Shown:
    """A structure to look at; coordinates in Å, to 0.001."""
    return Shown(
        title=title,
        text=text,
        symbols=atoms.get_chemical_symbols(),
        positions=atoms.positions.round(3).tolist(),
        cell=atoms.cell.array.round(3).tolist(),
        pbc=atoms.pbc.tolist(),
    )


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found: everything a report shows of it, as JSON (`asdict`).

    `figures` has an entry for each of the check's quantities that applies; `notes` are sentences.
    """

    figures: Mapping[str, Figure]
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    structures: Sequence[Shown] = ()
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Nested lists and mappings, without NaN: what is not finite becomes None."""
        cleaned: dict[str, Any] = _finite(asdict(self))
        return cleaned


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A potential, and the files by role that it is checked on."""

    potential: Potential
    files: Mapping[str, Path]

    def structures(self, role: Role) -> list[Atoms]:
        """The structures of a file that there is."""
        return read_structures(self.files[role])

    def knows(self, atoms: Atoms) -> bool:
        """Whether the potential knows all elements of a structure."""
        return set(self.potential.elements).issuperset(atoms.numbers.tolist())

    def starts(self, replicas: int) -> list[Atoms]:
        """Where dynamics starts: of the reference where there is one, else of the test structures.

        Replica k starts from the middle frame of trajectory k; they repeat where there are fewer.
        """
        frames = by_trajectory(self.structures("reference" if "reference" in self.files else "test"))
        return [(run := frames[k % len(frames)])[len(run) // 2] for k in range(replicas)]

    @cached_property
    def fast(self) -> Potential:
        """The potential for many calls on small systems."""
        return traced(self.potential)


def by_trajectory(frames: Sequence[Atoms]) -> list[list[Atoms]]:
    """Frames grouped by the info key `trajectory`, in order of appearance; without it each is its own."""
    groups: dict[str, list[Atoms]] = {}
    for index, frame in enumerate(frames):
        groups.setdefault(str(frame.info.get("trajectory", index)), []).append(frame)
    return list(groups.values())


class Check(BaseModel, ABC):
    """One measurement of an acceptance: a small frozen value, and the method that measures.

    Class attributes: `title` and `explanation` head its part of a report (the explanation is one or two
    sentences for somebody who does not know the check); `needs` are the files without which it cannot be
    done, `uses` those that it looks at where they are there; `quantities` are its figures by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: ClassVar[str]
    explanation: ClassVar[str]
    needs: ClassVar[tuple[Role, ...]] = ()
    uses: ClassVar[tuple[Role, ...]] = ()
    quantities: ClassVar[Mapping[str, Quantity]]

    version: ClassVar[int] = 1
    """Counts the changes of what is measured."""
    repeatable: ClassVar[bool] = True
    """Whether the same inputs give the same figures; a time does not."""

    kind: str

    def seeded(self, seed: int) -> Self:
        """The same check with another seed, where it draws anything."""
        return self.model_copy(update={"seed": seed}) if "seed" in type(self).model_fields else self

    def unmeasured(self, *notes: str) -> Finding:
        """The finding where nothing could be measured, and why."""
        return Finding(figures={name: Figure(value=None) for name in self.quantities}, notes=list(notes))

    @abstractmethod
    def measure(self, subject: Subject) -> Finding:
        """Measure; what goes wrong with the potential is a finding, never an exception."""


def bootstrap(samples: Mapping[str, tuple[float, float]]) -> tuple[float, float] | None:
    """95 % interval of Σ sums / Σ weights, resampling the samples; None where there are fewer than two."""
    if len(samples) < 2:
        return None
    values = np.array([samples[name] for name in sorted(samples)])
    sums, weights = _resampled(values).sum(axis=1).T
    low, high = np.percentile(sums / weights, COVERAGE)
    return float(low), float(high)


def figure(samples: Mapping[str, tuple[float, float]]) -> Figure:
    """The figure of samples: Σ sums / Σ weights, with its interval; None where there are no samples."""
    if not samples:
        return Figure(value=None)
    total, weight = (sum(part) for part in zip(*samples.values(), strict=True))
    return Figure(value=total / weight, interval=bootstrap(samples), samples=samples)


def compare_in_pairs(
    model: Mapping[str, tuple[float, float]], other: Mapping[str, tuple[float, float]], *, difference: bool
) -> tuple[float, tuple[float, float] | None]:
    """Σ sums / Σ weights of a model over that of another (or minus it), on the samples of both.

    With its 95 % interval, None where they share one sample only: every resample takes the same samples of
    both, so that what is hard for both cancels. Raises ValueError where they share none.
    """
    common = sorted(model.keys() & other.keys())
    if not common:
        raise ValueError("the two were measured on different samples")
    values = np.array([[*model[name], *other[name]] for name in common])

    def compared(total: np.ndarray) -> np.ndarray:
        ours, theirs = total[..., 0] / total[..., 1], total[..., 2] / total[..., 3]
        result: np.ndarray = ours - theirs if difference else ours / theirs
        return result

    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(compared(values.sum(axis=0)))
        if len(common) < 2:
            return value, None
        low, high = np.percentile(compared(_resampled(values).sum(axis=1)), COVERAGE)
    return value, (float(low), float(high))


def _resampled(values: np.ndarray) -> np.ndarray:
    """Samples (n, k) drawn with replacement (resamples, n, k), always in the same way."""
    generator = np.random.default_rng(0)
    return values[generator.integers(len(values), size=(RESAMPLES, len(values)))]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
