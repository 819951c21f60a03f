"""What the output files of programs say of single points: VASP, ORCA, CP2K, Quantum ESPRESSO."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from ase import Atoms
from ase.io import read

from models.datasets import DataError
from models.external.cp2k import read_cp2k
from models.reference.base import Result

_HEAD = 100_000  # bytes, within which a program says its name


@dataclass(frozen=True, kw_only=True)
class Calculation:
    """What one calculation came to.

    Attributes:
        structure: as computed; None where that cannot be read.
        result: None where it is no label.
        failure: why it is none; "" where it is one.
        running: whether it may still be at work, as far as its output says.
    """

    structure: Atoms | None
    result: Result | None = None
    failure: str = ""
    running: bool = False


@dataclass(frozen=True, kw_only=True)
class _Program:
    """How the output of a program is recognised, and what it says when.

    Attributes:
        mark: in every output, near its beginning.
        ended: when it came to its end.
        converged: when the electrons have; without it they have not.
        unconverged: when they have not.
        aborted: when it gave up.
    """

    name: str
    mark: str
    ended: str
    converged: str
    unconverged: str
    aborted: str
    read: Callable[[Path], list[Atoms]]


def is_output(path: Path) -> bool:
    """Whether a file is the output of one of the programs."""
    return _is_xml(path) or _program(path) is not None


def read_output(path: Path) -> list[Calculation]:
    """The calculations in an output file: one, or one for each geometry; at least one.

    Energies are those that belong to the forces: with smearing, free energies. Raises DataError where the
    file is of none of the programs.
    """
    if _is_xml(path):
        return _outcome("VASP", path, partial(_images, form="vasp-xml"), *_state_of_xml(path))
    program = _program(path)
    if program is None:
        raise DataError(f"{path}: of none of the programs VASP, ORCA, CP2K and Quantum ESPRESSO")
    text = path.read_text(encoding="utf-8", errors="replace")
    failure, running = "", False
    if re.search(program.unconverged, text):
        failure = "the electrons did not converge"
    elif re.search(program.aborted, text):
        failure = "it was aborted"
    elif program.ended not in text:
        failure, running = "its output ends before the calculation does", True
    elif program.converged not in text:
        failure = "it does not say that the electrons converged"
    return _outcome(program.name, path, program.read, failure, running)


def _outcome(
    name: str, path: Path, reader: Callable[[Path], list[Atoms]], failure: str, running: bool
) -> list[Calculation]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images = reader(path)
    except Exception as error:  # whatever a reader makes of half an output
        reason = failure or f"its output cannot be read ({type(error).__name__}: {error})"
        return [Calculation(structure=None, failure=f"{name}: {reason}", running=running)]
    if failure:
        return [Calculation(structure=images[-1], failure=f"{name}: {failure}", running=running)]
    return [_calculation(name, image) for image in images]


def _calculation(name: str, image: Atoms) -> Calculation:
    found = image.calc.results if image.calc is not None else {}
    energy = found.get("free_energy", found.get("energy"))
    forces, stress = found.get("forces"), found.get("stress")
    if energy is None or forces is None:
        return Calculation(structure=image, failure=f"{name}: its output has no energy or no forces")
    numbers = [np.asarray(v, dtype=float) for v in (energy, forces, stress) if v is not None]
    if not all(np.isfinite(v).all() for v in numbers):
        return Calculation(structure=image, failure=f"{name}: its energy or forces are not finite")
    convergence = {"program": name, "said": "converged"}
    result = Result(energy=float(energy), forces=forces, stress=stress, convergence=convergence)
    return Calculation(structure=image, result=result)


def _is_xml(path: Path) -> bool:
    with path.open("rb") as file:
        return b"<modeling>" in file.read(1000)


def _state_of_xml(path: Path) -> tuple[str, bool]:
    """Why a vasprun.xml has no label, or "", and whether VASP may still be at work."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError:
        return "its output ends before the calculation does", True
    most = root.findtext(".//parameters//i[@name='NELM']")
    steps = [len(calculation.findall("scstep")) for calculation in root.findall("calculation")]
    if most is None or not steps or max(steps) >= int(most):
        return "the electrons did not converge", False
    return "", False


def _images(path: Path, form: str) -> list[Atoms]:
    images = read(path, index=":", format=form)
    if not images:
        raise ValueError("there is no geometry")
    return list(images)


_PROGRAMS = (
    _Program(
        name="ORCA",
        mark="O   R   C   A",
        ended="ORCA TERMINATED NORMALLY",
        converged="SCF CONVERGED AFTER",
        unconverged=r"SCF NOT CONVERGED AFTER|Wavefunction not fully converged",
        aborted=r"ORCA finished by error termination|aborting the run",
        read=partial(_images, form="orca-output"),
    ),
    _Program(
        name="CP2K",
        mark="CP2K|",
        ended="PROGRAM ENDED AT",
        converged="SCF run converged in",
        unconverged=r"SCF run NOT converged",
        aborted=r"\[ABORT\]",
        read=read_cp2k,
    ),
    _Program(
        name="Quantum ESPRESSO",
        mark="Program PWSCF",
        ended="JOB DONE.",
        converged="convergence has been achieved",
        unconverged=r"convergence NOT achieved",
        aborted=r"Error in routine",
        read=partial(_images, form="espresso-out"),
    ),
    _Program(
        name="VASP",
        mark=" vasp.",
        ended="General timing and accounting",
        converged="aborting loop because EDIFF is reached",
        unconverged=r"EDIFF was not reached",
        aborted=r"VERY BAD NEWS|I REFUSE TO CONTINUE",
        read=partial(_images, form="vasp-out"),
    ),
)


def _program(path: Path) -> _Program | None:
    with path.open("rb") as file:
        head = file.read(_HEAD).decode(errors="replace")
    return next((program for program in _PROGRAMS if program.mark in head), None)
