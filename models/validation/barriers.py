"""Barriers of reactions: the nudged elastic band of the potential against the reference's path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import find_mic
from ase.mep import NEB
from ase.mep.neb import idpp_interpolate
from ase.optimize import FIRE
from pydantic import Field

from models.datasets import DataError
from models.dynamics.relax import Relaxed, relax
from models.graphs import graphs, predict
from models.potentials import Potential
from models.validation.base import (
    Check,
    Figure,
    Finding,
    Line,
    Number,
    Plot,
    Quantity,
    Role,
    Subject,
    Table,
    figure,
    shown,
)

SPRING = 1.0  # eV/Å²
LOST = 0.5  # of the way from one end to the other: an end that moves as far is another one
MOST_PLOTS = 8


class Barriers(Check):
    """The climbing-image band (J. Chem. Phys. 113, 9901, 2000) between minima, with the reference's images.

    Frames of one `info["path"]`, ordered by `info["image"]` and with `REF_energy`, are a path at the
    reference's level; its ends are minima. The potential relaxes the ends and then the band, which starts
    from the reference's images or is interpolated.
    """

    title: ClassVar[str] = "Barriers"
    explanation: ClassVar[str] = (
        "Paths from minimum to minimum over the transition state. The barrier is counted from the first "
        "minimum: of a gas-phase substitution that is the complex of ion and molecule."
    )
    needs: ClassVar[tuple[Role, ...]] = ("paths",)
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "barrier": Quantity(words="error of the barrier", unit="meV", better="lower", paired=True),
        "reaction_energy": Quantity(
            words="error of the energy of reaction", unit="meV", better="lower", paired=True
        ),
        "failures": Quantity(words="paths that do not converge", unit="%", better="lower", paired=True),
    }

    kind: Literal["barriers"] = "barriers"
    version: ClassVar[int] = 2
    start: Literal["reference", "idpp"] = Field("reference", description="of the images between the ends")
    fmax: float = Field(0.05, gt=0, description="eV/Å, of the band; the ends are relaxed to a fifth of it")
    steps: int = Field(150, ge=1, description="most steps of a band, and of its ends")

    def measure(self, subject: Subject) -> Finding:
        """Measure every path. Raises DataError where the file has no name, order or energies of images."""
        references = _paths(subject.files["paths"], subject.structures("paths"))
        known = {n: band for n, band in references.items() if subject.knows(band[0])}
        notes = [f"{n} left out: it does not know all its elements." for n in references if n not in known]
        if not known:
            return self.unmeasured(*notes)
        potential = subject.fast
        paths = [self._path(potential, name, band) for name, band in known.items()]
        errors = {path.name: path.errors for path in paths}
        worst = max(paths, key=lambda path: np.nan_to_num(path.errors[0], nan=np.inf))
        return Finding(
            figures={
                "barrier": _mean({name: barrier for name, (barrier, _) in errors.items()}),
                "reaction_energy": _mean({name: reaction for name, (_, reaction) in errors.items()}),
                "failures": _mean({p.name: 0.0 if p.failure is None else 100.0 for p in paths}),
            },
            plots=[path.plot() for path in paths[:MOST_PLOTS]],
            tables=[Table(title="Paths", columns=_COLUMNS, rows=[path.row() for path in paths])],
            structures=[
                shown(
                    worst.images[worst.highest],
                    f"Highest image of {worst.name}",
                    "Of the path with the largest error of the barrier.",
                )
            ],
            notes=[*notes, *(f"{p.name}: {p.failure}." for p in paths if p.failure is not None)],
        )

    def _path(self, potential: Potential, name: str, reference: Sequence[Atoms]) -> "_Path":
        ends = relax(potential, [reference[0], reference[-1]], fmax=0.2 * self.fmax, steps=self.steps)
        images = [ends[0].atoms, *(_bare(atoms) for atoms in reference[1:-1]), ends[1].atoms]
        failure = _lost_end(ends, reference)
        steps = 0
        if failure is None:
            band = Band(images, potential)
            with FIRE(band, logfile=None) as optimiser:
                try:
                    if self.start == "idpp":
                        band.interpolate("idpp", mic=bool(images[0].pbc.any()))
                    if not optimiser.run(fmax=self.fmax, steps=self.steps):
                        failure = f"not converged after {self.steps} steps"
                except FloatingPointError as error:
                    failure = str(error)
            steps = optimiser.nsteps
        on_reference = _energies(potential, reference)
        return _Path(
            name=name,
            reference=reference,
            images=reference if failure else images,
            energies=on_reference if failure else _energies(potential, images),
            on_reference=on_reference,
            steps=steps,
            failure=failure,
        )


class Band(NEB):
    """A band whose images are evaluated together, at rest as a whole where they are free in space."""

    def __init__(self, images: Sequence[Atoms], potential: Potential) -> None:
        super().__init__(images, k=SPRING, climb=True, method="improvedtangent")
        self._potential = potential

    def interpolate(
        self, method: str = "linear", mic: bool = False, apply_constraint: bool | None = None
    ) -> None:
        """As ASE's, between ends that lie on each other as well as they can."""
        self._align()
        super().interpolate("linear", mic, apply_constraint)
        if method == "idpp":
            # Not of the band itself, whose forces are always those of the potential.
            plain = NEB(self.images, method=self.method)
            idpp_interpolate(plain, traj=None, log=None, mic=mic)

    def get_forces(self) -> np.ndarray:
        """Forces on the images between the ends; raises FloatingPointError where one is not finite."""
        self._align()
        found = predict(self._potential, graphs(self.images, self._potential))
        for image, p in zip(self.images, found, strict=True):
            if not (np.isfinite(p.energy) and np.isfinite(p.forces).all()):
                raise FloatingPointError("the energy or a force of an image is not finite")
            image.calc = SinglePointCalculator(image, energy=p.energy, forces=p.forces)
        return np.asarray(super().get_forces())

    def _align(self) -> None:
        if not self.images[0].pbc.any():
            for before, image in pairwise(self.images):
                minimize_rotation_and_translation(before, image)


def _lost_end(ends: Sequence[Relaxed], reference: Sequence[Atoms]) -> str | None:
    """Why a path cannot be looked for between these ends, where that is so."""
    apart = distance(reference[0], reference[-1])
    for end, atoms in zip(ends, (reference[0], reference[-1]), strict=True):
        if end.failure is not None:
            return f"an end does not relax, {end.failure}"
        if distance(atoms, end.atoms) > LOST * apart:
            return "an end relaxes to another minimum"
    return None


def distance(a: Atoms, b: Atoms) -> float:
    """Length of the displacement of all atoms, Å; of molecules with the least rotation and translation."""
    moved = _bare(b)
    if not a.pbc.any():
        minimize_rotation_and_translation(a, moved)
    return float(np.linalg.norm(find_mic(moved.positions - a.positions, a.cell, a.pbc)[0]))


_COLUMNS = (
    "path",
    "barrier, eV",
    "reference",
    "on the reference's path",
    "energy of reaction, eV",
    "reference",
    "steps",
)


@dataclass(frozen=True, kw_only=True)
class _Path:
    """A band of the potential, beside the reference's; energies in eV, NaN where there are none."""

    name: str
    reference: Sequence[Atoms]
    images: Sequence[Atoms]
    energies: np.ndarray
    on_reference: np.ndarray
    steps: int
    failure: str | None

    @property
    def _labels(self) -> np.ndarray:
        return np.array([float(atoms.info["REF_energy"]) for atoms in self.reference])

    @property
    def highest(self) -> int:
        """The image of the highest energy."""
        return int(np.argmax(self.energies))

    @property
    def errors(self) -> tuple[float, float]:
        """Of the barrier and of the energy of reaction, meV."""
        barrier = abs(_barrier(self.energies) - _barrier(self._labels))
        return 1e3 * barrier, 1e3 * abs(_reaction(self.energies) - _reaction(self._labels))

    def row(self) -> tuple[str | Number, ...]:
        numbers = (
            _barrier(self.energies),
            _barrier(self._labels),
            _barrier(self.on_reference),
            _reaction(self.energies),
            _reaction(self._labels),
        )
        return self.name, *(n if np.isfinite(n) else None for n in numbers), float(self.steps)

    def plot(self) -> Plot:
        return Plot(
            title=self.name,
            x_label="share of the way",
            y_label="energy above the first minimum, eV",
            lines=[
                Line(x=_way(self.images), y=_above_first(self.energies)),
                Line(x=_way(self.reference), y=_above_first(self._labels), name="reference"),
            ],
        )


def _barrier(energies: np.ndarray) -> float:
    return float(energies.max() - energies[0])


def _reaction(energies: np.ndarray) -> float:
    return float(energies[-1] - energies[0])


def _above_first(energies: np.ndarray) -> list[Number]:
    return [float(e) if np.isfinite(e) else None for e in energies - energies[0]]


def _way(images: Sequence[Atoms]) -> list[float]:
    """How far along the path each image lies, from 0 to 1, by the displacements of all atoms."""
    way = np.append(0.0, np.cumsum([distance(a, b) for a, b in pairwise(images)]))
    return [float(s) for s in way / max(way[-1], np.finfo(float).tiny)]


def _energies(potential: Potential, images: Sequence[Atoms]) -> np.ndarray:
    return np.array([p.energy for p in predict(potential, graphs(images, potential))])


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def _mean(values: Mapping[str, float]) -> Figure:
    if not np.isfinite(list(values.values())).all():
        return Figure(value=None)
    return figure({name: (value, 1.0) for name, value in values.items()})


def _paths(path: Path, frames: Sequence[Atoms]) -> dict[str, list[Atoms]]:
    """Images in their order, by path."""
    groups: dict[str, dict[int, Atoms]] = {}
    for index, atoms in enumerate(frames):
        where = f"{path}, frame {index}"
        for key in ("path", "image", "REF_energy"):
            if key not in atoms.info:
                raise DataError(f"{where}: has no info {key!r}")
        if not np.isfinite(float(atoms.info["REF_energy"])):
            raise DataError(f"{where}: REF_energy is not finite")
        group = groups.setdefault(str(atoms.info["path"]), {})
        if int(atoms.info["image"]) in group:
            raise DataError(f"{where}: image {atoms.info['image']} of {atoms.info['path']} comes twice")
        group[int(atoms.info["image"])] = atoms
    ordered = {name: [group[k] for k in sorted(group)] for name, group in groups.items()}
    for name, images in ordered.items():
        if len(images) < 3:
            raise DataError(f"{path}, path {name}: {len(images)} images; a path needs three and more")
        if any(not np.array_equal(atoms.numbers, images[0].numbers) for atoms in images):
            raise DataError(f"{path}, path {name}: its images differ in their atoms or their order")
    return ordered
