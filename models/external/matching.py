"""Which requested structure a result belongs to: by what it is, whatever the order of its atoms."""

from collections.abc import Mapping

import numpy as np
from ase import Atoms

TOLERANCE = 1e-3
"""How far (Å) a position or a cell vector may be off: programs print a few digits."""
EMPTY = 5.0
"""How much (Å) of a box has to be empty in every direction if what is in it is to count as a molecule."""


def match(result: Atoms, requested: Mapping[str, Atoms]) -> tuple[str, np.ndarray] | None:
    """The id of the structure that `result` is, and an order: `result[order]` has its atoms as requested.

    Species and positions have to be the same to 1e-3 Å; of several such structures it is the nearest. Where
    the cells agree, or a molecule is alone in its box, all may be shifted together, and each atom by lattice
    vectors; a periodic structure that comes without a cell has to be where it was. None where there is none.
    """
    best: tuple[float, str, np.ndarray] | None = None
    for id_, structure in requested.items():
        found = _placed(result, structure)
        if found is not None and (best is None or found[0] < best[0]):
            best = (found[0], id_, found[1])
    return best and best[1:]


def _placed(result: Atoms, structure: Atoms) -> tuple[float, np.ndarray] | None:
    """The largest distance (Å) of a result's atoms from those of a structure, and their order."""
    if not np.array_equal(np.sort(result.numbers), np.sort(structure.numbers)):
        return None
    lattice = None
    if result.cell.rank == 3 and structure.pbc.any():
        if np.abs(result.cell.array - structure.cell.array).max() > TOLERANCE:
            return None
        lattice = structure.cell.array
    elif result.cell.rank == 3:
        if _room(structure, result.cell.array) < EMPTY:
            return None
        lattice = result.cell.array
    movable = lattice is not None or not structure.pbc.any()
    comparison = _Comparison(result, structure, lattice, movable)
    return comparison.in_order() or comparison.in_any_order()


def _room(molecule: Atoms, cell: np.ndarray) -> float:
    """The least empty height (Å) of a cell around a molecule."""
    reciprocal = np.linalg.inv(cell).T
    lengths = np.linalg.norm(reciprocal, axis=1)
    extents = np.ptp(molecule.positions @ (reciprocal / lengths[:, None]).T, axis=0)
    return float((1.0 / lengths - extents).min())


class _Comparison:
    """Two sets of as many atoms of the same species."""

    def __init__(self, result: Atoms, structure: Atoms, lattice: np.ndarray | None, movable: bool) -> None:
        self.result, self.structure, self.lattice, self.movable = result, structure, lattice, movable

    def in_order(self) -> tuple[float, np.ndarray] | None:
        """The distance, if the atoms are in the order of the structure."""
        if not np.array_equal(self.result.numbers, self.structure.numbers):
            return None
        return self._finished(np.arange(len(self.result)))

    def in_any_order(self) -> tuple[float, np.ndarray] | None:
        """The distance and the order, if each atom is at the place of one of its species.

        An atom of the rarest species is at the place of one of its kind: each of these is tried.
        """
        kinds, counts = np.unique(self.structure.numbers, return_counts=True)
        groups = [
            (np.flatnonzero(self.structure.numbers == z), np.flatnonzero(self.result.numbers == z))
            for z in kinds[np.argsort(counts, kind="stable")]
        ]
        wanted, there = groups[0]
        shifts = self.result.positions[there] - self.structure.positions[wanted[0]]
        for shift in shifts if self.movable else np.zeros((1, 3)):
            order = np.empty(len(self.structure), dtype=int)
            for wanted, there in groups:
                apart = self._distances(
                    self.result.positions[None, there] - self.structure.positions[wanted, None] - shift
                )
                nearest = apart.argmin(axis=1)
                # Measured from one atom, whose own error comes on top.
                if apart.min(axis=1).max() > 2 * TOLERANCE or len(set(nearest)) < len(nearest):
                    break
                order[wanted] = there[nearest]
            else:
                return self._finished(order)
        return None

    def _finished(self, order: np.ndarray) -> tuple[float, np.ndarray] | None:
        apart = self.result.positions[order] - self.structure.positions
        if self.movable:
            apart = self._wrapped(apart - apart[0])
            apart -= apart.mean(axis=0)
        distance = float(np.linalg.norm(apart, axis=1).max())
        return (distance, order) if distance <= TOLERANCE else None

    def _distances(self, vectors: np.ndarray) -> np.ndarray:
        return np.linalg.norm(self._wrapped(vectors), axis=-1)

    def _wrapped(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors less the lattice vectors nearest to them."""
        if self.lattice is None:
            return vectors
        fractions = vectors @ np.linalg.inv(self.lattice)
        return (fractions - np.round(fractions)) @ self.lattice
