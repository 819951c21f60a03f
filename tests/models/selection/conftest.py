from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms

from models.selection import Candidates

Make = Callable[..., Candidates]


@pytest.fixture(scope="session")
def planted() -> Make:
    """Structures with planted descriptors: one for every point, its atoms scattered a little around it."""

    def make(points: np.ndarray, seed: int = 0, symbols: str = "OH2", **known) -> Candidates:
        rng = np.random.default_rng(seed)
        structures, descriptors = [], []
        for point in points:
            n = len(Atoms(symbols))
            structures.append(Atoms(symbols, rng.normal(scale=2.0, size=(n, 3))))
            descriptors.append(point + rng.normal(scale=0.01, size=(n, len(point))))
        return Candidates(structures=structures, descriptors=descriptors, **known)

    return make


@pytest.fixture(scope="session")
def clusters(planted) -> Candidates:
    """One crowded cluster of 40 structures and five of four; structure i is of cluster i // 4 - 9."""
    middles = np.random.default_rng(1).normal(scale=5.0, size=(6, 8))
    members = [0] * 40 + [k for k in range(1, 6) for _ in range(4)]
    points = middles[members] + np.random.default_rng(2).normal(scale=0.1, size=(60, 8))
    uncertainty = np.linspace(0.1, 0.7, 60)
    return planted(points, seed=3, uncertainty=uncertainty)
