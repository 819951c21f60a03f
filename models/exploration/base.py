"""What every explorer is: a small frozen value that looks for structures on a potential's surface."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from pydantic import BaseModel, ConfigDict

from models.datasets import write_structures
from models.graphs import Prediction, graphs, predict
from models.potentials import Potential
from models.systems.random_crystals import contact
from models.uncertainty import Estimate, Estimator

Told = Callable[[dict[str, Any]], None]

CLOSEST = 0.5  # of the sum of two covalent radii; atoms that are closer lie on top of each other
_INFO = ("charge", "multiplicity")
_ARRAYS = ("initial_magmoms", "initial_charges")


def bare(atoms: Atoms) -> Atoms:
    """A copy with its geometry and what its label would depend on beside that, and nothing else."""
    copied = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    copied.info = {key: atoms.info[key] for key in _INFO if key in atoms.info}
    for key in _ARRAYS:
        if key in atoms.arrays:
            copied.set_array(key, atoms.arrays[key])
    return copied


def alike(start: Atoms, positions: Atoms, **info: Any) -> Atoms:
    """The geometry of `positions` with all else of `start`, and more info."""
    frame = bare(start)
    frame.set_cell(positions.cell)
    frame.positions = positions.positions
    frame.info |= info
    return frame


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Where an explorer explores.

    Attributes:
        name: of the explorer; no other in the same pool has it.
        potential: on whose surface.
        starts: structures of more than one atom, without labels.
        uncertainty: of the potential, where there is one.
        seed: numbers from which all draws follow, no other explorer's.
        work: the folder where everything is written down.
        report: is told of every part and, in between, how far it is.
    """

    name: str
    potential: Potential
    starts: Sequence[Atoms]
    uncertainty: Estimator | None
    seed: Sequence[int]
    work: Path
    report: Told | None

    def estimator(self) -> Estimator | None:
        """A fresh copy: one that has been asked before may round differently."""
        return copy.deepcopy(self.uncertainty)

    def rng(self, *numbers: int) -> np.random.Generator:
        """A generator of its own for whatever has these numbers."""
        return np.random.default_rng([*self.seed, *numbers])

    def tell(self, **message: Any) -> None:
        """Let whoever waits know."""
        if self.report is not None:
            self.report({"explorer": self.name, **message})

    def once(self, part: str, find: Callable[[], Iterable[Atoms]]) -> list[Atoms]:
        """The sound structures that `find` finds, as they are written down; found once, whoever asks again.

        Each needs the info `walker`. Sound are those at which the potential has finite values and no two
        atoms lie on top of each other. They get the info `explorer` and, where there is one, the uncertainty.
        """
        path = self.work / f"{self.name}-{part}.extxyz"
        if not path.exists():
            frames = self._rated([atoms for atoms in find() if _apart(atoms)])
            temporary = path.with_suffix(".tmp")
            write_structures(temporary, frames)
            temporary.replace(path)
        # What comes is always read, so that it has the same digits whether somebody was here before or not.
        found = _read(path)
        self.tell(part=part, frames=len(found))
        return found

    def _rated(self, frames: Sequence[Atoms]) -> list[Atoms]:
        """Those at which the potential has finite values, with their uncertainty."""
        rated = []
        estimator = self.estimator()
        said: Sequence[Prediction | Estimate] = (
            predict(self.potential, graphs(frames, self.potential))
            if estimator is None
            else estimator.estimate(frames)
        )
        for frame, one in zip(frames, said, strict=True):
            if not (np.isfinite(one.energy) and np.isfinite(one.forces).all()):
                continue
            frame.info["explorer"] = self.name
            if isinstance(one, Estimate):
                frame.info["uncertainty"] = one.largest
                frame.set_array("uncertainty", one.atoms)
            rated.append(frame)
        return rated


class Explorer(BaseModel, ABC):
    """One way to meet structures; subclasses differ in `kind`, which is what they are called in YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str

    @abstractmethod
    def explore(self, scene: Scene) -> list[Atoms]:
        """All frames found, part by part through `Scene.once`; none where there is nothing for it to do."""


def _apart(atoms: Atoms) -> bool:
    return bool(np.isfinite(atoms.positions).all()) and contact(atoms) >= CLOSEST


def _read(path: Path) -> list[Atoms]:
    frames = read(path, index=":", format="extxyz") if path.stat().st_size else []
    return frames if isinstance(frames, list) else [frames]
