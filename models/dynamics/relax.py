"""Relaxation of many structures at once, with one batched evaluation per step.

FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006) with the correction of Guénolé et al. (Comput.
Mater. Sci. 175, 109584, 2020): a step uphill is half taken back. A cell moves by a strain of what it is
at present, which leads to the minimum of ASE's `FrechetCellFilter` without a matrix logarithm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units

from models import graphs
from models.graphs import Prediction
from models.potentials import Potential
from models.systems.random_crystals import room

LONGEST_STEP = 0.2  # Å
COLLAPSED = 0.1  # of the first volume or of a solid's; 50 GPa leave a fifth even of caesium, the softest

# The algorithm's own constants, in units where every mass is one.
_TIME_STEP, _LONGEST_TIME_STEP, _SHORTEST_TIME_STEP = 0.1, 1.0, 0.002
_FASTER, _SLOWER, _PATIENCE = 1.1, 0.5, 5
_MIXING, _LESS_MIXING = 0.1, 0.99


@dataclass(frozen=True, kw_only=True)
class Relaxed:
    """Where a structure ended.

    Attributes:
        atoms: the last geometry and cell at which the potential had finite values, not wrapped; no info, and
            of arrays the moments, which stay as they were.
        energy: of it, eV; NaN where the potential has no value at the start.
        force: length of the largest force left, eV/Å.
        stress: largest component left of the stress plus the pressure, GPa; None where the cell is fixed.
        steps: moves made.
        converged: whether what is left is within `fmax`.
        failure: why it stopped before, where the potential failed.
    """

    atoms: Atoms
    energy: float
    force: float
    stress: float | None
    steps: int
    converged: bool
    failure: str | None


def relax(
    potential: Potential,
    structures: Sequence[Atoms],
    *,
    fmax: float,
    steps: int,
    pressure: float | None = None,
    head: str | None = None,
) -> list[Relaxed]:
    """Relax every structure until its largest force is below `fmax` (eV/Å), with at most `steps` moves.

    With a `pressure` (GPa) the cells relax too, to the least enthalpy; their forces are -V (σ + p) / N,
    as in ASE's filters. Steps are at most 0.2 Å long, so that a bad potential shows where it goes wrong. A
    structure whose energy, forces or stress are not finite, or whose cell shrinks to a tenth of what it was
    or of what its atoms take in a solid, has failed; the others go on. (The denser it is, the more neighbours
    it has: a collapse without end would take without end.) Each is relaxed as it would be alone, but for
    rounding.

    Raises ValueError on an unknown element, on steps below one, and with a pressure on a structure that
    is not periodic in all directions.
    """
    if steps < 1:
        raise ValueError(f"steps ({steps}) must be at least 1")
    if pressure is not None and not all(atoms.pbc.all() for atoms in structures):
        raise ValueError("a pressure is for structures that are periodic in all directions")
    searches = [_Search(atoms, pressure) for atoms in structures]
    running = searches
    for step in range(steps + 1):
        items = graphs.graphs([search.atoms for search in running], potential, head)
        for search, prediction in zip(
            running, graphs.predict(potential, items, stress=pressure is not None), strict=True
        ):
            search.take(prediction)
        running = [s for s in running if s.failure is None and s.largest > fmax]
        if step == steps:
            break
        for search in running:
            search.move()
        running = [s for s in running if s.failure is None]
        if not running:
            break
    return [search.relaxed(fmax) for search in searches]


class _Search:
    """One structure on its way down: an atom per row, and three rows more where the cell moves."""

    def __init__(self, atoms: Atoms, pressure: float | None) -> None:
        self.atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        _, given = graphs.moments(atoms)
        if given.any():
            self.atoms.set_initial_magnetic_moments(given)
        self._good = self.atoms.copy()
        self._pressure = pressure
        self._least_volume = COLLAPSED * max(abs(np.linalg.det(atoms.cell.array)), room(atoms.numbers))
        self._forces = np.full((len(atoms) + (0 if pressure is None else 3), 3), np.nan)
        self._velocities = np.zeros_like(self._forces)
        self._time_step, self._mixing, self._downhill = _TIME_STEP, _MIXING, 0
        self._energy = np.nan
        self._stress: float | None = None
        self._moves = 0
        self.failure: str | None = None

    @property
    def largest(self) -> float:
        """Length of the longest row of the forces, eV/Å."""
        return float(np.linalg.norm(self._forces, axis=1).max())

    def take(self, prediction: Prediction) -> None:
        """Accept what the potential says of the present geometry."""
        forces, stress = prediction.forces, None
        if self._pressure is not None and prediction.stress is not None:
            left = 0.5 * (prediction.stress + prediction.stress.T) + self._pressure * units.GPa * np.eye(3)
            forces = np.concatenate([forces, -self.atoms.get_volume() * left / len(self.atoms)])
            stress = float(abs(left).max() / units.GPa)
        if not (np.isfinite(prediction.energy) and np.isfinite(forces).all()):
            self.failure = "energy, force or stress is not finite"
            return
        self._energy, self._forces, self._stress = prediction.energy, forces, stress
        self._good = self.atoms.copy()

    def move(self) -> None:
        """One step of FIRE."""
        power = np.vdot(self._forces, self._velocities)
        if power > 0.0:
            self._downhill += 1
            if self._downhill > _PATIENCE:
                self._time_step = min(self._time_step * _FASTER, _LONGEST_TIME_STEP)
                self._mixing *= _LESS_MIXING
        elif power < 0.0:
            self._displace(-0.5 * self._time_step * self._velocities)
            self._velocities[:] = 0.0
            self._time_step = max(self._time_step * _SLOWER, _SHORTEST_TIME_STEP)
            self._downhill, self._mixing = 0, _MIXING
        self._velocities += self._time_step * self._forces
        speed = np.linalg.norm(self._velocities) / np.linalg.norm(self._forces)
        self._velocities += self._mixing * (speed * self._forces - self._velocities)
        longest = self._time_step * np.linalg.norm(self._velocities, axis=1).max()
        self._velocities *= min(1.0, LONGEST_STEP / longest)
        self._displace(self._time_step * self._velocities)
        self._moves += 1
        if self._pressure is not None and self.atoms.get_volume() < self._least_volume:
            self.failure = (
                f"the cell has collapsed to {self.atoms.get_volume() / len(self.atoms):.2g} Å³ per atom"
            )

    def _displace(self, rows: np.ndarray) -> None:
        n = len(self.atoms)
        self.atoms.positions += rows[:n]
        if self._pressure is not None:
            self.atoms.set_cell(self.atoms.cell.array @ (np.eye(3) + rows[n:] / n), scale_atoms=True)

    def relaxed(self, fmax: float) -> Relaxed:
        """What came of it."""
        n = len(self.atoms)
        return Relaxed(
            atoms=self._good,
            energy=self._energy,
            force=float(np.linalg.norm(self._forces[:n], axis=1).max()),
            stress=self._stress,
            steps=self._moves,
            converged=self.failure is None and self.largest <= fmax,
            failure=self.failure,
        )
