"""A potential as a calculator of ASE, for its optimisers, filters and dynamics."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from models.graphs import graphs, moments, predict
from models.potentials import Potential
from models.tracing import traced


class PotentialCalculator(Calculator):
    """Energy (eV), forces (eV/Å) and, of periodic structures, stress (eV/Å³, Voigt order) of one head.

    Of a potential with magnetic moments, the energy is that of the structure's initial moments, as they are;
    `magmoms` (μB) have the magnitudes that it expects, and signs (N,) or directions (N, 3) as the initial
    moments have them, positive where there are none. `results["magnetic_forces"]` are (N, 3), eV/μB. Without
    `head`, of the last one. Raises ValueError on an element that the potential does not know.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  (ASE's type)

    def __init__(self, potential: Potential, head: str | None = None) -> None:
        super().__init__()
        if potential.magnetic:
            self.implemented_properties = [*self.implemented_properties, "magmom", "magmoms"]
        self._potential = traced(potential)
        self._head = head

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill `results` with everything at once: forces cost no more than the energy does."""
        super().calculate(atoms, properties, system_changes)
        structure = cast(Atoms, self.atoms)
        periodic = bool(structure.pbc.all())
        items = graphs([structure], self._potential, self._head)
        (found,) = predict(self._potential, items, stress=periodic)
        self.results = {"energy": found.energy, "free_energy": found.energy, "forces": found.forces}
        if found.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(found.stress)
        if found.magmoms is not None:
            self.results["magnetic_forces"] = found.magnetic_forces
            self.results["magmoms"] = pointed = _pointed(found.magmoms, moments(structure)[1])
            self.results["magmom"] = pointed.sum(axis=0)


def _pointed(magnitudes: np.ndarray, spins: np.ndarray) -> np.ndarray:
    """Magnitudes (N,) with the signs or directions of `spins` (N, 3)."""
    if not spins[:, :2].any():
        return np.where(spins[:, 2] < 0.0, -1.0, 1.0) * magnitudes
    lengths = np.linalg.norm(spins, axis=1, keepdims=True)
    return magnitudes[:, None] * np.where(lengths > 0.0, spins / np.maximum(lengths, 1e-12), [0.0, 0.0, 1.0])
