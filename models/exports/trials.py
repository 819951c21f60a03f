"""Structures that every export is tried on, and how far it may be from what it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from models.exports.base import ExportError
from models.graphs import Prediction, graphs, predict
from models.potentials import Potential, load

_SPACING = 2.6  # Å
_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-8}  # of the largest value, or of 1 in its unit


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """The largest differences: energy (eV/atom), forces (eV/Å), stress (eV/Å³)."""

    energy: float
    forces: float
    stress: float


def structures(potential: Potential) -> list[Atoms]:
    """A droplet, and two skewed boxes so small that atoms are neighbours of their own images.

    They hold all elements, or as many as there is room for, at random on a shaken lattice. Nothing is like
    that in nature: the question is whether the numbers are the same.
    """
    rng = np.random.default_rng(0)
    droplet, small, large = (_shaken(places, potential, rng) for places in ((3, 2, 2), (1, 2, 3), (2, 3, 4)))
    droplet.cell, droplet.pbc = None, False
    return [droplet, small, large]


def _shaken(places: tuple[int, int, int], potential: Potential, rng: np.random.Generator) -> Atoms:
    sites = np.stack(np.meshgrid(*map(np.arange, places), indexing="ij"), axis=-1).reshape(-1, 3)
    elements = np.resize(rng.permutation(potential.elements), len(sites))
    cell = _SPACING * (np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3)))
    positions = sites @ cell + rng.normal(scale=0.15, size=sites.shape)
    return Atoms(rng.permutation(elements), positions, cell=np.array(places)[:, None] * cell, pbc=True)


def expected(checkpoint: Path, on: Sequence[Atoms]) -> list[Prediction]:
    """What a checkpoint says of structures, in float64 whatever its own type."""
    potential = load(checkpoint, torch.float64)
    return predict(potential, graphs(on, potential), stress=True)


def compare(
    name: str, found: Sequence[Prediction], right: Sequence[Prediction], dtype: torch.dtype
) -> Deviation:
    """How far `found` is from `right`; raises ExportError where that is more than rounding in `dtype`."""
    deviation = Deviation(
        energy=max(abs(a.energy - b.energy) / len(b.forces) for a, b in zip(found, right, strict=True)),
        forces=max(_apart(a.forces, b.forces) for a, b in zip(found, right, strict=True)),
        stress=max(_apart(a.stress, b.stress) for a, b in zip(found, right, strict=True)),
    )
    largest = max(1.0, *(np.abs(part).max() for p in right for part in (p.energy / len(p.forces), p.forces)))
    worst = max(deviation.energy, deviation.forces, deviation.stress)
    if not worst <= _ROUNDING[dtype] * largest:  # NaN too
        raise ExportError(
            f"{name}: the export does not say what the checkpoint says; they are up to "
            f"{deviation.energy:.2g} eV/atom, {deviation.forces:.2g} eV/Å and {deviation.stress:.2g} eV/Å³ "
            "apart. Nothing is written"
        )
    return deviation


def _apart(found: np.ndarray | None, right: np.ndarray | None) -> float:
    if found is None or right is None:
        return 0.0 if found is right else np.inf
    return float(np.abs(found - right).max())
