"""Thermal displacements along the normal modes of molecules and clusters."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from ase import Atoms, units
from pydantic import Field

from models.distillation.hessians import hessian
from models.dynamics.relax import relax
from models.exploration.base import Explorer, Scene, alike
from models.potentials import Potential

FMAX = 0.01  # eV/Å
_WAVENUMBER = units._hbar * units.J * units.s / units.invcm  # cm⁻¹, of a frequency in ASE's units


class NormalModes(Explorer):
    """Relaxed starts, displaced along their modes as at a temperature in the harmonic approximation.

    Classical: every mode has kT/2 of potential energy. Modes softer than `softest`, and those downhill of a
    saddle point, are displaced as if they had that wavenumber, for they are not harmonic as far as that.
    """

    kind: Literal["normal_modes"] = "normal_modes"
    starts: int = Field(4, ge=1, description="molecules or clusters, drawn at random")
    structures: int = Field(16, ge=1, description="of each")
    temperature: float = Field(500.0, gt=0, description="K")
    modes: Literal["together", "each"] = Field("together", description="all at once, or one at a time")
    softest: float = Field(100.0, gt=0, description="cm⁻¹")
    relax_steps: int = Field(200, ge=1)

    def explore(self, scene: Scene) -> list[Atoms]:
        """Start by start; periodic ones are left out."""
        finite = [start for start in scene.starts if not start.pbc.any()]
        if not finite:
            scene.tell(note="no start is a molecule or a cluster")
        chosen = scene.rng().permutation(len(finite))[: self.starts]
        return [
            atoms
            for number, index in enumerate(chosen)
            for atoms in scene.once(str(number), partial(self._displaced, scene, number, finite[index]))
        ]

    def _displaced(self, scene: Scene, number: int, start: Atoms) -> list[Atoms]:
        (end,) = relax(scene.potential, [start], fmax=FMAX, steps=self.relax_steps)
        walker = f"{scene.name}-{start.get_chemical_formula()}-{number}"
        minimum = alike(start, end.atoms, walker=walker)
        if end.failure is not None:
            minimum.info["failure"] = end.failure
            return [minimum]
        found = normal_modes(scene.potential, minimum)
        rng = scene.rng(number)
        frames = [minimum]
        for k in range(self.structures):
            alone = None if self.modes == "together" else k % len(found.wavenumbers)
            frame = minimum.copy()
            frame.positions += found.displacement(self.temperature, self.softest, rng, alone)
            frame.info["temperature"] = self.temperature
            frames.append(frame)
        return frames


@dataclass(frozen=True, kw_only=True)
class Modes:
    """M normal modes of N atoms: `wavenumbers` (M,) cm⁻¹, negative where the energy falls along the mode, and
    `vectors` (M, N, 3), orthonormal in mass-weighted coordinates; `masses` (N,) amu."""

    wavenumbers: np.ndarray
    vectors: np.ndarray
    masses: np.ndarray

    def displacement(
        self, temperature: float, softest: float, rng: np.random.Generator, alone: int | None = None
    ) -> np.ndarray:
        """A displacement (N, 3), Å, drawn at `temperature`, K; of the mode `alone`, where one is given."""
        frequencies = np.maximum(abs(self.wavenumbers), softest) / _WAVENUMBER
        amplitudes = np.sqrt(units.kB * temperature) / frequencies * rng.normal(size=len(frequencies))
        if alone is not None:
            amplitudes = np.where(np.arange(len(amplitudes)) == alone, amplitudes, 0.0)
        displacement: np.ndarray = np.tensordot(amplitudes, self.vectors, axes=1)
        return displacement / np.sqrt(self.masses)[:, None]


def normal_modes(potential: Potential, minimum: Atoms) -> Modes:
    """The vibrations of a molecule: 3N - 6 of them, 3N - 5 where it is linear."""
    masses = minimum.get_masses()
    root = np.sqrt(masses).repeat(3)
    weighted = hessian(potential, minimum) / np.outer(root, root)
    centred = minimum.positions - minimum.get_center_of_mass()
    directions = np.eye(3)
    whole = [np.tile(axis, (len(minimum), 1)) for axis in directions]
    whole += [np.cross(axis, centred) for axis in directions]
    rigid = np.stack([(np.sqrt(masses)[:, None] * motion).ravel() for motion in whole], axis=1)
    left, sizes, _ = np.linalg.svd(rigid)
    inner = left[:, int((sizes > 1e-4 * sizes[0]).sum()) :]
    squares, vectors = np.linalg.eigh(inner.T @ (0.5 * (weighted + weighted.T)) @ inner)
    return Modes(
        wavenumbers=np.sign(squares) * np.sqrt(abs(squares)) * _WAVENUMBER,
        vectors=(inner @ vectors).T.reshape(-1, len(minimum), 3),
        masses=masses,
    )
