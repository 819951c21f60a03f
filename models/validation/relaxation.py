"""Geometry optimisation: where a potential moves the minima of the reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from pydantic import Field

from models.datasets import DataError
from models.dynamics.relax import Relaxed, relax
from models.validation.base import (
    Check,
    Figure,
    Finding,
    Quantity,
    Role,
    Shown,
    Subject,
    Table,
    figure,
    shown,
)


@dataclass(frozen=True, kw_only=True)
class Optimised:
    """A minimum of the reference, and where the potential has taken it."""

    name: str
    start: Atoms
    end: Relaxed

    @property
    def displacement(self) -> float | None:
        """RMS displacement of the atoms, Å; None where the relaxation broke down."""
        return None if self.end.failure else displacement(self.start, self.end.atoms)

    @property
    def volume_change(self) -> float | None:
        """%; None where the cell was fixed."""
        if self.end.stress is None:
            return None
        return 100.0 * (self.end.atoms.get_volume() / self.start.get_volume() - 1.0)

    @property
    def outcome(self) -> str:
        """In words."""
        return self.end.failure or ("converged" if self.end.converged else "not converged")


class Relaxation(Check):
    """Relax minima of the reference with the potential, each from where the reference has it."""

    title: ClassVar[str] = "Geometry optimisation"
    explanation: ClassVar[str] = (
        "Structures that are at rest at the reference's level are relaxed with the model. A good model "
        "leaves them where they are, and ranks the minima of one composition as the reference does."
    )
    needs: ClassVar[tuple[Role, ...]] = ("minima",)
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "displacement": Quantity(
            words="RMS displacement of the atoms from the reference's minimum",
            unit="Å",
            better="lower",
            paired=True,
        ),
        "failures": Quantity(
            words="structures that do not come to rest", unit="%", better="lower", paired=True
        ),
        "steps": Quantity(words="mean number of steps of those that do", unit="", better="lower"),
        "relative_energy": Quantity(
            words="error of the energies of minima relative to others of their composition",
            unit="meV/atom",
            better="lower",
            paired=True,
        ),
    }

    kind: Literal["relaxation"] = "relaxation"
    cell: bool = Field(False, description="whether the cells of crystals relax too, at no pressure")
    fmax: float = Field(0.02, gt=0, description="eV/Å")
    steps: int = Field(300, ge=1, description="a structure that needs more does not come to rest")

    def measure(self, subject: Subject) -> Finding:
        """Relax all at once; `relative_energy` is there where a composition has several minima.

        Raises DataError on a minimum without a finite `REF_energy`, or with the name of another.
        """
        minima = _named(subject)
        known = {name: atoms for name, atoms in minima.items() if subject.knows(atoms)}
        found = self._relaxed(subject, known)
        rows = {o.name: o.displacement for o in found}
        moved = {name: (value, 1.0) for name, value in rows.items() if value is not None}
        failures = {o.name: (0.0 if o.end.converged else 100.0, 1.0) for o in found}
        converged = [o.end.steps for o in found if o.end.converged]
        figures = {
            "displacement": figure(moved),
            "failures": figure(failures),
            "steps": Figure(value=float(np.mean(converged)) if converged else None),
        }
        relative = relative_errors([o for o in found if o.end.failure is None])
        if relative:
            # Errors within a composition add up to zero: only compositions are independent.
            sums: dict[str, tuple[float, float]] = {}
            for name, error in relative.items():
                formula = known[name].get_chemical_formula()
                total, weight = sums.get(formula, (0.0, 0.0))
                sums[formula] = (total + abs(error), weight + 1.0)
            figures["relative_energy"] = figure(sums)
        return Finding(
            figures=figures,
            tables=[_table(found, relative)],
            structures=_worst(found),
            notes=_notes(len(minima) - len(known), found),
        )

    def _relaxed(self, subject: Subject, minima: Mapping[str, Atoms]) -> list[Optimised]:
        found: dict[str, Relaxed] = {}
        for moves, pressure in ((False, None), (True, 0.0)):
            chosen = {n: atoms for n, atoms in minima.items() if (self.cell and atoms.pbc.all()) == moves}
            ends = relax(
                subject.potential, list(chosen.values()), fmax=self.fmax, steps=self.steps, pressure=pressure
            )
            found |= zip(chosen, ends, strict=True)
        return [Optimised(name=name, start=atoms, end=found[name]) for name, atoms in minima.items()]


def displacement(start: Atoms, end: Atoms) -> float:
    """RMS displacement of the atoms, Å, after the best translation and, of a molecule, rotation.

    That of a crystal is by fractional coordinates: a change of its cell alone is none.
    """
    moved = end.copy()
    if start.pbc.all():
        moved.set_cell(start.cell, scale_atoms=True)
    if start.pbc.any():
        moved.positions -= (moved.positions - start.positions).mean(axis=0)
    else:
        minimize_rotation_and_translation(start, moved)
    return float(np.sqrt(((moved.positions - start.positions) ** 2).sum(axis=1).mean()))


def relative_errors(found: Sequence[Optimised]) -> dict[str, float]:
    """Errors (meV/atom) of energies less the mean of their composition, where that has several minima."""
    groups: dict[str, list[Optimised]] = {}
    for o in found:
        groups.setdefault(o.start.get_chemical_formula(), []).append(o)
    errors: dict[str, float] = {}
    for group in groups.values():
        if len(group) > 1:
            off = np.array([(o.end.energy - o.start.info["REF_energy"]) / len(o.start) for o in group])
            errors |= zip([o.name for o in group], (1e3 * (off - off.mean())).tolist(), strict=True)
    return errors


def _named(subject: Subject) -> dict[str, Atoms]:
    minima: dict[str, Atoms] = {}
    for index, atoms in enumerate(subject.structures("minima")):
        where = f"{subject.files['minima']}, frame {index}"
        name = str(atoms.info.get("name", f"{atoms.get_chemical_formula()}/{index}"))
        if not np.isfinite(atoms.info.get("REF_energy", np.nan)):
            raise DataError(f"{where} ({name}): REF_energy is missing or not finite")
        if name in minima:
            raise DataError(f"{where}: another minimum has the name {name!r}")
        minima[name] = atoms
    return minima


def _table(found: Sequence[Optimised], relative: Mapping[str, float]) -> Table:
    rows = []
    for o in found:
        numbers = (o.displacement, o.volume_change, relative.get(o.name), o.end.force)
        rounded = [None if number is None else round(number, 4) for number in numbers]
        rows.append((o.name, len(o.start), *rounded, o.end.steps, o.outcome))
    return Table(
        title="Minima of the reference, relaxed with the model",
        columns=(
            *("structure", "atoms", "displacement, Å", "volume, %", "relative energy, meV/atom"),
            *("largest force left, eV/Å", "steps", "outcome"),
        ),
        rows=rows,
    )


def _worst(found: Sequence[Optimised]) -> list[Shown]:
    """The one that broke down, or else that moved furthest."""
    if not found:
        return []
    worst = max(found, key=lambda o: np.inf if o.displacement is None else o.displacement)
    moved = "" if worst.displacement is None else f", {worst.displacement:.3f} Å from the reference's minimum"
    return [shown(worst.end.atoms, worst.name, f"{worst.outcome} after {worst.end.steps} steps{moved}.")]


def _notes(unknown: int, found: Sequence[Optimised]) -> list[str]:
    broken = sum(o.end.failure is not None for o in found)
    notes = [
        (unknown, "have elements that the model does not know and are left out."),
        (broken, "broke down; they count as failures and have no displacement."),
        (
            len(found) if not any(o.end.converged for o in found) else 0,
            "do not come to rest: no mean of steps.",
        ),
    ]
    return [f"{number} of the structures {what}" for number, what in notes if number]
