"""As far as possible from everything labelled, and from each other."""

from typing import Literal

import numpy as np
from pydantic import Field

from models.selection.base import Candidates, Choice, Selector
from models.selection.descriptors import structure_vectors


class FarthestPoint(Selector):
    """Farthest-point sampling in the space of structures' mean descriptors, starting from the labelled ones.

    Where nothing is labelled it starts from the structure nearest the middle.
    """

    kind: Literal["farthest_point"] = "farthest_point"
    weighted: bool = Field(False, description="distances count in proportion to the uncertainty")

    @property
    def needs_uncertainty(self) -> bool:
        """See `Selector.needs_uncertainty`."""
        return self.weighted

    def prefer(
        self, pool: Candidates, known: Candidates, number: int, rng: np.random.Generator
    ) -> list[Choice]:
        """See `Selector.choose`; the score is the distance from the nearest that came before."""
        vectors, labelled = structure_vectors(pool, known)
        weights = np.ones(len(pool)) if not self.weighted else np.asarray(pool.uncertainty, dtype=float)
        chosen: list[Choice] = []
        if len(labelled):
            nearest = np.min([np.linalg.norm(vectors - one, axis=1) for one in labelled], axis=0)
        else:
            start = most_typical(vectors)
            chosen.append(Choice(start))
            nearest = np.linalg.norm(vectors - vectors[start], axis=1)
        while len(chosen) < min(number, len(pool)):
            scores = weights * nearest
            scores[[c.index for c in chosen]] = -np.inf
            index = int(scores.argmax())
            chosen.append(Choice(index, float(scores[index])))
            nearest = np.minimum(nearest, np.linalg.norm(vectors - vectors[index], axis=1))
        return chosen


def most_typical(vectors: np.ndarray) -> int:
    """Index of the row (n, F) that is nearest the mean of all."""
    return int(np.linalg.norm(vectors - vectors.mean(axis=0), axis=1).argmin())
