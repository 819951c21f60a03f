"""Whether molecules stay whole: the covalent bonds of each start, followed through its dynamics.

A mean over pair distributions hardly sees one proton that leaves a water molecule for another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.geometry import find_mic

from models.dynamics.trajectories import Trajectory

FORMED = 1.25  # bond length over the sum of the covalent radii
BROKEN = 1.5  # O–H: 1.46 Å, past the middle of any hydrogen bond that a proton could cross

_NONMETALS = {"H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Ge", "As", "Se", "Br", "Te", "I"}


@dataclass(frozen=True, kw_only=True)
class Bonds:
    """What became of the covalent bonds of a set of replicas.

    A bond is a pair of nonmetals that starts closer than 1.25 times the sum of its covalent radii, and is
    broken once it is saved longer than 1.5 times that. `breaks` has an entry per replica, in order: the
    first bond that broke, in words, None where all last.
    """

    n_bonds: int
    n_replicas: int
    fraction_whole: float
    first_break_fs: float | None
    breaks: Sequence[str | None]


def covalent_bonds(atoms: Atoms) -> np.ndarray:
    """Pairs (B, 2) of indices of nonmetals that are bonded, i < j."""
    candidates = [i for i, symbol in enumerate(atoms.get_chemical_symbols()) if symbol in _NONMETALS]
    pairs = np.array(list(combinations(candidates, 2)), dtype=int).reshape(-1, 2)
    near = _lengths(atoms.positions[None], pairs, atoms.cell.array[None], atoms.pbc)[0]
    return pairs[near < FORMED * _radii(atoms.numbers, pairs)]


def follow(trajectories: Sequence[Trajectory]) -> Bonds:
    """Follow the bonds of every trajectory's first frame. Raises ValueError without trajectories."""
    if not trajectories:
        raise ValueError("no trajectories to follow bonds in")
    n_bonds = 0
    times: list[float] = []
    breaks: list[str | None] = []
    for run in trajectories:
        pairs = covalent_bonds(run.to_atoms()[0])
        stretched = _lengths(run.positions, pairs, run.cell, run.pbc) / _radii(run.numbers, pairs)
        frames, bonds = np.nonzero(stretched > BROKEN)
        n_bonds += len(pairs)
        if not len(frames):
            breaks.append(None)
            continue
        i, j = pairs[bonds[0]]
        names = "–".join(f"{chemical_symbols[run.numbers[k]]}{k}" for k in (i, j))
        times.append(float(run.times_fs[frames[0]]))
        breaks.append(f"{names} after {times[-1]:.0f} fs")
    return Bonds(
        n_bonds=n_bonds,
        n_replicas=len(trajectories),
        fraction_whole=breaks.count(None) / len(trajectories),
        first_break_fs=min(times, default=None),
        breaks=breaks,
    )


def _lengths(positions: np.ndarray, pairs: np.ndarray, cells: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Lengths (F, B) Å of pairs (B, 2) in frames (F, N, 3), to the nearest image where periodic."""
    vectors = positions[:, pairs[:, 1]] - positions[:, pairs[:, 0]]
    if pbc.any() and vectors.size:
        vectors = np.stack([find_mic(v, cell, pbc)[0] for v, cell in zip(vectors, cells, strict=True)])
    return np.linalg.norm(vectors, axis=-1)


def _radii(numbers: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return covalent_radii[numbers[pairs]].sum(axis=-1)
