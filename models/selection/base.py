"""What every selector is: a small frozen value that puts the structures of a pool in order of preference."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from ase import Atoms
from pydantic import BaseModel, ConfigDict
from scipy.spatial import cKDTree

from models.datasets import fingerprint

_SAME = 1e-5  # of the length of a descriptor: rounding in float32, far below what a femtosecond changes


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """n structures, with what a model knows of them.

    Attributes:
        structures: n of them.
        descriptors: invariants of the atoms of each, (N, D).
        uncertainty: of the largest force error on an atom, eV/Å, (n,), where it is known.
    """

    structures: Sequence[Atoms]
    descriptors: Sequence[np.ndarray]
    uncertainty: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.structures)

    def part(self, indices: Iterable[int]) -> Self:
        """Some of them, in the given order."""
        chosen = list(indices)
        return type(self)(
            structures=[self.structures[i] for i in chosen],
            descriptors=[self.descriptors[i] for i in chosen],
            uncertainty=None if self.uncertainty is None else self.uncertainty[chosen],
        )


@dataclass(frozen=True)
class Choice:
    """The index of a chosen structure, and by what it was preferred, where the selector has a number."""

    index: int
    score: float | None = None


class Selector(BaseModel, ABC):
    """One way to choose; subclasses differ in `kind`, which is what they are called in YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str

    @property
    def needs_uncertainty(self) -> bool:
        """Whether the structures of the pool have to come with an uncertainty."""
        return False

    def select(self, pool: Candidates, known: Candidates, number: int, rng: np.random.Generator) -> list[int]:
        """Indices of up to `number` structures of `pool`, in order of preference (see `choose`)."""
        return [choice.index for choice in self.choose(pool, known, number, rng)]

    def choose(
        self, pool: Candidates, known: Candidates, number: int, rng: np.random.Generator
    ) -> list[Choice]:
        """Up to `number` structures of `pool` in order of preference: fewer where fewer are `new`.

        `known` are the labelled structures. Raises ValueError where an uncertainty is needed and not there.
        """
        indices = new(pool, known)
        if not indices or number < 1:
            return []
        if self.needs_uncertainty and pool.uncertainty is None:
            raise ValueError(
                f"selector {self.kind!r}: the structures come without an uncertainty; "
                "give the campaign one, or choose another selector"
            )
        preferred = self.prefer(pool.part(indices), known, number, rng)
        return [Choice(indices[choice.index], choice.score) for choice in preferred]

    @abstractmethod
    def prefer(
        self, pool: Candidates, known: Candidates, number: int, rng: np.random.Generator
    ) -> list[Choice]:
        """See `choose`; all of `pool` is new, and there is at least one structure in it."""


def new(pool: Candidates, known: Candidates) -> list[int]:
    """Indices of the structures of `pool` that are neither `known` nor earlier in the pool.

    A structure is the same as another if its atoms are, and also if it is the same moved, turned or with
    its atoms in another order: then the means of its descriptors are.
    """
    everything = [*known.structures, *pool.structures]
    means = [
        np.concatenate([values[atoms.numbers == z].mean(axis=0) for z in np.unique(atoms.numbers)])
        for atoms, values in zip(everything, [*known.descriptors, *pool.descriptors], strict=True)
    ]
    formulas: dict[str, list[int]] = {}
    for index, atoms in enumerate(everything):
        formulas.setdefault(atoms.get_chemical_formula(), []).append(index)
    same: dict[int, set[int]] = {}
    for members in formulas.values():
        points = np.array([means[index] for index in members], dtype=float)
        reach = _SAME * float(np.linalg.norm(points, axis=1).mean())
        for first, second in cKDTree(points).query_pairs(reach):  # first < second
            same.setdefault(members[second], set()).add(members[first])
    seen = {fingerprint(atoms) for atoms in known.structures}
    kept = set(range(len(known)))
    for index, atoms in enumerate(pool.structures, start=len(known)):
        name = fingerprint(atoms)
        if name not in seen and not same.get(index, set()) & kept:
            kept.add(index)
        seen.add(name)
    return sorted(index - len(known) for index in kept if index >= len(known))
