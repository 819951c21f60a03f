"""Random structures of the compositions of the starts, relaxed a little."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from pydantic import Field
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from models.dynamics.relax import relax
from models.exploration.base import Explorer, Scene
from models.systems.packing import pack
from models.systems.random_crystals import random_crystal

PART = 8  # structures that are relaxed together
FMAX = 0.05  # eV/Å
BONDED = 1.25  # times the sum of the covalent radii
CLOSEST = {True: 1.9, False: 1.2}  # Å, between molecules that are packed, and between single atoms
_CATIONS = (3, 4, 11, 12, 19, 20, 37, 38, 55, 56)  # their bonds to others are ionic


class RandomSearch(Explorer):
    """Random structure search (Pickard & Needs, J. Phys.: Condens. Matter 23, 053201, 2011), cut short.

    Of a crystal, atoms in random cells of its composition. Of a cluster, its molecules and ions, found by
    their bonds, packed at random into a droplet; of a single molecule, its atoms. Each structure is
    kept as it was drawn, half relaxed and relaxed.
    """

    kind: Literal["random_search"] = "random_search"
    structures: int = Field(16, ge=1)
    most_atoms: int = Field(16, ge=2, description="of a crystal's cell, as far as one formula unit allows")
    relax_steps: int = Field(30, ge=2)
    pressure: float = Field(0.0, description="GPa, at which cells are relaxed")

    def explore(self, scene: Scene) -> list[Atoms]:
        """Structures in groups that are relaxed together."""
        found: list[Atoms] = []
        for first in range(0, self.structures, PART):
            numbers = range(first, min(first + PART, self.structures))
            found += scene.once(str(first), partial(self._search, scene, numbers))
        return found

    def _search(self, scene: Scene, numbers: range) -> list[Atoms]:
        drawn: dict[int, tuple[Atoms, Atoms]] = {}
        for number in numbers:
            rng = scene.rng(number)
            start = scene.starts[int(rng.integers(len(scene.starts)))]
            drawn[number] = start, self._drawn(start, rng)
        found = []
        for periodic in (True, False):
            group = {n: pair for n, pair in drawn.items() if pair[0].pbc.all() == periodic}
            stages = self._stages(scene, [atoms for _, atoms in group.values()], periodic)
            for (number, (start, _)), met in zip(group.items(), stages, strict=True):
                walker = f"{scene.name}-{start.get_chemical_formula()}-{number}"
                found += [_composed(start, atoms, walker) for atoms in met]
        return sorted(found, key=lambda atoms: int(atoms.info["walker"].rpartition("-")[2]))

    def _drawn(self, start: Atoms, rng: np.random.Generator) -> Atoms:
        if start.pbc.all():
            return random_crystal(self._formula(start, rng), rng)
        parts = fragments(start)
        molecules = len(parts) > 1
        if not molecules:
            parts = [start[[k]] for k in range(len(start))]
        return pack([parts[k] for k in rng.permutation(len(parts))], rng, closest=CLOSEST[molecules])

    def _formula(self, start: Atoms, rng: np.random.Generator) -> str:
        counts = start.symbols.formula.count()
        unit = int(np.gcd.reduce(list(counts.values())))
        times = int(rng.integers(1, max(1, self.most_atoms * unit // len(start)) + 1))
        if start.info.get("charge"):
            times = unit  # a charge belongs to the whole of the cell
        return "".join(f"{symbol}{times * count // unit}" for symbol, count in counts.items())

    def _stages(self, scene: Scene, structures: Sequence[Atoms], periodic: bool) -> list[list[Atoms]]:
        """Of every structure: as it is, half relaxed, relaxed, as far as the potential goes."""
        met = [[atoms] for atoms in structures]
        going = list(met)
        for steps in (self.relax_steps // 2, self.relax_steps - self.relax_steps // 2):
            if not going:
                break
            ended = relax(
                scene.potential,
                [stages[-1] for stages in going],
                fmax=FMAX,
                steps=steps,
                pressure=self.pressure if periodic else None,
            )
            for stages, one in zip(going, ended, strict=True):
                if not np.array_equal(one.atoms.positions, stages[-1].positions):
                    stages.append(one.atoms)
                if one.failure is not None:
                    stages[-1].info["failure"] = one.failure
            going = [s for s, one in zip(going, ended, strict=True) if one.failure is None]
        return met


def fragments(atoms: Atoms) -> list[Atoms]:
    """The molecules and ions of a cluster, by its covalent bonds."""
    radii = covalent_radii[atoms.numbers]
    bonded = cdist(atoms.positions, atoms.positions) < BONDED * (radii[:, None] + radii[None])
    cation = np.isin(atoms.numbers, _CATIONS)
    bonded &= ~(cation[:, None] | cation[None])
    number, label = connected_components(bonded, directed=False)
    return [atoms[label == k] for k in range(number)]


def _composed(start: Atoms, atoms: Atoms, walker: str) -> Atoms:
    """A structure of the start's elements; charge and multiplicity belong to the same number of atoms."""
    atoms.info |= {"walker": walker} | (start.info if len(atoms) == len(start) else {})
    return atoms
