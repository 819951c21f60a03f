"""Rattle, relax, repeat: structures off and on the potential's surface."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from ase import Atoms
from pydantic import Field

from models.dynamics.relax import relax
from models.exploration.base import Explorer, Scene, alike
from models.potentials import Potential
from models.systems.deformation import random_strain

REPEATS = 3
FMAX = 0.05  # eV/Å
PART = 16  # walkers that are relaxed together


class Excursions(Explorer):
    """Copies of the starts that are rattled and relaxed a little, three times over.

    The idea is that of arXiv:2506.10956. A periodic cell is strained with every rattle.
    """

    kind: Literal["excursions"] = "excursions"
    walkers: int = Field(16, ge=1)
    rattle: float = Field(0.15, gt=0, description="largest standard deviation of a coordinate, Å")
    strain: float = Field(0.03, ge=0, description="largest width of a component of a periodic cell's strain")
    relax_steps: int = Field(5, ge=0, description="steps after every rattle; none: rattled starts alone")

    def explore(self, scene: Scene) -> list[Atoms]:
        """Walkers in groups that are relaxed together."""
        found: list[Atoms] = []
        for first in range(0, self.walkers, PART):
            numbers = range(first, min(first + PART, self.walkers))
            found += scene.once(str(first), partial(self._walks, scene, numbers))
        return found

    def _walks(self, scene: Scene, numbers: range) -> list[Atoms]:
        rng = scene.rng(numbers.start)
        starts = [scene.starts[int(rng.integers(len(scene.starts)))] for _ in numbers]
        met = walk(scene.potential, starts, self.rattle, self.relax_steps, rng, self.strain)
        return [
            alike(
                starts[one.walker],
                one.atoms,
                walker=f"{scene.name}-{numbers[one.walker]}",
                **({} if one.failure is None else {"failure": one.failure}),
            )
            for one in sorted(met, key=lambda one: one.walker)
        ]


@dataclass(frozen=True, kw_only=True)
class Met:
    """A structure that a walker met, and why the walker ended there, where it did."""

    walker: int
    atoms: Atoms
    failure: str | None = None


def walk(
    potential: Potential,
    starts: Sequence[Atoms],
    rattle: float,
    relax_steps: int,
    rng: np.random.Generator,
    strain: float = 0.0,
) -> list[Met]:
    """What one walker from every start meets: all of them rattled, all of them relaxed, three times.

    `rattle` is the largest standard deviation of a coordinate, Å, and `strain` that of a component of the
    strain of a periodic cell; each time a walker draws its own, from zero to that. Without `relax_steps` they
    are rattled once. Where the potential fails, a walker ends.
    """
    met: list[Met] = []
    walkers = dict(enumerate(Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc) for s in starts))
    for _ in range(REPEATS if relax_steps else 1):
        walkers = {k: atoms.copy() for k, atoms in walkers.items()}
        for atoms in walkers.values():
            atoms.positions += rng.normal(scale=rng.uniform(0.0, rattle), size=atoms.positions.shape)
            if strain and atoms.pbc.all():
                deformation = np.eye(3) + random_strain(rng.uniform(0.0, strain), rng)
                atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        ended = (
            relax(potential, list(walkers.values()), fmax=FMAX, steps=relax_steps)
            if relax_steps and walkers
            else []
        )
        failures = {k: one.failure for k, one in zip(walkers, ended, strict=False)}
        met += [Met(walker=k, atoms=atoms, failure=failures.get(k)) for k, atoms in walkers.items()]
        walkers = {k: one.atoms for k, one in zip(walkers, ended, strict=False) if one.failure is None}
        met += [Met(walker=k, atoms=atoms) for k, atoms in walkers.items()]
    return met


def excursions(
    potential: Potential,
    starts: Sequence[Atoms],
    number: int,
    rattle: float,
    relax_steps: int,
    rng: np.random.Generator,
) -> list[Atoms]:
    """`number` structures without anything else, met by walkers from starts drawn at random (see `walk`)."""
    found: list[Atoms] = []
    while len(found) < number:
        drawn = [starts[int(rng.integers(len(starts)))] for _ in range(number - len(found))]
        if relax_steps:
            drawn = drawn[: -(-len(drawn) // (2 * REPEATS))]
        found += [one.atoms for one in walk(potential, drawn, rattle, relax_steps, rng)]
    return found[:number]
