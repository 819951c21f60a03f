"""A neighbour list that lasts for many steps of molecular dynamics."""

import numpy as np
from ase.data import covalent_radii

from models import graphs


class VerletList:
    """Neighbours within `cutoff`, remembered out to `cutoff + skin` (Å).

    The list is made again once a pair that was outside it could have come within the cutoff: without a
    change of the cell, once an atom has moved by more than half the skin (Verlet, Phys. Rev. 159, 98, 1967).
    What `within` returns is exactly the list made afresh.
    """

    def __init__(self, numbers: np.ndarray, pbc: np.ndarray, cutoff: float, skin: float) -> None:
        self._pbc = pbc
        self._cutoff = cutoff
        self._skin = skin
        self._radii = covalent_radii[numbers]
        self._built_at: np.ndarray | None = None
        self.rebuilds = 0

    def within(
        self, positions: np.ndarray, cell: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pairs within the cutoff at `positions` (N, 3), Å, in `cell` (3, 3), Å.

        Returns the edge index (2, E), unit shifts (E, 3), distances (E,) Å and, for the same pairs, the
        sums of the two covalent radii (E,) Å.
        """
        if self._built_at is None or self._outdated(positions, cell):
            self._pairs, self._shifts = graphs.neighbours(
                positions, cell, self._pbc, self._cutoff + self._skin
            )
            self._pairs = self._pairs.astype(np.int64)
            self._offsets = self._shifts @ cell
            self._contacts = self._radii[self._pairs].sum(axis=0)
            self._built_at, self._built_in, self._cell = positions.copy(), cell.copy(), cell
            self.rebuilds += 1
        if cell is not self._cell:
            self._offsets, self._cell = self._shifts @ cell, cell
        i, j = self._pairs
        vectors = positions[j] - positions[i] + self._offsets
        squared = np.einsum("ij,ij->i", vectors, vectors)
        near = np.flatnonzero(squared < self._cutoff**2)
        return self._pairs[:, near], self._shifts[near], np.sqrt(squared[near]), self._contacts[near]

    def _outdated(self, positions: np.ndarray, cell: np.ndarray) -> bool:
        # A pair's vector is that of the list, carried along by the cell, and twice an atom's own way at most.
        carried, shortest = self._built_at, 1.0
        if not np.array_equal(cell, self._built_in):
            deformation = np.linalg.solve(self._built_in, cell)
            carried = carried @ deformation
            shortest = float(np.linalg.svd(deformation, compute_uv=False)[-1])
        room = shortest * (self._cutoff + self._skin) - self._cutoff
        moved = positions - carried
        return room < 0.0 or bool(np.einsum("ij,ij->i", moved, moved).max() > (0.5 * room) ** 2)
