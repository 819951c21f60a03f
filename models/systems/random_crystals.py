"""Random crystals of drawn compositions, the starts of a structure search."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from models import graphs

MOST_ATOMS = 10  # of a cell whose formula is drawn
CLOSEST = 0.85  # of the sum of the covalent radii


def contact(atoms: Atoms) -> float:
    """The shortest distance over the sum of the two covalent radii; infinite where no atoms are near."""
    radii = covalent_radii[atoms.numbers]
    cell = atoms.cell.array
    (i, j), shifts = graphs.neighbours(atoms.positions, cell, atoms.pbc, 2.0 * radii.max())
    distances = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + shifts @ cell, axis=1)
    return float((distances / (radii[i] + radii[j])).min(initial=np.inf))


def room(numbers: np.ndarray) -> float:
    """What atoms of these numbers take in a solid, Å³: twice their covalent spheres, and at least 10 each."""
    return float(np.maximum(2.0 * 4.0 / 3.0 * np.pi * covalent_radii[numbers] ** 3, 10.0).sum())


def draw_formulas(symbols: Sequence[str], n: int, generator: np.random.Generator) -> list[str]:
    """Up to `n` formulas of two or three of the elements, as many units of each as 10 atoms allow.

    Those whose oxidation states can be balanced come first; only where they run out, others follow.
    """
    from pymatgen.core.composition import Composition

    drawn: dict[str, bool] = {}
    for _ in range(100 * n if symbols else 0):
        size = min(len(symbols), int(generator.integers(2, 4)))
        chosen = np.sort(generator.choice(len(symbols), size=size, replace=False))
        counts = generator.integers(1, 4, size=size)
        counts //= np.gcd.reduce(counts)
        unit, cell = (
            "".join(f"{symbols[e]}{count}" for e, count in zip(chosen, times * counts, strict=True))
            for times in (1, MOST_ATOMS // counts.sum())
        )
        if cell not in drawn:
            drawn[cell] = bool(Composition(unit).oxi_state_guesses())
    return sorted(drawn, key=lambda formula: not drawn[formula])[:n]


def random_crystal(formula: str, generator: np.random.Generator) -> Atoms:
    """A random cell of about the volume of a solid, its atoms at random, no two too close.

    The volume is that of `room`, give or take; where the atoms do not fit, the cell grows.
    """
    atoms = Atoms(formula, pbc=True)
    volume = room(atoms.numbers) * generator.uniform(0.8, 1.4)
    shape = np.eye(3) + generator.uniform(-0.3, 0.3, size=(3, 3))
    shape /= np.linalg.det(shape) ** (1.0 / 3.0)  # its diagonal dominates: the determinant is positive
    while True:
        atoms.set_cell(shape * volume ** (1.0 / 3.0))
        if _placed(atoms, generator):
            return atoms
        volume *= 1.05


def _placed(atoms: Atoms, generator: np.random.Generator) -> bool:
    """Place one atom after the other; whether there was room for all."""
    for n in range(1, len(atoms) + 1):
        for _ in range(50):
            atoms.positions[n - 1] = generator.random(3) @ atoms.cell.array
            if contact(atoms[:n]) > CLOSEST:
                break
        else:
            return False
    return True
