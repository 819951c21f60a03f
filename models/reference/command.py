"""Any program that reads a structure from a file and leaves energy and forces in a file."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import Literal

import numpy as np
from ase import Atoms
from ase.io import read, write
from ase.io.formats import ioformats
from pydantic import Field, model_validator

from models.datasets import DataError
from models.reference.base import (
    LocalCalculator,
    NotConverged,
    Result,
    Unavailable,
    answer,
    charge_and_multiplicity,
)

PLACES = {"input", "output", "charge", "multiplicity", "unpaired"}


class Command(LocalCalculator):
    """An external program, called once per structure in the folder of the label; no shell is involved.

    It succeeded where it left with exit code 0, `unconverged` is not in what it printed, `converged` is, and
    the output file holds energy and forces.
    """

    kind: Literal["command"] = "command"
    level_of_theory: str = Field(min_length=1)
    run: str = Field(
        min_length=1,
        description="as 'xtb {input} --chrg {charge} --uhf {unpaired} --grad'; also {output}, {multiplicity}",
    )
    version_command: str = Field("", description="prints the program's version, as 'xtb --version'")
    version_pattern: str = Field(r"\d+(\.\d+)+", description="regular expression of the version in it")
    input: str = Field("structure.extxyz", description="name of the file it reads")
    input_format: str = Field("extxyz", description="as ASE calls it")
    output: str = Field(min_length=1, description="name of the file with energy and forces")
    output_format: str = Field(min_length=1, description="as ASE calls it")
    converged: str = Field("", description="regular expression that the printed text must have")
    unconverged: str = Field("", description="regular expression that it must not have")
    files: dict[str, str] = Field({}, description="further files it reads, by name: their text")

    @model_validator(mode="after")
    def _consistent(self) -> "Command":
        if unknown := {name for _, name, _, _ in Formatter().parse(self.run) if name} - PLACES:
            raise ValueError(f"run: {sorted(unknown)} are not among {sorted(PLACES)}")
        for name in (self.input, self.output, *self.files):
            if Path(name).name != name:
                raise ValueError(f"{name!r}: give the name of a file, without folders")
        for what in (self.input_format, self.output_format):
            if what not in ioformats:
                raise ValueError(f"{what!r} is no format of ASE")
        for pattern in (self.converged, self.unconverged, self.version_pattern):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression ({error})") from None
        return self

    def programs(self) -> Sequence[str]:
        """The programs of both commands."""
        return [shlex.split(line)[0] for line in (self.run, self.version_command) if line]

    def version(self) -> str:
        """What the version command printed, or its part that matches; raises Unavailable."""
        for program in self.programs():
            if shutil.which(program) is None:
                raise Unavailable(
                    f"{program!r} is not there to be run; install it, or give its path in `run`"
                )
        if not self.version_command:
            return ""
        printed = subprocess.run(
            shlex.split(self.version_command), capture_output=True, text=True, check=False
        )
        text = printed.stdout + printed.stderr
        found = re.search(self.version_pattern, text)
        return found.group() if found else text.strip()[:200]

    def suit(self, atoms: Atoms) -> None:
        """Raise DataError where the program would not be told of a charge or spin."""
        charge, multiplicity = charge_and_multiplicity(atoms)
        if charge and "{charge}" not in self.run:
            raise DataError(f"has charge {charge}, but {{charge}} is not in `run`")
        if multiplicity > 2 and "{multiplicity}" not in self.run and "{unpaired}" not in self.run:
            raise DataError(f"has multiplicity {multiplicity}, but {{multiplicity}} is not in `run`")

    def compute(self, atoms: Atoms, charge: int, multiplicity: int, work: Path) -> Result:
        """See `LocalCalculator.compute`."""
        write(work / self.input, atoms, format=self.input_format)
        for name, text in self.files.items():
            (work / name).write_text(text, encoding="utf-8")
        (work / self.output).unlink(missing_ok=True)  # of an earlier try
        places = {"input": self.input, "output": self.output, "charge": charge, "multiplicity": multiplicity}
        line = [part.format(**places, unpaired=multiplicity - 1) for part in shlex.split(self.run)]
        log = work / "log.txt"
        with log.open("w", encoding="utf-8") as file:
            file.write(f"{shlex.join(line)}\n")
            file.flush()
            code = subprocess.run(
                line, cwd=work, stdout=file, stderr=subprocess.STDOUT, check=False
            ).returncode
        printed = log.read_text(encoding="utf-8", errors="replace")
        if self.unconverged and (found := re.search(self.unconverged, printed)):
            raise NotConverged(found.group())
        if code:
            raise RuntimeError(f"{line[0]} left with exit code {code}:\n{printed[-2000:]}")
        if self.converged and not re.search(self.converged, printed):
            raise NotConverged(f"{self.converged!r} is not in what {line[0]} printed")
        return self._answer(atoms, work / self.output)

    def _answer(self, atoms: Atoms, path: Path) -> Result:
        if not path.is_file():
            raise RuntimeError(f"{shlex.split(self.run)[0]} has left no {self.output}")
        (read_back,) = read(path, index=":", format=self.output_format)[-1:]
        if not np.array_equal(read_back.numbers, atoms.numbers):
            raise RuntimeError(f"{self.output} has other atoms, or in another order, than {self.input}")
        return answer(read_back, {"exit_code": 0})
