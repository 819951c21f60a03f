"""Split conformal calibration: how far an ensemble's spread has to be stretched to bound the errors.

The score of a held-out atom is its force error over the spread of its force. The score of a new atom like
them is at most the ⌈(n + 1) · coverage⌉-th smallest of n scores with a probability of at least `coverage`,
whatever the distribution of errors (split conformal prediction; Vovk et al., Algorithmic Learning in a Random
World, 2005).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from models.datasets import DataError
from models.uncertainty.groups import Groups
from models.validation.base import Line, Plot

_LEAST = 0.01  # of the median spread: members that agree by chance do not make an atom certain
_PER_BIN = 20  # atoms, at least
_BINS = 12


class Calibration(BaseModel):
    """What turns an ensemble's spread into a bound of the error.

    `quantile` is the factor between them and `floor`, eV/Å, the least spread that counts; `typical`, eV/Å,
    is the median over the held-out structures of their largest bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    coverage: float
    quantile: float
    floor: float
    typical: float

    def bounds(self, spread: np.ndarray) -> np.ndarray:
        """Bounds of the force errors, eV/Å, of spreads (N,), eV/Å."""
        return self.quantile * np.maximum(spread, self.floor)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Spreads and lengths of the force errors (N,), eV/Å, of the atoms of every held-out structure."""

    spreads: Sequence[np.ndarray]
    errors: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.spreads)

    def part(self, chosen: np.ndarray) -> "HeldOut":
        """The structures for which `chosen` (n,) is true."""
        numbers = np.flatnonzero(chosen).tolist()
        return HeldOut(spreads=[self.spreads[i] for i in numbers], errors=[self.errors[i] for i in numbers])


def check_enough(n_atoms: int, coverage: float) -> None:
    """Raise DataError where no bound of so many held-out atoms has this coverage."""
    least = math.ceil(coverage / (1.0 - coverage) - 1e-9)
    if n_atoms < least:
        raise DataError(
            f"{n_atoms} held-out atoms with forces are too few for a coverage of {coverage:g}: "
            f"it takes {least}. Hold more labels out, or ask for less coverage"
        )


def calibrate(held_out: HeldOut, coverage: float) -> Calibration:
    """The calibration by held-out atoms; raises DataError where they are too few or members agree."""
    check_enough(sum(map(len, held_out.spreads)), coverage)
    spread, error = np.concatenate(held_out.spreads), np.concatenate(held_out.errors)
    floor = _LEAST * float(np.median(spread))
    if not floor > 0.0:
        raise DataError(
            "the members of the ensemble agree on the forces of most held-out atoms, so their spread says "
            "nothing; they need different seeds, or more training structures"
        )
    rank = math.ceil((len(spread) + 1) * coverage - 1e-9)
    quantile = float(np.sort(error / np.maximum(spread, floor))[rank - 1])
    largest = [quantile * max(float(s.max()), floor) for s in held_out.spreads]
    return Calibration(coverage=coverage, quantile=quantile, floor=floor, typical=float(np.median(largest)))


def examine(calibration: Calibration, held_out: HeldOut, groups: Groups) -> dict[str, Any]:
    """What held-out labels show of a calibration, as JSON.

    `observed`: the share of atoms within bounds that were calibrated on the other half of the `groups`, of
    which the plot is made too. Where a half has too few atoms it is None, and the plot is of the calibration
    on itself. `correlation`: Spearman's, of bounds and errors.
    """
    # Here, since it takes a third of a second that every command would wait for.
    from scipy.stats import spearmanr

    spread, error = np.concatenate(held_out.spreads), np.concatenate(held_out.errors)
    bounds = calibration.bounds(spread)
    crossed = _crossed(held_out, groups, calibration.coverage)
    return {
        "coverage": calibration.coverage,
        "quantile": calibration.quantile,
        "typical": calibration.typical,
        "n_atoms": len(spread),
        "n_structures": len(held_out),
        "grouped_by": groups.by,
        "observed": None if crossed is None else float(np.mean(error <= crossed)),
        "correlation": float(spearmanr(bounds, error).statistic),
        "plot": asdict(_reliability(bounds if crossed is None else crossed, error, calibration.coverage)),
    }


def _crossed(held_out: HeldOut, groups: Groups, coverage: float) -> np.ndarray | None:
    """The bound of every atom, calibrated on the half of the groups that it is not in."""
    sizes = np.bincount(groups.numbers, weights=[len(s) for s in held_out.spreads])
    in_second = np.zeros(len(sizes), dtype=bool)
    filled = [0.0, 0.0]
    for group in np.argsort(-sizes, kind="stable"):  # the largest first, each to the smaller half
        in_second[group] = filled[1] < filled[0]
        filled[int(in_second[group])] += sizes[group]
    of_structure = in_second[groups.numbers]
    try:
        by_half = [calibrate(held_out.part(of_structure != half), coverage) for half in (False, True)]
    except DataError:
        return None
    pairs = zip(of_structure, held_out.spreads, strict=True)
    return np.concatenate([by_half[int(half)].bounds(spreads) for half, spreads in pairs])


def _reliability(bounds: np.ndarray, errors: np.ndarray, coverage: float) -> Plot:
    """Means of bounds in bins of equally many atoms, and the errors' quantiles that they should be."""
    order = np.argsort(bounds, kind="stable")
    bins = np.array_split(order, int(np.clip(len(order) // _PER_BIN, 1, _BINS)))
    return Plot(
        title="Reliability of the uncertainty",
        x_label=f"bound of {coverage:.0%} of the force errors, eV/Å",
        y_label="observed, eV/Å",
        lines=[
            Line(
                x=[float(bounds[b].mean()) for b in bins],
                y=[float(np.quantile(errors[b], coverage)) for b in bins],
            )
        ],
        kind="parity",
    )
