"""Distributions of distances between every two elements, with error bars, and how far two of them lie apart.

A trajectory here is a sequence of ASE structures, so that reference data and molecular dynamics
(`Trajectory.to_atoms`) are treated alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations_with_replacement, pairwise

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from models import graphs

BIN_WIDTH = 0.05  # Å
R_MAX = 6.0  # Å
_SPLITS = 10
_BLOCKS_OF_ONE = 5


class Kind(StrEnum):
    """How a distribution is normalised."""

    RADIAL = "g(r)"
    """Periodic: over the ideal gas of the same density, so 1 where there is no structure."""
    PAIR = "p(r)"
    """Cluster: probability density of one pair's distance, 1/Å; its integral over all r is 1."""


@dataclass(frozen=True, kw_only=True)
class Rdf:
    """The distribution of one pair of elements, such as "Na-O" (alphabetical).

    `r` centres of the bins, Å; `g` as `kind` says; `error` one standard error of `g` (jackknife over
    trajectories or, of a single one, over up to five blocks; zero where there is only one frame).
    """

    pair: str
    kind: Kind
    r: Sequence[float]
    g: Sequence[float]
    error: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class RdfComparison:
    """Reference and model, pair by pair, over the same range.

    `emd` is the earth mover's distance, Å; `noise_floor` the same between random halves of the
    reference, the distance that sampling alone makes. `mean_*` are plain means over the pairs. `n_*` are
    the numbers of structures.
    """

    kind: Kind
    bin_width: float
    r_max: float
    n_reference: int
    n_model: int
    reference: Sequence[Rdf]
    model: Sequence[Rdf]
    emd: dict[str, float]
    shortest: dict[str, float]
    noise_floor: dict[str, float]
    mean_emd: float
    mean_noise_floor: float


@dataclass(frozen=True)
class _Counts:
    """Histograms (pairs, bins) of one block, and what to divide them by (pairs, bins)."""

    histogram: np.ndarray
    norm: np.ndarray


def rdf(
    trajectories: Sequence[Sequence[Atoms]], *, bin_width: float = BIN_WIDTH, r_max: float = R_MAX
) -> list[Rdf]:
    """The distribution of every pair of elements that occurs, all trajectories together.

    For periodic structures `r_max` is cut to half the smallest height of a cell. Raises ValueError on no
    frames, on a mixture of periodic and finite structures, and on structures periodic in one or two
    directions only.
    """
    kind = _kind(trajectories)
    pairs = _pairs(trajectories)
    edges = _edges(bin_width, _range(trajectories, kind, r_max))
    return _curves(_blocks(trajectories, pairs, edges, kind), pairs, edges, kind)


def earth_movers_distance(a: Rdf, b: Rdf) -> float:
    """The 1-D Wasserstein distance, Å, between two curves taken as weights on their common bins.

    Two empty curves agree; where only one is empty the distance is the whole range. Raises ValueError on
    different pairs, kinds or bins.
    """
    if (a.pair, a.kind) != (b.pair, b.kind) or not np.array_equal(a.r, b.r):
        raise ValueError(f"{a.pair} {a.kind} and {b.pair} {b.kind} are not on the same bins")
    return _distance(np.asarray(a.r), np.asarray(a.g), np.asarray(b.g))


def compare(
    reference: Sequence[Sequence[Atoms]],
    model: Sequence[Sequence[Atoms]],
    *,
    bin_width: float = BIN_WIDTH,
    r_max: float = R_MAX,
) -> RdfComparison:
    """Distributions of reference and model on the same bins, their distances and the noise floor.

    Like is compared with like: only those reference structures count whose composition the model has
    simulated. A pair that the reference never has within the range is left out. Raises ValueError as
    `rdf` does, and where the model has a composition that the reference lacks.
    """
    simulated = {_composition(atoms) for frames in model for atoms in frames}
    if missing := simulated - {_composition(atoms) for frames in reference for atoms in frames}:
        raise ValueError(
            f"the reference has no structure of {', '.join(sorted(missing))}: nothing to compare with"
        )
    reference = [[atoms for atoms in frames if _composition(atoms) in simulated] for frames in reference]
    both = [*reference, *model]
    kind = _kind(both)
    pairs = _pairs(model)
    edges = _edges(bin_width, _range(both, kind, r_max))
    blocks = _blocks(reference, pairs, edges, kind)
    curves = _curves(blocks, pairs, edges, kind)
    ours = _curves(_blocks(model, pairs, edges, kind), pairs, edges, kind)
    seen = [k for k, curve in enumerate(curves) if any(curve.g)]
    if not seen:
        raise ValueError(f"no two atoms of the reference are within {edges[-1]:g} Å: raise r_max")
    floors = _noise_floors(blocks, 0.5 * (edges[1:] + edges[:-1]))
    emd = {curves[k].pair: earth_movers_distance(curves[k], ours[k]) for k in seen}
    noise_floor = {curves[k].pair: float(floors[k]) for k in seen}
    return RdfComparison(
        kind=kind,
        bin_width=bin_width,
        r_max=float(edges[-1]),
        n_reference=sum(map(len, reference)),
        n_model=sum(map(len, model)),
        reference=[curves[k] for k in seen],
        model=[ours[k] for k in seen],
        emd=emd,
        shortest={curves[k].pair: _shortest(ours[k]) / _shortest(curves[k]) for k in seen if any(ours[k].g)},
        noise_floor=noise_floor,
        mean_emd=float(np.mean(list(emd.values()))),
        mean_noise_floor=float(np.mean(list(noise_floor.values()))),
    )


def _shortest(curve: Rdf) -> float:
    return next(r for r, g in zip(curve.r, curve.g, strict=True) if g > 0.0)


def _composition(atoms: Atoms) -> str:
    return atoms.get_chemical_formula()


def _distance(r: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    # Here, since it takes a third of a second that every command would wait for.
    from scipy.stats import wasserstein_distance

    if not a.any() or not b.any():
        return 0.0 if a.any() == b.any() else float(r[-1])
    return float(wasserstein_distance(r, r, a, b))


def _kind(trajectories: Sequence[Sequence[Atoms]]) -> Kind:
    periodic = {bool(axis) for frames in trajectories for atoms in frames for axis in atoms.pbc}
    if not periodic:
        raise ValueError("no frames to take distances from")
    if len(periodic) > 1:
        raise ValueError("distances need structures that are all periodic in three directions, or all finite")
    return Kind.RADIAL if periodic.pop() else Kind.PAIR


def _pairs(trajectories: Sequence[Sequence[Atoms]]) -> list[tuple[int, int]]:
    """Pairs of atomic numbers, in alphabetical order, of which some structure has at least one."""
    found: set[tuple[int, int]] = set()
    for composition in {tuple(atoms.numbers) for frames in trajectories for atoms in frames}:
        counts = {z: composition.count(z) for z in set(composition)}
        ordered = sorted(counts, key=lambda z: chemical_symbols[z])
        found |= {(a, b) for a, b in combinations_with_replacement(ordered, 2) if a != b or counts[a] > 1}
    return sorted(found, key=_name)


def _name(pair: tuple[int, int]) -> str:
    return f"{chemical_symbols[pair[0]]}-{chemical_symbols[pair[1]]}"


def _range(trajectories: Sequence[Sequence[Atoms]], kind: Kind, r_max: float) -> float:
    if kind is Kind.PAIR:
        return r_max
    heights = [1.0 / np.linalg.norm(atoms.cell.reciprocal(), axis=1) for f in trajectories for atoms in f]
    return min(r_max, 0.5 * float(np.min(heights)))


def _edges(bin_width: float, r_max: float) -> np.ndarray:
    return bin_width * np.arange(int(r_max / bin_width + 1e-9) + 1)


def _blocks(
    trajectories: Sequence[Sequence[Atoms]], pairs: list[tuple[int, int]], edges: np.ndarray, kind: Kind
) -> list[_Counts]:
    blocks = [frames for frames in trajectories if len(frames)]
    if len(blocks) == 1:
        frames = blocks[0]
        bounds = np.linspace(0, len(frames), min(_BLOCKS_OF_ONE, len(frames)) + 1).astype(int)
        blocks = [frames[a:b] for a, b in pairwise(bounds)]
    return [_count(frames, pairs, edges, kind) for frames in blocks]


def _count(frames: Sequence[Atoms], pairs: list[tuple[int, int]], edges: np.ndarray, kind: Kind) -> _Counts:
    histogram = np.zeros((len(pairs), len(edges) - 1))
    norm = np.zeros_like(histogram)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    for atoms in frames:
        cell = np.asarray(atoms.cell.array)
        (i, j), shifts = graphs.neighbours(atoms.positions, cell, atoms.pbc, edges[-1])
        distances = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + shifts @ cell, axis=1)
        first, second = atoms.numbers[i], atoms.numbers[j]
        for k, (a, b) in enumerate(pairs):
            n_a, n_b = (atoms.numbers == a).sum(), (atoms.numbers == b).sum()
            ordered_pairs = n_a * (n_b - (a == b))
            histogram[k] += np.histogram(distances[(first == a) & (second == b)], edges)[0]
            # A periodic atom also meets its own images, so that n_b and not n_b - 1 others fill the cell.
            norm[k] += (
                n_a * n_b * shells / atoms.get_volume()
                if kind is Kind.RADIAL
                else ordered_pairs * np.diff(edges)
            )
    return _Counts(histogram=histogram, norm=norm)


def _pooled(blocks: Sequence[_Counts]) -> np.ndarray:
    norm = np.sum([block.norm for block in blocks], axis=0)
    histogram = np.sum([block.histogram for block in blocks], axis=0)
    return np.divide(histogram, norm, out=np.zeros_like(norm), where=norm > 0)


def _curves(
    blocks: Sequence[_Counts], pairs: list[tuple[int, int]], edges: np.ndarray, kind: Kind
) -> list[Rdf]:
    g = _pooled(blocks)
    n = len(blocks)
    error = np.zeros_like(g)
    if n > 1:
        without_one = np.array([_pooled([*blocks[:k], *blocks[k + 1 :]]) for k in range(n)])
        error = np.sqrt((n - 1) * without_one.var(axis=0))
    r = (0.5 * (edges[1:] + edges[:-1])).tolist()
    return [
        Rdf(pair=_name(pair), kind=kind, r=r, g=g[k].tolist(), error=error[k].tolist())
        for k, pair in enumerate(pairs)
    ]


def _noise_floors(blocks: Sequence[_Counts], r: np.ndarray) -> np.ndarray:
    """Mean distance (pairs,) between random halves of the blocks; zero where there is only one."""
    if len(blocks) < 2:
        return np.zeros(len(blocks[0].histogram))
    generator = np.random.default_rng(0)
    found = []
    for _ in range(_SPLITS):
        order = generator.permutation(len(blocks))
        halves = [_pooled([blocks[k] for k in half]) for half in np.array_split(order, 2)]
        found.append([_distance(r, a, b) for a, b in zip(*halves, strict=True)])
    return np.mean(found, axis=0)
