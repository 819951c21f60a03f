"""A neighbour list that lasts for many steps of molecular dynamics."""

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii

from models import graphs


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Directed `pairs` of atoms (2, E), their unit `shifts` (E, 3), and `contacts` (E,): the sums of the two
    covalent radii, Å."""

    pairs: np.ndarray
    shifts: np.ndarray
    contacts: np.ndarray

    def distances(self, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """How far the atoms of each pair are apart (E,), Å."""
        i, j = self.pairs
        vectors = positions[j] - positions[i] + self.shifts @ cell
        return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))


class VerletList:
    """Neighbours within `cutoff`, remembered out to `cutoff + skin` (Å), and used out to `cutoff + margin`.

    A list is good until a pair that was outside it could have come within the cutoff: without a change of
    the cell, until an atom has moved by more than half of what it reaches beyond (Verlet, Phys. Rev. 159, 98,
    1967). The short list, with few pairs that do not count, is taken from the long one every few steps
    (Páll and Hess, Comput. Phys. Commun. 184, 2641, 2013).
    """

    def __init__(
        self, numbers: np.ndarray, pbc: np.ndarray, cutoff: float, skin: float, margin: float
    ) -> None:
        self._pbc = pbc
        self._cutoff = cutoff
        self._skin = skin
        self._margin = margin
        self._radii = covalent_radii[numbers]
        self._long: _Kept | None = None
        self._short: _Kept | None = None
        self.rebuilds = 0

    def within(self, positions: np.ndarray, cell: np.ndarray) -> Neighbours:
        """All pairs within the cutoff at `positions` (N, 3), Å, in `cell` (3, 3), Å, and a few beyond.

        The very same object as the last time, for as long as it is good.
        """
        if self._short is None or not self._short.covers(positions, cell, self._cutoff):
            if self._long is None or not self._long.covers(positions, cell, self._cutoff + self._margin):
                reach = self._cutoff + self._skin
                pairs, shifts = graphs.neighbours(positions, cell, self._pbc, reach)
                contacts = self._radii[pairs].sum(axis=0)
                found = Neighbours(pairs=pairs, shifts=shifts, contacts=contacts)
                self._long = _Kept(found, positions.copy(), cell.copy(), reach)
                self.rebuilds += 1
            reach, found = self._cutoff + self._margin, self._long.neighbours
            near = np.flatnonzero(found.distances(positions, cell) < reach)
            found = Neighbours(
                pairs=found.pairs[:, near], shifts=found.shifts[near], contacts=found.contacts[near]
            )
            self._short = _Kept(found, positions.copy(), cell.copy(), reach)
        return self._short.neighbours


@dataclass(frozen=True)
class _Kept:
    """All pairs up to `reach`, Å, at these positions in this cell."""

    neighbours: Neighbours
    positions: np.ndarray
    cell: np.ndarray
    reach: float

    def covers(self, positions: np.ndarray, cell: np.ndarray, cutoff: float) -> bool:
        """Whether no other pair can be within the cutoff, Å, at these other positions."""
        # A pair's vector is that of the list, carried along by the cell, and twice an atom's own way at most.
        carried, shortest = self.positions, 1.0
        if not np.array_equal(cell, self.cell):
            deformation = np.linalg.solve(self.cell, cell)
            carried = carried @ deformation
            shortest = float(np.linalg.svd(deformation, compute_uv=False)[-1])
        room = shortest * self.reach - cutoff
        moved = positions - carried
        return room >= 0.0 and bool(np.einsum("ij,ij->i", moved, moved).max() <= (0.5 * room) ** 2)
