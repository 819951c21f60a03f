"""Random clusters of rigid molecules and ions, the starting points of gas-phase trajectories."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from scipy.spatial.distance import cdist

_VOLUME_PER_ATOM = 11.0  # Å³: loose enough to place every molecule, tight enough to relax into contact


def random_rotation(molecule: Atoms, rng: np.random.Generator) -> Atoms:
    """A copy of `molecule`, centred on the origin and turned by a random rotation."""
    turned = molecule.copy()
    turned.positions -= turned.positions.mean(axis=0)
    turned.rotate(rng.uniform(0.0, 360.0), rng.normal(size=3))
    return turned


def pack(molecules: Sequence[Atoms], rng: np.random.Generator, *, closest: float = 1.9) -> Atoms:
    """Place `molecules` at random in a growing sphere, no two of them nearer than `closest` (Å).

    The first one sits at the centre. Positions in Å; no cell, not periodic.
    """
    radius = (3.0 / (4.0 * np.pi) * _VOLUME_PER_ATOM * sum(map(len, molecules))) ** (1.0 / 3.0)
    cluster = random_rotation(molecules[0], rng)
    for molecule in molecules[1:]:
        while True:
            direction = rng.normal(size=3)
            direction *= radius * rng.uniform() ** (1.0 / 3.0) / np.linalg.norm(direction)
            placed = random_rotation(molecule, rng)
            placed.translate(direction)
            if cdist(placed.positions, cluster.positions).min() > closest:
                cluster += placed
                break
            radius *= 1.002
    return cluster
