"""Density functional theory with CP2K (Kühne et al., J. Chem. Phys. 152, 194103), through ASE's adapter."""

import contextlib
import re
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ase import Atoms, units
from ase.calculators.cp2k import CP2K
from pydantic import Field, model_validator

from models.datasets import DataError
from models.reference.base import LocalCalculator, NotConverged, Result, Unavailable, answer

TEMPLATE = """
&FORCE_EVAL
  &DFT
    &QS
      EPS_DEFAULT 1.0E-12
    &END QS
    &SCF
      EPS_SCF 1.0E-6
    &END SCF
  &END DFT
&END FORCE_EVAL
"""


class Cp2k(LocalCalculator):
    """Liquids and large cells in Gaussians and plane waves, at the Γ point unless `template` differs."""

    kind: Literal["cp2k"] = "cp2k"
    xc: str = Field("PBE", min_length=1)
    basis_set: str = "DZVP-MOLOPT-SR-GTH"
    basis_set_file: str = "BASIS_MOLOPT"
    potential: str = "GTH-PBE"
    potential_file: str = "GTH_POTENTIALS"
    cutoff: float = Field(600.0, gt=0, description="of the finest grid, Ry; sodium needs 600")
    max_iterations: int = Field(100, ge=1)
    template: str = Field(TEMPLATE, description="CP2K input that the above is added to")
    template_level: str = Field("", description="what another template does to the level of theory, as D3")
    run: str = Field("cp2k_shell", min_length=1, description="the command that starts the CP2K shell")

    @model_validator(mode="after")
    def _named(self) -> "Cp2k":
        if (self.template != TEMPLATE) != bool(self.template_level):
            raise ValueError(
                "template_level says what another template does to the level: give both, or neither"
            )
        return self

    @property
    def level_of_theory(self) -> str:
        """Functional, basis and potential, grid, and what the template adds."""
        name = f"{self.xc}/{self.basis_set}/{self.potential} {self.cutoff:g} Ry (CP2K)"
        return f"{name} {self.template_level}".strip()

    def programs(self) -> Sequence[str]:
        """The program of the command."""
        return (shlex.split(self.run)[0],)

    def version(self) -> str:
        """What the program says of itself; raises Unavailable."""
        (program,) = self.programs()
        if shutil.which(program) is None:
            raise Unavailable(
                f"{program!r} is not there to be run. Install CP2K (Debian: apt-get install cp2k)"
            )
        line = ["cp2k" if program == "cp2k_shell" else program, "--version"]
        printed = subprocess.run(line, capture_output=True, text=True, check=False).stdout
        found = re.search(r"CP2K version (\S+)", printed)
        return found.group(1) if found else ""

    def suit(self, atoms: Atoms) -> None:
        """Raise DataError where the structure is not periodic."""
        super().suit(atoms)
        if not atoms.pbc.all():
            raise DataError("not periodic in three directions; use pyscf, or give it a cell")

    def compute(self, atoms: Atoms, charge: int, multiplicity: int, work: Path) -> Result:
        """See `LocalCalculator.compute`."""
        output, log = work / "cp2k.out", work / "log.txt"
        output.unlink(missing_ok=True)  # of an earlier try
        result, crash = None, None
        try:
            with self._shell(charge, multiplicity, work) as atoms.calc:
                result = answer(atoms)
        except Exception as error:  # ASE's adapter stumbles over the silence of a shell that has gone
            crash = error
        printed = output.read_text(encoding="utf-8", errors="replace") if output.exists() else str(crash)
        log.write_text(printed, encoding="utf-8")
        if "SCF run NOT converged" in printed:
            raise NotConverged(f"no self-consistent density after {self.max_iterations} iterations")
        if result is None:
            raise RuntimeError(f"CP2K has stopped:\n{printed[-2000:]}") from crash
        steps = re.findall(r"SCF run converged in +(\d+) steps", printed)
        return replace(result, convergence={"iterations": sum(map(int, steps))})

    @contextlib.contextmanager
    def _shell(self, charge: int, multiplicity: int, work: Path) -> Iterator[CP2K]:
        calculator = CP2K(
            # CP2K cuts names of files off at 80 characters: it is started in its folder. ASE gives the line
            # to a shell, which is to see words in it and nothing else.
            command=f"cd {shlex.quote(str(work.resolve()))} && exec {shlex.join(shlex.split(self.run))}",
            label="cp2k",
            xc=self.xc,
            basis_set=self.basis_set,
            basis_set_file=self.basis_set_file,
            pseudo_potential=self.potential,
            potential_file=self.potential_file,
            cutoff=self.cutoff * units.Rydberg,
            max_scf=self.max_iterations,
            inp=self.template,
            charge=charge,
            multiplicity=multiplicity,
            uks=multiplicity > 1,
            print_level="MEDIUM",
        )
        try:
            yield calculator
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a shell which has crashed did not close by itself
                calculator.close()
