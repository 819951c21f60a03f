"""One structure from every cluster: DIRECT sampling (Qi et al., arXiv:2307.13710)."""

from typing import Literal

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from models.selection.base import Candidates, Choice, Selector
from models.selection.descriptors import structure_vectors


class Direct(Selector):
    """Standardised mean descriptors, their principal components, clusters, and the middle of each cluster.

    As published: components with an eigenvalue above 1, weighted by their share of the variance; the
    structure nearest the centroid of each cluster. Clusters are Ward's over all structures, with which
    BIRCH ends too (its tree only thins what goes into them). The labelled structures are clustered along,
    and there are as many clusters as leave `number` without a labelled one.
    """

    kind: Literal["direct"] = "direct"

    def prefer(
        self, pool: Candidates, known: Candidates, number: int, rng: np.random.Generator
    ) -> list[Choice]:
        """See `Selector.choose`; larger clusters come first, the score is their size."""
        number = min(number, len(pool))
        if len(pool) + len(known) == 1:
            return [Choice(0, 1.0)]
        features = components(np.concatenate(structure_vectors(pool, known)))
        tree = linkage(features, method="ward")

        def free(count: int) -> list[np.ndarray]:
            """Members of those of `count` clusters that have no labelled structure."""
            label = fcluster(tree, count, criterion="maxclust")
            taken = np.unique(label[len(pool) :])
            return [np.flatnonzero(label == k) for k in np.unique(label) if k not in taken]

        few, many = number, len(features)  # one more cluster adds at most one free one
        while few < many:
            middle = (few + many) // 2
            few, many = (few, middle) if len(free(middle)) >= number else (middle + 1, many)
        # Of those of one size the ones farther out, so that the order of the pool does not matter.
        clusters = sorted(free(few), key=lambda m: (-len(m), -np.linalg.norm(features[m].mean(axis=0))))
        return [
            Choice(int(members[_central(features[members])]), float(len(members)))
            for members in clusters[:number]
        ]


def components(vectors: np.ndarray) -> np.ndarray:
    """Principal components (n, C) of standardised `vectors` (n, F), weighted by their share of the variance.

    Those with an eigenvalue above 1, and always the first.
    """
    spread = vectors.std(axis=0)
    varies = spread > 1e-9 * max(spread.max(), 1e-12)
    standard = (vectors[:, varies] - vectors[:, varies].mean(axis=0)) / spread[varies]
    if not varies.any():
        return np.zeros((len(vectors), 1))
    left, singular, _ = np.linalg.svd(standard, full_matrices=False)
    eigenvalues = singular**2 / max(len(vectors) - 1, 1)
    kept = max(int((eigenvalues > 1.0).sum()), 1)
    weighted: np.ndarray = (left * singular * (eigenvalues / eigenvalues.sum()))[:, :kept]
    return weighted


def _central(points: np.ndarray) -> int:
    return int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())
