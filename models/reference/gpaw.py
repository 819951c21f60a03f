"""Density functional theory in plane waves with GPAW (Mortensen et al., J. Chem. Phys. 160, 092503)."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from pydantic import Field, model_validator

from models.datasets import DataError
from models.reference.base import (
    LocalCalculator,
    NotConverged,
    Result,
    answer,
    charge_and_multiplicity,
    package,
)

INSTALL = "pip install gpaw gpaw-data (it is compiled: needs a C compiler, libxc, BLAS and FFTW)"


class Gpaw(LocalCalculator):
    """Crystals and liquids at a real level of theory, with stress and magnetic moments; on one core."""

    kind: Literal["gpaw"] = "gpaw"
    xc: str = Field("PBE", pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]*$")
    cutoff: float = Field(400.0, gt=0, description="of the plane waves, eV")
    k_density: float = Field(2.0, gt=0, description="k-points per Å⁻¹ along each reciprocal vector, at least")
    k_points: tuple[int, int, int] | None = Field(
        None, description="numbers of k-points instead; a density is right for cells of all sizes"
    )
    smearing: float = Field(0.1, ge=0, description="width of the Fermi–Dirac distribution, eV")
    magnetic_moments: dict[str, float] = Field(
        {}, description="by element, Bohr magnetons to start from; with any, spins are treated and labelled"
    )
    density_tolerance: float = Field(1e-5, gt=0, description="electrons per valence electron")
    max_iterations: int = Field(200, ge=1)

    @model_validator(mode="after")
    def _positive(self) -> "Gpaw":
        if self.k_points is not None and min(self.k_points) < 1:
            raise ValueError("k_points: give three numbers of at least 1")
        return self

    @property
    def level_of_theory(self) -> str:
        """Functional and basis; k-points are settings, as they only have to be enough."""
        spin = ", spins" if self.magnetic_moments else ""
        return f"{self.xc}/PW {self.cutoff:g} eV (GPAW{spin})"

    def version(self) -> str:
        """Versions of GPAW and of its PAW data sets; raises Unavailable."""
        gpaw, data = package("gpaw", INSTALL), package("gpaw_data", INSTALL)
        return f"{gpaw.__version__}, data sets {data.__version__}"

    def suit(self, atoms: Atoms) -> None:
        """Raise DataError where the structure is not periodic, or has spins that are not treated."""
        _, multiplicity = charge_and_multiplicity(atoms)
        if not atoms.pbc.all():
            raise DataError(
                "not periodic; plane waves need a cell in three directions. Use pyscf, or give it one"
            )
        if multiplicity > 2 and not self.magnetic_moments:
            raise DataError(f"has multiplicity {multiplicity}; give magnetic_moments of its elements")

    def compute(self, atoms: Atoms, charge: int, multiplicity: int, work: Path) -> Result:
        """See `LocalCalculator.compute`. The energy is the free energy, whose gradient the forces are."""
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        gpaw = package("gpaw", INSTALL)
        if self.magnetic_moments:
            atoms.set_initial_magnetic_moments([self.magnetic_moments.get(s, 0.0) for s in atoms.symbols])
        atoms.calc = gpaw.GPAW(**self._parameters(charge), txt=str(work / "log.txt"))
        try:
            result = answer(atoms)
        except gpaw.KohnShamConvergenceError as error:
            reason = str(error) or f"no self-consistent density after {self.max_iterations} iterations"
            raise NotConverged(reason) from None
        iterations = int(atoms.calc.get_number_of_iterations())
        moments = np.asarray(atoms.get_magnetic_moments()) if self.magnetic_moments else None
        return replace(result, magmoms=moments, convergence={"iterations": iterations})

    def _parameters(self, charge: int) -> dict[str, Any]:
        k_points = {"density": self.k_density} if self.k_points is None else {"size": self.k_points}
        return {
            "mode": {"name": "pw", "ecut": self.cutoff},
            "xc": self.xc,
            "kpts": {**k_points, "gamma": True},
            "charge": charge,
            "occupations": {"name": "fermi-dirac", "width": self.smearing},
            "spinpol": bool(self.magnetic_moments),
            "convergence": {"density": self.density_tolerance},
            "maxiter": self.max_iterations,
        }
