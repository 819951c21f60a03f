"""What every reference calculator is: a small frozen value that labels one structure at a time."""

import contextlib
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from models.datasets import DataError, write_structures


class NotConverged(RuntimeError):
    """A calculation that ended without a self-consistent result; the message is the reason."""


class Unavailable(RuntimeError):
    """A program or package that is not installed; the message says what to install."""


class Limits(BaseModel):
    """What the labelling of one structure may cost, and how many may fail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = Field(3600.0, gt=0, description="wall-clock time of one label")
    memory_gb: float | None = Field(None, gt=0, description="of one label; none: no limit")
    retries: int = Field(1, ge=0, description="further tries of a label that crashed")
    max_failed_share: float = Field(0.5, ge=0, le=1, description="of the labels asked for")


class ReferenceCalculator(BaseModel, ABC):
    """One way to label structures; subclasses differ in `kind`, which is what they are called in YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str

    if TYPE_CHECKING:  # some kinds derive it, others are told: a property here would clash with their field

        @property
        def level_of_theory(self) -> str:
            """Method and basis: labels that differ in it are never mixed in one head."""

    @abstractmethod
    def version(self) -> str:
        """Version of the program that computes; raises Unavailable."""

    def programs(self) -> Sequence[str]:
        """What it starts: commands as they are spelled here, or a calculator's name where ASE starts them.

        A program does what its input says, which for many of them includes writing files and running others.
        So somebody has to allow each of these before any other method but this one is called.
        """
        return ()

    def settings(self) -> dict[str, JsonValue]:
        """What else decides the result, as JSON, for the record."""
        return self.model_dump(mode="json")

    def check(self, structures: Sequence[Atoms]) -> None:
        """Raise before anything runs where it could not: program missing, or an unsuitable structure.

        Raises Unavailable, or DataError naming the first structure that it cannot label and why.
        """
        self.version()
        for index, atoms in enumerate(structures):
            try:
                if not np.isfinite(atoms.positions).all():
                    raise DataError("a position is not finite")
                self.suit(atoms)
            except DataError as error:
                raise DataError(f"structure {index} ({atoms.get_chemical_formula()}): {error}") from None

    def suit(self, atoms: Atoms) -> None:
        """Raise DataError saying why this calculator cannot label `atoms`, where it cannot."""
        charge_and_multiplicity(atoms)

    @abstractmethod
    def label(self, atoms: Atoms, work: Path) -> Atoms:
        """A copy of `atoms` with its label: `REF_energy` eV, `REF_forces` eV/Å, `REF_stress` eV/Å³ (Voigt).

        Stress where the structure is periodic and the program has it, `REF_magmoms` (Bohr magnetons) where
        asked for. Info and arrays are kept, but for other labels and momenta; info `level_of_theory`, and
        `convergence` as JSON text. The program's inputs and `log.txt` are left in `work`.

        Raises NotConverged with the reason; any other exception is a crash.
        """


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a program answered: energy eV, forces (N, 3) eV/Å, stress (6,) eV/Å³, magnetic moments (N,) μB.

    `convergence` is JSON: how it is known that the result is self-consistent.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None
    magmoms: np.ndarray | None = None
    convergence: Mapping[str, Any] = field(default_factory=dict)


class LocalCalculator(ReferenceCalculator):
    """A calculator that runs here."""

    def label(self, atoms: Atoms, work: Path) -> Atoms:
        """See `ReferenceCalculator.label`."""
        self.check([atoms])
        work.mkdir(parents=True, exist_ok=True)
        charge, multiplicity = charge_and_multiplicity(atoms)
        plain = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        plain.info = {"charge": charge, "multiplicity": multiplicity}
        write_structures(work / "structure.extxyz", [plain])
        settings = {"level_of_theory": self.level_of_theory, "version": self.version(), **self.settings()}
        (work / "settings.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
        result = self.compute(plain, charge, multiplicity, work)
        labelled = _labelled(atoms, result)
        labelled.info["level_of_theory"] = self.level_of_theory
        labelled.info["convergence"] = json.dumps(dict(result.convergence), sort_keys=True)
        return labelled

    @abstractmethod
    def compute(self, atoms: Atoms, charge: int, multiplicity: int, work: Path) -> Result:
        """The label of `atoms`, which has nothing but its structure; for the rest see `label`."""


def package(name: str, install: str) -> Any:
    """The module of an optional package; raises Unavailable saying what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"{name} cannot be imported ({error}). Install it: {install}") from error


def charge_and_multiplicity(atoms: Atoms) -> tuple[int, int]:
    """Total charge and spin multiplicity: info `charge` and `multiplicity`, else 0 and the lowest (1 or 2).

    Raises DataError where they are no whole numbers, or do not go together.
    """
    charge = _whole(atoms, "charge", 0)
    electrons = int(atoms.numbers.sum()) - charge
    multiplicity = _whole(atoms, "multiplicity", electrons % 2 + 1)
    if not 1 <= multiplicity <= electrons + 1 or (multiplicity - 1 - electrons) % 2:
        raise DataError(f"{electrons} electrons (charge {charge}) cannot have multiplicity {multiplicity}")
    return charge, multiplicity


def _whole(atoms: Atoms, key: str, default: int) -> int:
    given = atoms.info.get(key, default)
    try:
        number = round(float(given))
        if number == float(given):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise DataError(f"info {key!r} is {given!r}, not a whole number")


def labelled_copy(atoms: Atoms) -> Atoms:
    """`atoms` without its calculator, with `REF_energy` (eV) and `REF_forces` (eV/Å) from it.

    Where it is periodic also `REF_stress` (eV/Å³).
    """
    return _labelled(atoms, answer(atoms))


def answer(atoms: Atoms, convergence: Mapping[str, Any] | None = None) -> Result:
    """What the ASE calculator of `atoms` says of it; stress where it is periodic and the calculator has it.

    The energy is the one whose gradient the forces are: with smeared electrons the free energy.
    """
    try:
        energy = float(atoms.get_potential_energy(force_consistent=True))
    except PropertyNotImplementedError:
        energy = float(atoms.get_potential_energy())
    forces = atoms.get_forces(apply_constraint=False)
    stress = None
    if atoms.pbc.all():
        with contextlib.suppress(PropertyNotImplementedError):
            stress = atoms.get_stress()
    return Result(energy=energy, forces=forces, stress=stress, convergence=convergence or {})


def _labelled(atoms: Atoms, result: Result) -> Atoms:
    """A copy of `atoms` with this label and no other; raises RuntimeError where it is not finite."""
    for numbers in (result.energy, result.forces, 0.0 if result.stress is None else result.stress):
        if not np.isfinite(numbers).all():
            raise RuntimeError("the calculator's energy, forces or stress are not finite numbers")
    labelled = atoms.copy()
    for store in (labelled.info, labelled.arrays):
        for key in [key for key in store if key.startswith("REF_")]:
            del store[key]
    labelled.info["REF_energy"] = float(result.energy)
    labelled.arrays["REF_forces"] = np.asarray(result.forces)
    if result.stress is not None:
        labelled.info["REF_stress"] = np.asarray(result.stress)
    if result.magmoms is not None:
        labelled.arrays["REF_magmoms"] = np.asarray(result.magmoms)
    labelled.arrays.pop("momenta", None)
    return labelled
