"""Information entropy of sets of atomic environments, after QUESTS (arXiv:2404.12367)."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from scipy.special import logsumexp

from models import graphs

CUTOFF = 5.0  # Å
NEIGHBOURS = 32
BANDWIDTH = 0.015  # Å⁻¹
_PAIRS = 4_000_000  # kernel values at once


def environments(atoms: Atoms) -> np.ndarray:
    """QUESTS' descriptors (N, 63), Å⁻¹: how near the 32 nearest neighbours are to the atom and to each other.

    The first 32 are w(r)/r of the neighbours in falling order, with w = (1 − (r/5 Å)²)². The others are
    √(w_j w_l)/r_jl in falling order for every neighbour j, and their mean over j. What is not there is 0.
    """
    cell, n = atoms.cell.array, len(atoms)
    (i, j), shifts = graphs.neighbours(atoms.positions, cell, atoms.pbc, CUTOFF)
    vectors = atoms.positions[j] - atoms.positions[i] + shifts @ cell
    lengths = np.linalg.norm(vectors, axis=1)
    order = np.lexsort((lengths, i))
    i, vectors, lengths = i[order], vectors[order], lengths[order]
    counts = np.bincount(i, minlength=n)
    place = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    near = place < NEIGHBOURS
    neighbours = np.zeros((n, NEIGHBOURS, 3))
    weights = np.zeros((n, NEIGHBOURS))
    radial = np.zeros((n, NEIGHBOURS))
    neighbours[i[near], place[near]] = vectors[near]
    weights[i[near], place[near]] = (1.0 - (lengths[near] / CUTOFF) ** 2) ** 2
    radial[i[near], place[near]] = weights[i[near], place[near]] / lengths[near]
    between = np.linalg.norm(neighbours[:, :, None] - neighbours[:, None], axis=-1)
    between[between == 0.0] = np.inf
    pairs = np.sqrt(weights[:, :, None] * weights[:, None]) / between
    pairs = -np.sort(-pairs, axis=2)[:, :, : NEIGHBOURS - 1]
    mean = pairs.sum(axis=1) / np.maximum(np.minimum(counts, NEIGHBOURS), 1)[:, None]
    return np.concatenate([-np.sort(-radial, axis=1), mean], axis=1)


def log_density(of: np.ndarray, given: np.ndarray, bandwidth: float = BANDWIDTH) -> np.ndarray:
    """log Σ_j exp(−|x − x_j|²/2h²) of every row x of `of` (n, D) over the rows of `given` (m, D): (n,).

    −∞ where `given` is empty. Its negative is the novelty dH of x: above 0 where x is new.
    """
    result = np.full(len(of), -np.inf)
    if not len(given):
        return result
    # About their mean: squares of large numbers would cancel badly.
    middle = given.mean(axis=0)
    given = (given - middle) / bandwidth
    norms = (given**2).sum(axis=1)
    step = max(1, _PAIRS // len(given))
    for start in range(0, len(of), step):
        part = (of[start : start + step] - middle) / bandwidth
        squares = (part**2).sum(axis=1)[:, None] + norms - 2.0 * part @ given.T
        result[start : start + step] = logsumexp(-0.5 * np.maximum(squares, 0.0), axis=1)
    return result


def entropy(environments: np.ndarray, bandwidth: float = BANDWIDTH) -> float:
    """H = −mean_i log (1/N) Σ_j K_ij of a set (N, D), in nats; log N where all are far apart."""
    return float(np.log(len(environments)) - log_density(environments, environments, bandwidth).mean())


def all_environments(structures: Sequence[Atoms]) -> list[np.ndarray]:
    """The environments of each structure."""
    return [environments(atoms) for atoms in structures]
