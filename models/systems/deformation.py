"""Strained cells of crystals, with molecules moved as wholes."""

import numpy as np
from ase import Atoms


def random_strain(size: float, rng: np.random.Generator) -> np.ndarray:
    """A symmetric strain (3×3) of normally distributed components of width `size`."""
    strain = rng.normal(0.0, size, size=(3, 3))
    return 0.5 * (strain + strain.T)


def deformed(crystal: Atoms, strain: np.ndarray, bodies: np.ndarray) -> Atoms:
    """A copy of `crystal` in its strained cell, without calculator.

    The atoms of one body, such as a molecule, keep their distances; its first atom moves with the cell.
    `bodies` gives the body of each atom; the strain is 3×3 and symmetric.
    """
    moved = crystal.copy()
    moved.set_cell(crystal.cell.array @ (np.eye(3) + strain), scale_atoms=False)
    _, first, body = np.unique(bodies, return_index=True, return_inverse=True)
    moved.positions += (crystal.positions[first] @ strain)[body]
    return moved
