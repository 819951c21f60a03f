"""Structures on the way from one start to another of the same atoms."""

from collections.abc import Sequence
from functools import partial
from itertools import combinations, islice
from typing import Literal

from ase import Atoms
from ase.optimize import FIRE
from pydantic import Field

from models.exploration.base import Explorer, Scene, alike
from models.validation.barriers import Band, distance

FMAX = 0.05  # eV/Å
NEAR = 0.5  # Å, of the displacement of all atoms; between starts that are nearer there is no way
MOST_STARTS = 100  # of which pairs are drawn


class ReactionPaths(Explorer):
    """Paths between pairs of starts, interpolated (IDPP) and relaxed a little as a nudged elastic band.

    For molecules and clusters whose atoms come in the same order; the ends stay what they are.
    """

    kind: Literal["reaction_paths"] = "reaction_paths"
    pairs: int = Field(4, ge=1, description="of starts, drawn at random")
    images: int = Field(7, ge=1, description="between the ends")
    relax_steps: int = Field(10, ge=1)

    def explore(self, scene: Scene) -> list[Atoms]:
        """Path by path."""
        pairs = self._pairs(scene)
        if not pairs:
            scene.tell(note="no two starts are molecules of the same atoms in the same order")
        return [
            atoms
            for number, ends in enumerate(pairs)
            for atoms in scene.once(str(number), partial(self._path, scene, number, ends))
        ]

    def _pairs(self, scene: Scene) -> list[tuple[Atoms, Atoms]]:
        """Different starts of the same atoms, charge and multiplicity."""
        kinds: dict[object, list[Atoms]] = {}
        rng = scene.rng()
        for index in rng.permutation(len(scene.starts))[:MOST_STARTS]:
            start = scene.starts[index]
            if not start.pbc.any():
                kinds.setdefault((start.numbers.tobytes(), *sorted(start.info.items())), []).append(start)
        possible = [pair for group in kinds.values() for pair in combinations(group, 2)]
        apart = (possible[k] for k in rng.permutation(len(possible)) if distance(*possible[k]) > NEAR)
        return list(islice(apart, self.pairs))

    def _path(self, scene: Scene, number: int, ends: Sequence[Atoms]) -> list[Atoms]:
        first, last = ends
        images = [first.copy() for _ in range(self.images + 1)] + [last.copy()]
        walker = f"{scene.name}-{first.get_chemical_formula()}-{number}"
        band = Band(images, scene.potential)
        band.interpolate("idpp")
        found = [alike(first, image, walker=walker) for image in images[1:-1]]
        with FIRE(band, logfile=None) as optimiser:
            try:
                optimiser.run(fmax=FMAX, steps=self.relax_steps)
            except FloatingPointError as error:
                found[-1].info["failure"] = str(error)
                return found
        return found + [alike(first, image, walker=walker) for image in images[1:-1]]
