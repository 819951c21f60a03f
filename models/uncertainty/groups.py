"""Which labelled structures belong together: those of one walker or trajectory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The number of every frame's group (n,), from 0 in order of appearance, and what they are grouped by."""

    numbers: np.ndarray
    by: Literal["trajectory", "formula", "structure"]


def grouped(frames: Sequence[Atoms]) -> Groups:
    """Frames by walker or trajectory; by formula where no frame has either.

    Where all would be in one group, every frame is its own.
    """
    origins = [a.info.get("walker", a.info.get("trajectory")) for a in frames]
    known = any(origin is not None for origin in origins)
    names = [str(o) if known else a.get_chemical_formula() for o, a in zip(origins, frames, strict=True)]
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if len(order) == 1:
        return Groups(numbers=np.arange(len(frames)), by="structure")
    return Groups(numbers=np.array([order[n] for n in names]), by="trajectory" if known else "formula")
