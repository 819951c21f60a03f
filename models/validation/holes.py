"""Holes: unphysical minima of a potential, looked for by random structure search.

The protocol and its four criteria are those of arXiv:2606.12704, appendix A.5; the random cells have no
symmetry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from ase import Atoms
from pydantic import Field, field_validator

from models.dynamics.relax import Relaxed, relax
from models.systems.random_crystals import contact, draw_formulas, random_crystal
from models.validation.base import (
    Check,
    Figure,
    Finding,
    Line,
    Plot,
    Quantity,
    Role,
    Shown,
    Subject,
    Table,
    figure,
    shown,
)

CRITERIA = ("distance", "volume", "energy", "volume and energy", "failed")
SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Group:
    """Where the structures of one composition ended at one pressure, GPa."""

    formula: str
    pressure: float
    ends: Sequence[Relaxed]

    @cached_property
    def contacts(self) -> np.ndarray:
        """Shortest distance of each, over the sum of the two covalent radii."""
        return np.array([contact(end.atoms) for end in self.ends])

    @cached_property
    def volumes(self) -> np.ndarray:
        """Å³ per atom"""
        return np.array([end.atoms.get_volume() / len(end.atoms) for end in self.ends])

    @cached_property
    def energies(self) -> np.ndarray:
        """eV per atom"""
        return np.array([end.energy / len(end.atoms) for end in self.ends])

    @cached_property
    def failed(self) -> np.ndarray:
        """Whether the relaxation of each broke down."""
        return np.array([end.failure is not None for end in self.ends])

    @cached_property
    def overlapping(self) -> np.ndarray:
        """Whether atoms of each lie on top of each other."""
        return self.contacts < 0.5

    @cached_property
    def medians(self) -> tuple[float, float, float]:
        """Median volume and energy, and the median absolute deviation of the energy.

        Of the structures without atoms on top of each other: where most have collapsed, the median of
        all would itself be a hole. NaN where none is left.
        """
        sound = ~(self.failed | self.overlapping)
        if not sound.any():
            return np.nan, np.nan, np.nan
        energies = self.energies[sound]
        energy = float(np.median(energies))
        return float(np.median(self.volumes[sound])), energy, float(np.median(abs(energies - energy)))

    @cached_property
    def met(self) -> np.ndarray:
        """Which of `CRITERIA` each structure meets, (n, 5)."""
        volume, energy, deviation = self.medians
        below = energy - self.energies
        return np.stack(
            [
                self.overlapping,
                self.volumes < 0.3 * volume,
                (below > 10.0 * deviation) & (below > 5.0),
                (self.volumes < 0.5 * volume) & (below > 0.0),
                self.failed,
            ],
            axis=1,
        )

    @cached_property
    def holes(self) -> np.ndarray:
        """Whether each structure is a hole."""
        return np.asarray(self.met.any(axis=1))


class Holes(Check):
    """Random crystals, relaxed and rattled in rounds at a low and a high pressure."""

    title: ClassVar[str] = "Holes"
    explanation: ClassVar[str] = (
        "Random crystals are relaxed and rattled several times. One that ends with atoms on top of each "
        "other, or far denser or deeper than the others of its composition, has found a hole: a minimum "
        "that the potential has and nature has not."
    )
    needs: ClassVar[tuple[Role, ...]] = ("test",)
    quantities: ClassVar[Mapping[str, Quantity]] = {
        f"{name}_pressure": Quantity(
            words=f"random structures that end in a hole at {name} pressure",
            unit="%",
            better="lower",
            paired=True,
        )
        for name in ("low", "high")
    }

    kind: Literal["holes"] = "holes"
    compositions: int | tuple[str, ...] = Field(
        6, description="formulas of the cells, or how many to draw from the elements of the test structures"
    )
    structures: int = Field(10, ge=3, description="of each composition")
    rounds: int = Field(3, ge=1)
    pressures: tuple[float, float] = Field((0.1, 50.0), description="low and high, GPa")
    rattle: float = Field(0.1, gt=0, description="standard deviation of every coordinate, Å")
    fmax: float = Field(0.05, gt=0, description="eV/Å")
    steps: int = Field(40, ge=1, description="most steps of one relaxation")
    seed: int = 0

    @field_validator("compositions")
    @classmethod
    def _readable(cls, compositions: int | tuple[str, ...]) -> int | tuple[str, ...]:
        if not compositions or (isinstance(compositions, int) and compositions < 0):
            raise ValueError("there must be at least one composition")
        for formula in () if isinstance(compositions, int) else compositions:
            try:
                Atoms(formula)
            except Exception:
                raise ValueError(f"{formula!r} is not a chemical formula") from None
        return compositions

    @field_validator("pressures")
    @classmethod
    def _rising(cls, pressures: tuple[float, float]) -> tuple[float, float]:
        if not 0.0 <= pressures[0] < pressures[1]:
            raise ValueError("the low pressure comes first, and neither is negative")
        return pressures

    def measure(self, subject: Subject) -> Finding:
        """Search at both pressures from the same starts.

        Raises ValueError where a given formula has an element that the potential does not know.
        """
        if isinstance(self.compositions, int):
            present = {symbol for atoms in subject.structures("test") for symbol in atoms.symbols}
            elements = [symbol for symbol in subject.potential.symbols if symbol in present]
            formulas = draw_formulas(elements, self.compositions, np.random.default_rng(self.seed))
        else:
            formulas = list(self.compositions)
        searches = [self._search(subject, formulas, pressure) for pressure in self.pressures]
        groups = [group for search in searches for group in search]
        return Finding(
            figures={name: _share(search) for name, search in zip(self.quantities, searches, strict=True)},
            plots=[_plot(search) for search in searches if search],
            tables=[_table(groups)],
            structures=_worst(groups),
            notes=_notes(groups),
        )

    def _search(self, subject: Subject, formulas: Sequence[str], pressure: float) -> list[Group]:
        names = [(formula, k) for formula in formulas for k in range(self.structures)]
        ends: dict[tuple[str, int], Relaxed] = {}
        for turn in range(self.rounds):
            starts = {}
            for formula, k in names:
                # A stream of its own: a structure does not depend on what became of the others.
                generator = np.random.default_rng([self.seed, turn, k, *formula.encode()])
                if turn == 0:
                    starts[formula, k] = random_crystal(formula, generator)
                elif ends[formula, k].failure is None:
                    starts[formula, k] = ends[formula, k].atoms.copy()
                    starts[formula, k].rattle(self.rattle, rng=generator)
            relaxed = relax(
                subject.potential,
                list(starts.values()),
                fmax=self.fmax,
                steps=self.steps,
                pressure=pressure,
            )
            ends |= zip(starts, relaxed, strict=True)
        return [
            Group(
                formula=formula,
                pressure=pressure,
                ends=[ends[formula, k] for k in range(self.structures)],
            )
            for formula in formulas
        ]


def _share(groups: Sequence[Group]) -> Figure:
    samples = {
        f"{group.formula}/{k}": (100.0 * hole, 1.0)
        for group in groups
        for k, hole in enumerate(group.holes.tolist())
    }
    return figure(samples)


def _plot(groups: Sequence[Group]) -> Plot:
    x = np.concatenate([group.volumes / group.medians[0] for group in groups])
    y = np.concatenate([group.energies - group.medians[1] for group in groups])
    holes = np.concatenate([group.holes for group in groups])
    drawn = np.isfinite(x) & np.isfinite(y)
    return Plot(
        title=f"Random structures at {groups[0].pressure:g} GPa",
        x_label="volume over the composition's median",
        y_label="energy above the composition's median, eV/atom",
        lines=[
            Line(x=x[drawn & chosen].tolist(), y=y[drawn & chosen].tolist(), name=name)
            for name, chosen in (("", ~holes), ("holes", holes))
        ],
        kind="points",
    )


def _table(groups: Sequence[Group]) -> Table:
    return Table(
        title="Random structures and the holes among them, by criterion",
        columns=(
            *("composition", "pressure, GPa", "structures", "holes", *CRITERIA),
            *("median volume, Å³/atom", "median energy, eV/atom"),
        ),
        rows=[
            (
                *(group.formula, group.pressure, len(group.ends), int(group.holes.sum())),
                *group.met.sum(axis=0).tolist(),
                *(round(median, 3) if np.isfinite(median) else None for median in group.medians[:2]),
            )
            for group in groups
        ],
    )


def _worst(groups: Sequence[Group]) -> list[Shown]:
    """Holes, and why they are holes: of every group the one with the closest atoms, then the second."""
    holes = []
    for group in groups:
        found = sorted(np.flatnonzero(group.holes).tolist(), key=group.contacts.tolist().__getitem__)
        holes += [(rank, group.contacts[k], group, k) for rank, k in enumerate(found)]
    return [
        shown(group.ends[k].atoms, f"{group.formula}/{k} at {group.pressure:g} GPa", _reasons(group, k))
        for _, _, group, k in sorted(holes, key=lambda hole: hole[:2])[:SHOWN]
    ]


def _reasons(group: Group, k: int) -> str:
    volume, energy, _ = group.medians
    met = ", ".join(name for name, met in zip(CRITERIA, group.met[k], strict=True) if met)
    numbers = [f"{group.volumes[k]:.1f} Å³ per atom"]
    if np.isfinite(group.contacts[k]):
        numbers.append(f"closest atoms at {group.contacts[k]:.2f} of their covalent radii")
    if np.isfinite(volume):
        numbers.append(f"median volume {volume:.1f} Å³")
        numbers.append(f"{group.energies[k] - energy:+.2f} eV per atom against the median")
    return f"{met}: {'; '.join([*numbers, *filter(None, [group.ends[k].failure])])}."


def _notes(groups: Sequence[Group]) -> list[str]:
    if not groups:
        return ["The model knows none of the elements of the test structures."]
    ends = [end for group in groups for end in group.ends]
    converged = sum(end.converged for end in ends)
    lost = [f"{g.formula} at {g.pressure:g} GPa" for g in groups if np.isnan(g.medians[0])]
    return [
        f"{converged} of {len(ends)} last relaxations converged; the others used all their steps or failed.",
        *([f"Every structure is a hole: {', '.join(lost)}."] if lost else []),
    ]
