"""Chance: what every other selector has to be better than."""

from typing import Literal

import numpy as np

from models.selection.base import Candidates, Choice, Selector


class Random(Selector):
    """Draws structures, all with the same probability."""

    kind: Literal["random"] = "random"

    def prefer(
        self, pool: Candidates, known: Candidates, number: int, rng: np.random.Generator
    ) -> list[Choice]:
        """See `Selector.choose`."""
        return [Choice(int(index)) for index in rng.permutation(len(pool))[:number]]
