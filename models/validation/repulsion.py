"""The short-range wall: every pair of elements alone, and whole structures under compression."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from pydantic import Field

from models.graphs import graphs, predict
from models.potentials import Potential
from models.validation.base import (
    Check,
    Figure,
    Finding,
    Line,
    Number,
    Plot,
    Quantity,
    Role,
    Shown,
    Subject,
    Table,
    figure,
    shown,
)
from models.validation.consistency import drawn

# In sums of two covalent radii.
INNER = 0.5  # closer, dynamics and structure search stop with a failure
BOND = 0.75  # no bond is shorter: N2, C2H2 and CO have 0.77 to 0.79
POINTS = 80  # between there and the cutoff

SCALE_STEP = 0.025
STEADY = 0.9  # above, a structure of hot dynamics may still have stretched bonds
CLIPPED = 25.0  # eV, in a plot
MOST_PLOTS, MOST_SHOWN = 10, 3


class Repulsion(Check):
    """Energy curves of all pairs of elements, and of test structures that are scaled down."""

    title: ClassVar[str] = "Repulsion"
    explanation: ClassVar[str] = (
        "Two atoms that are pushed together must meet a wall, and a structure that is compressed must cost "
        "more and more energy. Where the energy falls again there is a hole that dynamics may fall into."
    )
    needs: ClassVar[tuple[Role, ...]] = ("test",)
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "pairs": Quantity(
            words="pairs of elements that, pushed together, fall below the energy of any bond",
            unit="%",
            better="lower",
            paired=True,
        ),
        "wall": Quantity(
            words="lowest energy that pushes two atoms to half the sum of their covalent radii",
            unit="eV",
            better="higher",
        ),
        "compression": Quantity(
            words="structures whose energy does not rise steadily under compression",
            unit="%",
            better="lower",
            paired=True,
        ),
    }

    kind: Literal["repulsion"] = "repulsion"
    n_structures: int = Field(12, ge=1, description="drawn from the test structures")
    smallest: float = Field(
        0.6, gt=0, lt=STEADY, description="to which a structure is scaled, of its lengths"
    )
    seed: int = 0

    def measure(self, subject: Subject) -> Finding:
        """Measure pairs alone and structures. Raises DataError where the file has no structure.

        A pair has a hole where its energy between 0.5 and 0.75 of the sum of the covalent radii, closer
        than any bond, falls below the lowest outside. Its wall is the highest energy on the way in from
        that lowest one, above it and no further than to the hole. A pair whose energy is not finite has a
        hole and no wall.
        """
        structures, notes = drawn(subject, self.n_structures, self.seed)
        if not structures:
            return self.unmeasured(*notes)
        present = {int(z) for atoms in structures.values() for z in atoms.numbers}
        pairs = [_pair(subject.potential, a, b) for a, b in combinations_with_replacement(sorted(present), 2)]
        compressions = _compressions(subject.potential, structures, self.smallest)
        holes = {pair.name: (100.0 * pair.hole, 1.0) for pair in pairs}
        falls = {name: (100.0 * (c.falls_at is not None), 1.0) for name, c in compressions.items()}
        weakest = sorted(pairs, key=lambda pair: pair.wall)
        return Finding(
            figures={
                "pairs": figure(holes),
                "wall": Figure(value=weakest[0].wall),
                "compression": figure(falls),
            },
            plots=[*(pair.plot() for pair in weakest[:MOST_PLOTS]), _mean_curve(compressions)],
            tables=[
                Table(
                    title="Pairs alone, the weakest wall first",
                    columns=("pair", "lowest, eV", "wall, eV", "hole, eV", "at, Å"),
                    rows=[pair.row() for pair in weakest],
                )
            ],
            structures=_worst(structures, compressions),
            notes=notes,
        )


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Energies (n,) eV of two atoms at distances (n,) Å, inwards, above those of two lone atoms."""

    name: str
    radii: float
    distances: np.ndarray
    energies: np.ndarray

    @property
    def _inside(self) -> np.ndarray:
        return self.distances < BOND * self.radii

    @property
    def lowest(self) -> float:
        """The lowest energy at the distances of bonds and beyond, eV."""
        return float(self.energies[~self._inside].min())

    @property
    def deepest(self) -> int:
        """Where it is deepest, closer than bonds."""
        return int(np.where(self._inside, self.energies, np.inf).argmin())

    @property
    def hole(self) -> bool:
        """Whether it is deeper closer than bonds; NaN is."""
        return not (np.isfinite(self.energies).all() and self.energies[self.deepest] >= self.lowest)

    @property
    def wall(self) -> float:
        """Highest energy on the way in, above the lowest outside, up to a hole, eV; 0 if not finite."""
        if not np.isfinite(self.energies).all():
            return 0.0
        start = np.where(self._inside, np.inf, self.energies).argmin()
        above = self.energies[start:] - self.energies[start]
        return float(above[: np.argmax(above < 0.0) if self.hole else None].max())

    def row(self) -> tuple[str | Number, ...]:
        hole = (self.energies[self.deepest], self.distances[self.deepest]) if self.hole else (None, None)
        return self.name, self.lowest, self.wall, *(None if n is None else float(n) for n in hole)

    def plot(self) -> Plot:
        shows = np.abs(self.energies) <= CLIPPED
        return Plot(
            title=f"{self.name} alone",
            x_label="distance, Å",
            y_label="energy, eV",
            lines=[
                Line(
                    x=self.distances.tolist(),
                    y=[float(e) if s else None for e, s in zip(self.energies, shows, strict=True)],
                )
            ],
        )


@dataclass(frozen=True, kw_only=True)
class _Compression:
    """Energies (n,) eV/atom above the first at decreasing scales (n,)."""

    scales: np.ndarray
    energies: np.ndarray

    @property
    def falls_at(self) -> int | None:
        """Where the energy first does not rise any more; None where it always does."""
        rises = np.diff(self.energies) > 0.0  # NaN does not
        falls = np.flatnonzero(~rises & (self.scales[1:] < STEADY))
        return int(falls[0]) + 1 if len(falls) else None


def _pair(potential: Potential, first: int, second: int) -> _Pair:
    radii = float(covalent_radii[first] + covalent_radii[second])
    distances = np.geomspace(potential.cutoff, INNER * radii, POINTS)
    structures = [Atoms(numbers=[first, second], positions=[(0, 0, 0), (r, 0, 0)]) for r in distances]
    alone = [Atoms(numbers=[z]) for z in (first, second)]
    energies = np.array([p.energy for p in predict(potential, graphs([*alone, *structures], potential))])
    return _Pair(
        name="-".join(chemical_symbols[z] for z in (first, second)),
        radii=radii,
        distances=distances,
        energies=energies[2:] - energies[:2].sum(),
    )


def _compressions(
    potential: Potential, structures: Mapping[str, Atoms], smallest: float
) -> dict[str, _Compression]:
    scales = np.append(np.arange(1.0, smallest + 0.5 * SCALE_STEP, -SCALE_STEP), smallest)
    scaled = [_scaled(atoms, scale) for atoms in structures.values() for scale in scales]
    energies = np.array([p.energy for p in predict(potential, graphs(scaled, potential))])
    found = {}
    for (name, atoms), own in zip(structures.items(), energies.reshape(-1, len(scales)), strict=True):
        found[name] = _Compression(scales=scales, energies=(own - own[0]) / len(atoms))
    return found


def _scaled(atoms: Atoms, scale: float) -> Atoms:
    return Atoms(atoms.numbers, scale * atoms.positions, cell=scale * atoms.cell.array, pbc=atoms.pbc)


def _mean_curve(compressions: Mapping[str, _Compression]) -> Plot:
    curves = np.array([c.energies for c in compressions.values()])
    (scales, *_) = (c.scales for c in compressions.values())
    mean, deviation = curves.mean(axis=0), curves.std(axis=0)
    return Plot(
        title="Compression",
        x_label="scale",
        y_label="mean energy, eV/atom",
        lines=[
            Line(
                x=scales.tolist(),
                y=[float(e) if np.isfinite(e) else None for e in mean],
                error=(np.nan_to_num(deviation) / np.sqrt(len(curves))).tolist(),
            )
        ],
    )


def _worst(structures: Mapping[str, Atoms], compressions: Mapping[str, _Compression]) -> Sequence[Shown]:
    """The structures whose energy falls first."""
    falls = [(c.falls_at, name) for name, c in compressions.items() if c.falls_at is not None]
    found = []
    for at, name in sorted(falls)[:MOST_SHOWN]:
        scale = float(compressions[name].scales[at])
        text = f"Compressed to {scale:.3f} of its lengths, its energy does not rise any more."
        found.append(shown(_scaled(structures[name], scale), f"Collapse of {name}", text))
    return found
