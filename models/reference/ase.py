"""Calculators that come with ASE, by name."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import ase
from ase import Atoms
from ase.calculators.calculator import (
    BadConfiguration,
    Calculator,
    SCFError,
    get_calculator_class,
)
from pydantic import Field, JsonValue, field_validator

from models.datasets import DataError
from models.reference.base import (
    LocalCalculator,
    NotConverged,
    Result,
    Unavailable,
    answer,
    charge_and_multiplicity,
)

Name = Literal[
    "emt", "lj", "morse", "abinit", "dftb", "espresso", "gaussian", "nwchem", "orca", "siesta", "vasp"
]  # fmt: skip

# What programs print of a field that is not self-consistent, where ASE does not look for it.
UNCONVERGED = {
    "abinit": r"was not enough SCF cycles to converge",
    "dftb": r"SCC is NOT converged",
    "espresso": r"convergence NOT achieved",
    "gaussian": r"Convergence failure",
    "nwchem": r"[Cc]alculation failed to converge",
    "orca": r"SCF NOT CONVERGED",
    "siesta": r"SCF_NOT_CONV",
}
LARGEST = 50_000_000  # bytes; a larger file is not a log
TAIL = 100_000  # characters of each file that are kept as the log
IN_PROCESS = ("emt", "lj", "morse")


class AseCalculator(LocalCalculator):
    """One of ASE's calculators, with its parameters; programs are found as ASE's configuration says."""

    kind: Literal["ase"] = "ase"
    calculator: Name
    level_of_theory: str = Field(min_length=1)
    parameters: dict[str, JsonValue] = Field({}, description="what ASE's calculator takes")
    charge_parameter: str = Field("", description="the parameter that takes the total charge, as charge")
    multiplicity_parameter: str = Field("", description="the one that takes the multiplicity, as mult")
    program_version: str = Field("", description="of the program behind the calculator, for the record")

    @field_validator("parameters")
    @classmethod
    def _only_physics(cls, given: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := {"atoms", "command", "directory", "label", "profile", "restart"} & set(given):
            raise ValueError(f"{', '.join(sorted(taken))}: is not set here (programs: ASE's configuration)")
        return given

    def programs(self) -> Sequence[str]:
        """The calculator's name, where it is a program's; which one is in ASE's configuration."""
        return () if self.calculator in IN_PROCESS else (self.calculator,)

    def version(self) -> str:
        """Versions of ASE and, as far as it was given, of the program."""
        return f"ase {ase.__version__}" + (f", {self.program_version}" if self.program_version else "")

    def suit(self, atoms: Atoms) -> None:
        """Raise DataError where a charge or spin has no parameter that it could go to."""
        charge, multiplicity = charge_and_multiplicity(atoms)
        if charge and not self.charge_parameter:
            raise DataError(f"has charge {charge}; give the calculator's charge_parameter")
        if self.calculator in IN_PROCESS:
            return
        if multiplicity > 1 and not self.multiplicity_parameter:
            raise DataError(f"has multiplicity {multiplicity}; give the calculator's multiplicity_parameter")
        self._calculator(charge, multiplicity, Path())

    def compute(self, atoms: Atoms, charge: int, multiplicity: int, work: Path) -> Result:
        """See `LocalCalculator.compute`."""
        atoms.calc = self._calculator(charge, multiplicity, work)
        try:
            result = answer(atoms)
            reason = "" if getattr(atoms.calc, "converged", True) else f"{self.calculator} has not converged"
        except SCFError as error:
            reason = str(error)
        except Exception:
            if not (reason := self._unconverged(work)):
                raise
        finally:
            _gather(work)
        if reason := reason or self._unconverged(work):
            raise NotConverged(reason)
        return result

    def _calculator(self, charge: int, multiplicity: int, work: Path) -> Calculator:
        given = dict(self.parameters)
        if self.charge_parameter:
            given[self.charge_parameter] = charge
        if self.multiplicity_parameter:
            given[self.multiplicity_parameter] = multiplicity
        try:
            return get_calculator_class(self.calculator)(directory=str(work), **given)
        except BadConfiguration as error:
            raise Unavailable(
                f"ASE does not know how to run {self.calculator} ({error}); say so in its config.ini"
            ) from None

    def _unconverged(self, work: Path) -> str:
        """The line that says so, in whatever the program left in `work`; else nothing."""
        if pattern := UNCONVERGED.get(self.calculator):
            for _, text in _left(work):
                if found := re.search(f".*{pattern}.*", text):
                    return found.group().strip()
        return ""


def _gather(work: Path) -> None:
    """Write what the program left in `work` down as `log.txt`: the end of every text."""
    ends = [f"==> {name} <==\n{text[-TAIL:]}" for name, text in _left(work)]
    (work / "log.txt").write_text("\n".join(ends), encoding="utf-8")


def _left(work: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(work.iterdir()):
        if path.is_file() and path.name != "log.txt" and path.stat().st_size < LARGEST:
            with contextlib.suppress(UnicodeDecodeError):
                yield path.name, path.read_text(encoding="utf-8")
