"""GFN1- and GFN2-xTB labels through tblite (Bannwarth et al., WIREs Comput. Mol. Sci. 11, e1493)."""

import contextlib
import os
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, Calculator
from pydantic import Field

from models.datasets import DataError
from models.reference.base import (
    LocalCalculator,
    NotConverged,
    Result,
    answer,
    charge_and_multiplicity,
    labelled_copy,
)

Method = Literal["GFN1-xTB", "GFN2-xTB"]

# Unpaired electrons of the free atoms, for the isolated-atom energies (E0s).
GROUND_STATE_MULTIPLICITY = {
    "H": 2, "Li": 2, "C": 3, "N": 4, "O": 3, "F": 2, "Na": 2, "P": 4, "S": 3, "Cl": 2, "Br": 2,
}  # fmt: skip


class Tblite(LocalCalculator):
    """Semi-empirical labels: molecules, clusters and large cells in fractions of a second to seconds.

    tblite knows no k-points: the energy per atom of a small cell is off by as much as 0.5 eV, and another
    in every cell. Cells that are narrower than `least_width` are refused, and a dataset should keep to one
    size of cell for each crystal.
    """

    kind: Literal["tblite"] = "tblite"
    method: Method = "GFN2-xTB"
    accuracy: float = Field(0.1, gt=0, description="tblite's scale of its thresholds; smaller is tighter")
    electronic_temperature: float = Field(300.0, gt=0, description="K")
    max_iterations: int = Field(250, ge=1)
    least_width: float = Field(6.0, ge=0, description="of a periodic cell in each direction, Å")

    @property
    def level_of_theory(self) -> str:
        """The name of the Hamiltonian."""
        return self.method

    def version(self) -> str:
        """Version of the tblite package."""
        return metadata.version("tblite")

    def suit(self, atoms: Atoms) -> None:
        """Raise DataError where a cell is periodic in some directions only, or narrow, or charged."""
        charge, _ = charge_and_multiplicity(atoms)
        if not atoms.pbc.any():
            return
        if not atoms.pbc.all():
            raise DataError("periodic in some directions only; tblite needs all three or none")
        if charge:
            raise DataError(f"a periodic cell of charge {charge} has no finite energy in tblite")
        width = 1.0 / np.linalg.norm(atoms.cell.reciprocal(), axis=1).max()
        if width < self.least_width:
            raise DataError(
                f"its cell is only {width:.2f} Å wide (least_width: {self.least_width:g} Å) and tblite knows "
                "no k-points; label a supercell of it, or use gpaw"
            )

    def calculator(self, charge: int = 0, multiplicity: int = 1, *, verbosity: int = 0) -> Calculator:
        """An ASE calculator for one structure; energies in eV, forces in eV/Å.

        Charge and multiplicity are passed here because tblite does not read `atoms.info`.
        """
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        from tblite.ase import TBLite

        return TBLite(
            method=self.method,
            charge=charge,
            multiplicity=multiplicity,
            accuracy=self.accuracy,
            electronic_temperature=self.electronic_temperature,
            max_iterations=self.max_iterations,
            verbosity=verbosity,
        )

    def compute(self, atoms: Atoms, charge: int, multiplicity: int, work: Path) -> Result:
        """See `LocalCalculator.compute`."""
        atoms.calc = self.calculator(charge, multiplicity, verbosity=1)
        log = work / "log.txt"
        try:
            with log.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
                result = answer(atoms)
        except CalculationFailed as error:
            if "not converged" in str(error):
                raise NotConverged(str(error)) from None
            raise
        cycles = re.findall(r"^ +(\d+) +-?\d+\.\d+ ", log.read_text(encoding="utf-8"), re.MULTILINE)
        return replace(result, convergence={"iterations": int(cycles[-1])})


def calculator(method: Method, *, charge: int = 0, multiplicity: int = 1) -> Calculator:
    """An ASE calculator of the shipped labels' settings (see `Tblite.calculator`)."""
    return Tblite(method=method).calculator(charge, multiplicity)


def isolated_atom(symbol: str, method: Method) -> Atoms:
    """The neutral free atom in its ground-state multiplicity, labelled with its energy (eV)."""
    atom = Atoms(symbol, positions=[[0.0, 0.0, 0.0]])
    multiplicity = GROUND_STATE_MULTIPLICITY[symbol]
    atom.calc = calculator(method, multiplicity=multiplicity)
    labelled = labelled_copy(atom)
    labelled.info |= {"config_type": "IsolatedAtom", "multiplicity": multiplicity}
    return labelled


def relabelled(frame: Atoms, method: Method) -> Atoms:
    """`frame` labelled afresh at another level of theory, charge and multiplicity kept."""
    charge, multiplicity = charge_and_multiplicity(frame)
    fresh = frame.copy()
    fresh.calc = calculator(method, charge=charge, multiplicity=multiplicity)
    return labelled_copy(fresh)
