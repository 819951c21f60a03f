"""Where the model is least certain, within bounds."""

import itertools
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from models.selection.base import Candidates, Choice, Selector
from models.selection.descriptors import structure_vectors


class Threshold(Selector):
    """The most uncertain structures first, spread over walkers and over the space of descriptors.

    Below `at_least` a label teaches little; above `at_most` structures tend to be broken ones.
    """

    kind: Literal["threshold"] = "threshold"
    at_least: float = Field(0.0, ge=0, description="eV/Å: what is more certain is not labelled")
    at_most: float | None = Field(None, gt=0, description="eV/Å: what is less certain is not labelled")
    apart: int = Field(
        10, ge=1, description="frames of one walker between two chosen ones; walkers are told by `walker`"
    )
    distance: float = Field(
        0.0,
        ge=0,
        description="of a chosen structure from all others that are, over the mean distance in the pool",
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.at_most is not None and self.at_most <= self.at_least:
            raise ValueError("at_most has to be above at_least")
        return self

    @property
    def needs_uncertainty(self) -> bool:
        """See `Selector.needs_uncertainty`."""
        return True

    def prefer(
        self, pool: Candidates, known: Candidates, number: int, rng: np.random.Generator
    ) -> list[Choice]:
        """See `Selector.choose`; a walker's frames are counted in the order of the pool."""
        assert pool.uncertainty is not None
        walkers = [str(atoms.info.get("walker", index)) for index, atoms in enumerate(pool.structures)]
        counters = {walker: itertools.count() for walker in walkers}
        frames = [next(counters[walker]) for walker in walkers]
        vectors, _ = structure_vectors(pool, known)
        # Twice the variance is the mean square distance of two of them.
        least = self.distance * np.sqrt(2.0 * vectors.var(axis=0).sum())
        chosen: list[Choice] = []
        for index in map(int, np.argsort(-pool.uncertainty, kind="stable")):
            value = float(pool.uncertainty[index])
            if not self.at_least <= value <= (np.inf if self.at_most is None else self.at_most):
                continue
            if all(
                (walkers[c.index] != walkers[index] or abs(frames[c.index] - frames[index]) >= self.apart)
                and np.linalg.norm(vectors[c.index] - vectors[index]) >= least
                for c in chosen
            ):
                chosen.append(Choice(index, value))
            if len(chosen) == number:
                break
        return chosen
