"""A potential as a calculator of ASE, for its optimisers, filters and dynamics."""

from collections.abc import Sequence
from typing import cast

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from models.graphs import graphs, predict
from models.potentials import Potential
from models.tracing import traced


class PotentialCalculator(Calculator):
    """Energy (eV), forces (eV/Å) and, of periodic structures, stress (eV/Å³, Voigt order) of one head.

    Without `head`, of the last one. Raises ValueError on an element that the potential does not know.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  (ASE's type)

    def __init__(self, potential: Potential, head: str | None = None) -> None:
        super().__init__()
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
