"""A neighbour list that lasts for many steps of molecular dynamics."""

import numpy as np
from ase.data import covalent_radii

from models import graphs


class VerletList:
    """Neighbours within `cutoff`, remembered out to `cutoff + skin` (Å).

    The list is made again once an atom has moved by more than half the skin; until then a pair that was
    outside it cannot have come within the cutoff (Verlet, Phys. Rev. 159, 98, 1967). What `within`
    returns is exactly the list made afresh.
    """

    def __init__(
        self, numbers: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, skin: float
    ) -> None:
        self._cell = cell
        self._pbc = pbc
        self._cutoff = cutoff
        self._skin = skin
        self._radii = covalent_radii[numbers]
        self._built_at: np.ndarray | None = None
        self.rebuilds = 0

    def within(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pairs within the cutoff at `positions` (N, 3), Å.

        Returns the edge index (2, E), unit shifts (E, 3), distances (E,) Å and, for the same pairs, the
        sums of the two covalent radii (E,) Å.
        """
        if self._built_at is None or self._moved(positions):
            self._pairs, self._shifts = graphs.neighbours(
                positions, self._cell, self._pbc, self._cutoff + self._skin
            )
            self._pairs = self._pairs.astype(np.int64)
            self._offsets = self._shifts @ self._cell
            self._contacts = self._radii[self._pairs].sum(axis=0)
            self._built_at = positions.copy()
            self.rebuilds += 1
        i, j = self._pairs
        squared = ((positions[j] - positions[i] + self._offsets) ** 2).sum(axis=1)
        near = squared < self._cutoff**2
        return self._pairs[:, near], self._shifts[near], np.sqrt(squared[near]), self._contacts[near]

    def _moved(self, positions: np.ndarray) -> bool:
        return bool(((positions - self._built_at) ** 2).sum(axis=1).max() > (0.5 * self._skin) ** 2)
