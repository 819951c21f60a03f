"""Crystals: equation of state, elastic constants and phonons against what the reference says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from ase import Atoms
from pydantic import Field

from models import lattice
from models.dynamics.relax import relax
from models.graphs import graphs, predict
from models.lattice import EquationOfState, Phonons
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
    Subject,
    Table,
    figure,
)
from models.validation.consistency import in_float64
from models.validation.known_crystals import KnownCrystal, known_crystals

OWN_VOLUMES = tuple(np.linspace(0.94, 1.06, 9))  # where the reference has one frame only
IMAGINARY = 0.1  # THz; what lies above -0.1 is the noise of three acoustic branches
MOST_PLOTS = 8


class Crystals(Check):
    """Equations of state, and about the potential's own minimum elastic constants and phonons.

    Frames of one `info["crystal"]` are one crystal. Five or more, with `REF_energy` and at several volumes,
    give the reference's equation of state, and the potential's is taken on the same structures. A single
    frame is the reference's minimum; the potential relaxes it, and its energies are those at 0.94 to 1.06
    of the volume that it comes to, with the atoms relaxed. What else is known stands in the info of any of
    the frames: `REF_bulk_modulus` (GPa, of a single frame), `REF_elastic` (6×6, Voigt order, GPa) and
    `REF_highest_frequency` (THz).
    """

    title: ClassVar[str] = "Crystals"
    explanation: ClassVar[str] = (
        "Volume and stiffness of crystals against the reference, and whether they are stable under strains "
        "and small displacements. The bulk modulus from stresses must be the one from energies."
    )
    needs: ClassVar[tuple[Role, ...]] = ("crystals",)
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "volume": Quantity(words="error of the equilibrium volume", unit="%", better="lower", paired=True),
        "bulk_modulus": Quantity(words="error of the bulk modulus", unit="%", better="lower", paired=True),
        "elastic": Quantity(words="error of the elastic tensor", unit="%", better="lower", paired=True),
        "frequency": Quantity(
            words="error of the highest phonon frequency", unit="%", better="lower", paired=True
        ),
        "mismatch": Quantity(
            words="largest difference of bulk moduli from stresses and from energies",
            unit="%",
            better="lower",
        ),
        "unstable": Quantity(words="crystals that a strain makes lower in energy", unit="", better="lower"),
        "imaginary": Quantity(words="largest imaginary phonon frequency", unit="THz", better="lower"),
    }

    kind: Literal["crystals"] = "crystals"
    elastic: bool = Field(True, description="elastic constants")
    phonons: bool = True
    most_atoms: int = Field(
        32, ge=1, description="in a unit cell; elastic constants and phonons of larger ones are left out"
    )
    supercell: float = Field(8.0, gt=0, description="least edge of the supercell of phonons, Å")
    fmax: float = Field(0.005, gt=0, description="eV/Å, to which atoms and cells are relaxed")
    steps: int = Field(200, ge=1, description="most steps of a relaxation")

    def measure(self, subject: Subject) -> Finding:
        """Measure in float64. Raises DataError where the file lacks a name, a cell or an energy."""
        references = known_crystals(subject.files["crystals"], subject.structures("crystals"))
        known = [r for r in references if subject.knows(r.minimum)]
        notes = [
            f"{r.name} left out: it does not know all its elements." for r in references if r not in known
        ]
        if not known:
            return self.unmeasured(*notes)
        potential = in_float64(subject.potential)
        measured = [self._measured(potential, reference) for reference in known]
        return Finding(
            figures=_figures(measured),
            plots=[plot for crystal in measured[:MOST_PLOTS] for plot in crystal.plots()],
            tables=[
                Table(
                    title="Crystals",
                    columns=_COLUMNS,
                    rows=[crystal.row() for crystal in measured],
                )
            ],
            notes=[*notes, *(note for crystal in measured for note in crystal.notes)],
        )

    def _measured(self, potential: Potential, reference: KnownCrystal) -> "_Measured":
        frames, minimum, notes = reference.frames, reference.minimum, []
        alone, small = len(frames) == 1, len(minimum) <= self.most_atoms
        asked = small and (self.elastic or self.phonons)
        stable = True
        if alone or asked:
            (own,) = relax(potential, [minimum], fmax=self.fmax, steps=self.steps, pressure=0.0)
            minimum, stable = own.atoms, own.failure is None
            if not stable:
                notes.append(f"not relaxed, {own.failure}")
            elif not own.converged:
                notes.append(f"forces of {own.force:.3f} eV/Å are left after {own.steps} steps")
        if alone:
            scaled = [_scaled(minimum, volume) for volume in OWN_VOLUMES]
            frames = [found.atoms for found in relax(potential, scaled, fmax=self.fmax, steps=self.steps)]
        volumes = [atoms.get_volume() for atoms in frames]
        energies = [p.energy for p in predict(potential, graphs(frames, potential))]
        state = lattice.equation_of_state(volumes, energies)
        if state is None:
            notes.append(f"the energy has no minimum from {volumes[0]:.1f} to {volumes[-1]:.1f} Å³")
        tensor, waves = None, None
        if asked and self.elastic:
            tensor = np.full((6, 6), np.nan)
            if stable:
                tensor = lattice.elastic_constants(potential, minimum, fmax=self.fmax, steps=self.steps)
        if asked and self.phonons and stable:
            waves = lattice.phonons(potential, minimum, self.supercell)
        if not small and (self.elastic or self.phonons):
            notes.append(f"too large for elastic constants and phonons ({len(minimum)} atoms)")
        return _Measured(
            reference=reference,
            volumes=volumes,
            energies=energies,
            state=state,
            moduli=lattice.bulk_moduli(potential, reference.minimum),
            elastic=tensor,
            phonons=waves,
            phonons_asked=asked and self.phonons,
            notes=[f"{reference.name}: {note}." for note in notes],
        )


_COLUMNS = (
    "crystal",
    "volume, Å³/atom",
    "reference",
    "bulk modulus, GPa",
    "reference",
    "least stiffness, GPa",
    "lowest frequency, THz",
    "highest, THz",
    "reference",
)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What was found of one crystal."""

    reference: KnownCrystal
    volumes: Sequence[float]
    energies: Sequence[float]
    state: EquationOfState | None
    moduli: tuple[float, float]
    elastic: np.ndarray | None
    phonons: Phonons | None
    phonons_asked: bool
    notes: Sequence[str]

    @property
    def stiffness(self) -> float:
        """The least eigenvalue of the elastic tensor, GPa: below zero some strain lowers the energy."""
        if self.elastic is None or not np.isfinite(self.elastic).all():
            return np.nan
        return float(np.linalg.eigvalsh(0.5 * (self.elastic + self.elastic.T))[0])

    def errors(self) -> dict[str, float]:
        """The figures that apply to this crystal; NaN where one could not be measured."""
        known, state, waves = self.reference, self.state, self.phonons
        found = {
            "volume": _percent(state.volume if state else None, known.volume),
            "mismatch": _mismatch(*self.moduli),
        }
        if known.bulk_modulus is not None:
            found["bulk_modulus"] = _percent(state.bulk_modulus if state else None, known.bulk_modulus)
        if self.elastic is not None:
            found["unstable"] = 0.0 if self.stiffness > 0.0 else 1.0
            if known.elastic is not None:
                difference = np.linalg.norm(self.elastic - known.elastic)
                found["elastic"] = float(100.0 * difference / np.linalg.norm(known.elastic))
        if self.phonons_asked:
            lowest = waves.lowest if waves else np.nan
            found["imaginary"] = 0.0 if lowest >= -IMAGINARY else -lowest
            if known.highest is not None:
                found["frequency"] = _percent(waves.highest if waves else None, known.highest)
        return found

    def row(self) -> tuple[str | Number, ...]:
        n, state, waves = len(self.reference.minimum), self.state, self.phonons
        return (
            self.reference.name,
            state.volume / n if state else None,
            self.reference.volume / n,
            state.bulk_modulus if state else None,
            self.reference.bulk_modulus,
            self.stiffness if np.isfinite(self.stiffness) else None,
            waves.lowest if waves else None,
            waves.highest if waves else None,
            self.reference.highest,
        )

    def plots(self) -> list[Plot]:
        lines = [_curve(self.volumes, self.energies, len(self.reference.minimum))]
        if len(self.reference.frames) > 1:
            labels = [atoms.info["REF_energy"] for atoms in self.reference.frames]
            lines.append(_curve(self.volumes, labels, len(self.reference.minimum), "reference"))
        found = [
            Plot(
                title=f"{self.reference.name}: equation of state",
                x_label="volume, Å³/atom",
                y_label="energy above the lowest, meV/atom",
                lines=lines,
            )
        ]
        if self.phonons is not None:
            found.append(
                Plot(
                    title=f"{self.reference.name}: phonons",
                    x_label="frequency, THz",
                    y_label="density of states, 1/THz",
                    lines=[Line(x=self.phonons.points.tolist(), y=self.phonons.density.tolist())],
                )
            )
        return found


def _scaled(atoms: Atoms, volume: float) -> Atoms:
    scaled = atoms.copy()
    scaled.set_cell(volume ** (1.0 / 3.0) * atoms.cell.array, scale_atoms=True)
    return scaled


def _percent(value: Number, reference: float) -> float:
    return np.nan if value is None else 100.0 * abs(value - reference) / abs(reference)


def _mismatch(by_energy: float, by_stress: float) -> float:
    scale = max(abs(by_energy), abs(by_stress))
    return 100.0 * abs(by_stress - by_energy) / scale if scale != 0.0 else 0.0


def _curve(volumes: Sequence[float], energies: Sequence[float], n_atoms: int, name: str = "") -> Line:
    above = np.array(energies) - np.nanmin(energies) if np.isfinite(energies).any() else np.array(energies)
    return Line(
        x=(np.array(volumes) / n_atoms).tolist(),
        y=[1e3 * float(e) / n_atoms if np.isfinite(e) else None for e in above],
        name=name,
    )


def _figures(measured: Sequence[_Measured]) -> dict[str, Figure]:
    """Means over the crystals where they are paired, else the sum of the unstable or the largest."""
    errors = {crystal.reference.name: crystal.errors() for crystal in measured}
    figures = {}
    for name, quantity in Crystals.quantities.items():
        found = {crystal: values[name] for crystal, values in errors.items() if name in values}
        if not found:
            continue
        numbers = np.array(list(found.values()))
        if not np.isfinite(numbers).all():
            figures[name] = Figure(value=None)
        elif quantity.paired:
            figures[name] = figure({crystal: (value, 1.0) for crystal, value in found.items()})
        else:
            figures[name] = Figure(value=float(numbers.sum() if name == "unstable" else numbers.max()))
    return figures
