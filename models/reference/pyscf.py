"""Molecular quantum chemistry with PySCF (Sun et al., J. Chem. Phys. 153, 024109)."""

import os
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ase import Atoms, units
from pydantic import Field, model_validator

from models.datasets import DataError
from models.reference.base import (
    LocalCalculator,
    NotConverged,
    Result,
    charge_and_multiplicity,
    package,
)

INSTALL = "pip install pyscf (a dispersion correction also needs pyscf-dispersion)"
WAVE_FUNCTIONS = ("hf", "mp2")
LIGHT = 36  # beyond krypton the def2 bases come with core potentials


class Pyscf(LocalCalculator):
    """Molecules and ions. Crystals are refused: PySCF's forces in them did not add up to zero."""

    kind: Literal["pyscf"] = "pyscf"
    method: str = Field(
        "wb97m-d3bj",
        min_length=1,
        description="a functional as PySCF names it, with -d3bj or -d4 for a dispersion correction; hf; mp2",
    )
    # PySCF would take anything else for a file or for a basis written out, and evaluates Python in those.
    basis: str = Field("def2-tzvpd", pattern=r"^[A-Za-z0-9][A-Za-z0-9_+*(),^-]*$", description="by its name")
    density_fitting: bool = True
    grid: int = Field(4, ge=0, le=9, description="level of the integration grid; forces need 3 or more")
    energy_tolerance: float = Field(1e-8, gt=0, description="of the self-consistent field, eV")
    max_iterations: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _has_gradient(self) -> "Pyscf":
        if self.method.lower() == "mp2" and self.density_fitting:
            raise ValueError(
                "mp2: PySCF has forces of it without density fitting only; set density_fitting: false"
            )
        return self

    @property
    def level_of_theory(self) -> str:
        """Method and basis; density fitting shifts energies, and belongs to it."""
        return f"{self.method}/{self.basis}" + (" (density fitting)" if self.density_fitting else "")

    def version(self) -> str:
        """Version of PySCF, and of its dispersion corrections where they are used; raises Unavailable."""
        version = str(package("pyscf", INSTALL).__version__)
        if "-d3" in self.method.lower() or "-d4" in self.method.lower():
            package("pyscf.dispersion", INSTALL)
            version += f", dispersion {metadata.version('pyscf-dispersion')}"
        return version

    def suit(self, atoms: Atoms) -> None:
        """Raise DataError where the structure is periodic, or PySCF does not know the method or basis."""
        charge, multiplicity = charge_and_multiplicity(atoms)
        if atoms.pbc.any():
            raise DataError("is periodic; pyscf labels molecules. Use gpaw or cp2k")
        try:
            self._field(self._molecule(atoms, charge, multiplicity, None))
        except (KeyError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"PySCF cannot do {self.method}/{self.basis} ({error})") from None

    def compute(self, atoms: Atoms, charge: int, multiplicity: int, work: Path) -> Result:
        """See `LocalCalculator.compute`."""
        with (work / "log.txt").open("w", encoding="utf-8") as log:
            field = self._field(self._molecule(atoms, charge, multiplicity, log))
            field.kernel()
            if not field.converged:
                raise NotConverged(f"no self-consistent field after {self.max_iterations} iterations")
            solved = field
            if self.method.lower() == "mp2":
                solved = package("pyscf.mp", INSTALL).MP2(field).run()
            gradient = solved.nuc_grad_method().kernel()
        return Result(
            energy=float(solved.e_tot) * units.Hartree,
            forces=-gradient * units.Hartree / units.Bohr,
            convergence={"iterations": int(field.cycles)},
        )

    def _molecule(self, atoms: Atoms, charge: int, multiplicity: int, log: Any) -> Any:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        molecule = package("pyscf.gto", INSTALL).Mole()
        molecule.stdout, molecule.verbose = log, 0 if log is None else 4
        return molecule.build(
            dump_input=False,
            parse_arg=False,  # it would read the command line of whoever calls
            atom=[(atom.symbol, tuple(atom.position)) for atom in atoms],
            unit="Angstrom",
            basis=self.basis,
            ecp={atom.symbol: self.basis for atom in atoms if atom.number > LIGHT and "def2" in self.basis},
            charge=charge,
            spin=multiplicity - 1,
        )

    def _field(self, molecule: Any) -> Any:
        """The self-consistent field of a molecule, as yet unsolved."""
        if self.method.lower() in WAVE_FUNCTIONS:
            field = package("pyscf.scf", INSTALL).HF(molecule)
        else:
            field = package("pyscf.dft", INSTALL).KS(molecule, xc=self.method)
            field.grids.level = self.grid
            functional, *_ = package("pyscf.scf.dispersion", INSTALL).parse_dft(self.method)
            package("pyscf.dft.libxc", INSTALL).parse_xc(functional)
        field.conv_tol, field.max_cycle = self.energy_tolerance / units.Hartree, self.max_iterations
        return field.density_fit() if self.density_fitting else field
