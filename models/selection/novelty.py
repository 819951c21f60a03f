"""What adds most information: environments that no labelled structure has."""

from typing import Literal

import numpy as np
from pydantic import Field

from models.selection import entropy
from models.selection.base import Candidates, Choice, Selector
from models.selection.descriptors import structure_vectors
from models.selection.farthest_point import most_typical

_UNSEEN = 1e6  # nats: of an element that nothing known has; far above any other novelty


class Novelty(Selector):
    """Adds, one by one, the structure whose atoms' environments add most to the entropy of what is known.

    The novelty of an environment x is dH = −log Σ K(x, x'), with a Gaussian kernel over the environments x'
    of the same element in the labelled and the chosen structures (QUESTS, arXiv:2404.12367). Structures
    that add nothing, dH ≤ 0, are not chosen.
    """

    kind: Literal["novelty"] = "novelty"
    environments: Literal["distances", "network"] = Field(
        "distances", description="QUESTS' distances of the nearest neighbours, or the model's invariants"
    )
    bandwidth: float | None = Field(
        None,
        gt=0,
        description="of the kernel: Å⁻¹ (0.015) for distances, a share of their spread (0.05) for invariants",
    )
    of: Literal["mean", "largest"] = Field("mean", description="over the atoms of a structure")

    def prefer(
        self, pool: Candidates, known: Candidates, number: int, rng: np.random.Generator
    ) -> list[Choice]:
        """See `Selector.choose`; the score is the novelty when the structure was chosen, in nats."""
        elements, x, owner = self._environments(pool, known)
        mine = owner < len(pool)
        density = np.full(int(mine.sum()), -np.inf)

        def add(atoms: np.ndarray) -> None:
            for z in np.unique(elements[atoms]):
                at = np.flatnonzero(elements[mine] == z)
                more = entropy.log_density(x[mine][at], x[atoms & (elements == z)], 1.0)
                density[at] = np.logaddexp(density[at], more)

        add(~mine)
        left = np.ones(len(pool), dtype=bool)
        chosen: list[Choice] = []
        for _ in range(min(number, len(pool))):
            scores = self._scores(np.minimum(-density, _UNSEEN), owner[mine], len(pool))
            scores[~left] = -np.inf
            index = int(scores.argmax())
            if not len(known) and not chosen:
                index = most_typical(structure_vectors(pool, known)[0])
            if scores[index] <= 0.0:
                break
            chosen.append(Choice(index, float(scores[index])))
            left[index] = False
            add(owner == index)
        return chosen

    def _scores(self, novelty: np.ndarray, owner: np.ndarray, n: int) -> np.ndarray:
        if self.of == "mean":
            return np.bincount(owner, novelty, minlength=n) / np.bincount(owner, minlength=n)
        scores = np.full(n, -np.inf)
        np.maximum.at(scores, owner, novelty)
        return scores

    def _environments(self, pool: Candidates, known: Candidates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Elements (A,), environments (A, D) in bandwidths, structures (A,) of atoms, the pool's first."""
        structures = [*pool.structures, *known.structures]
        elements = np.concatenate([atoms.numbers for atoms in structures])
        owner = np.repeat(np.arange(len(structures)), [len(atoms) for atoms in structures])
        if self.environments == "distances":
            x = np.concatenate(entropy.all_environments(structures))
            return elements, x / (self.bandwidth or entropy.BANDWIDTH), owner
        x = np.concatenate([*pool.descriptors, *known.descriptors]).astype(float)
        for z in np.unique(elements):
            centred = x[elements == z] - x[elements == z].mean(axis=0)
            spread = np.sqrt(centred.var(axis=0).sum())
            x[elements == z] = centred / (spread if spread > 0 else 1.0)
        return elements, x / (self.bandwidth or 0.05), owner
