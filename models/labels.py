"""Labels in numbers that can be compared: is this the same structure with the same label?"""

from dataclasses import dataclass

import numpy as np
from ase import Atoms

TOLERANCE = 1e-4
"""Labels that differ by less are the same: eV per atom, eV/Å, eV/Å³. Another unit and back, or the same
calculation done again, changes them by less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A labelled structure as it is entered on record.

    Attributes:
        structure: its content hash, see `models.datasets.entry`.
        energy: total, eV.
        forces: all forces in one number (eV/Å), see `projection`.
        stress: likewise (eV/Å³); None where there is none.
    """

    structure: str
    n_atoms: int
    formula: str
    energy: float
    forces: float
    stress: float | None

    @classmethod
    def of(cls, atoms: Atoms, structure: str) -> "Entry":
        """The entry of a labelled structure, given its content hash."""
        stress = atoms.info.get("REF_stress")
        return cls(
            structure=structure,
            n_atoms=len(atoms),
            formula=atoms.get_chemical_formula(),
            energy=float(atoms.info["REF_energy"]),
            forces=projection(atoms.arrays["REF_forces"]),
            stress=None if stress is None else projection(np.asarray(stress)),
        )

    def contradicts(self, other: "Entry") -> bool:
        """Whether the other label of the same structure differs; stress counts only where both have it."""
        apart = [(self.energy - other.energy) / self.n_atoms, self.forces - other.forces]
        if self.stress is not None and other.stress is not None:
            apart.append(self.stress - other.stress)
        return max(map(abs, apart)) > TOLERANCE


def projection(values: np.ndarray) -> float:
    """Numbers in one: their projection on a fixed irregular direction, in their own unit.

    Noise changes it by about as much as each number; anything larger changes it by more than that, but for
    an unlikely chance. (Rounded digests would not do: of hundreds of numbers one is always about to round
    to the other side.)
    """
    flat = np.asarray(values, dtype=float).ravel()
    # It is on record with every label: in another direction all of them would seem to differ.
    direction = np.cos(np.arange(1.0, flat.size + 1.0) ** 2)
    return float(flat @ direction * np.sqrt(2.0 / flat.size))
