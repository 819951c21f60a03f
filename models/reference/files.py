"""One structure labelled from its content, in a process of its own, into files."""

import json
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms

from models.datasets import write_structures
from models.reference.base import NotConverged, ReferenceCalculator, charge_and_multiplicity

DIGITS = 8
"""Of positions and cell (Å): as many as extended XYZ keeps, so that a structure is the same in any file."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a calculation gave, and what it took.

    Attributes:
        path: the label (extended XYZ, one frame), or why there is none (JSON).
        log: the program's; None where it wrote none.
        seconds, cpu_seconds: of this process and all that it started.
    """

    path: Path
    converged: bool
    log: Path | None
    seconds: float
    cpu_seconds: float


def content(atoms: Atoms) -> dict[str, Any]:
    """All that decides the label of a structure, as JSON: what it is, and nothing of where it comes from.

    Raises DataError where its charge and multiplicity do not go together.
    """
    charge, multiplicity = charge_and_multiplicity(atoms)
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": (atoms.positions.round(DIGITS) + 0.0).tolist(),  # no -0.0
        "cell": (atoms.cell.array.round(DIGITS) + 0.0).tolist(),
        "pbc": atoms.pbc.tolist(),
        "charge": charge,
        "multiplicity": multiplicity,
    }


def structure(content: Mapping[str, Any]) -> Atoms:
    """The structure of this content."""
    of_atoms = {name: content[name] for name in ("numbers", "positions", "cell", "pbc")}
    of_all = {name: content[name] for name in ("charge", "multiplicity")}
    return Atoms(**of_atoms, info=of_all)


def label_file(calculator: ReferenceCalculator, given: Mapping[str, Any], said: Any, work: Path) -> Outcome:
    """Label the structure of a content (see `content`) into a file in `work`.

    `said` about the calculation stands beside the reason where it does not converge. To be called in a
    process of its own, whose CPU time is that of the label. Raises whatever the calculator crashes with.
    """
    started = time.monotonic()
    try:
        path, converged = work / "label.extxyz", True
        write_structures(path, [calculator.label(structure(given), work)])
    except NotConverged as error:
        path, converged = work / "failure.json", False
        why = {"error": type(error).__name__, "reason": str(error)}
        path.write_text(json.dumps({**why, **said, "structure": given}, indent=1))
    log = work / "log.txt"
    return Outcome(
        path=path,
        converged=converged,
        log=log if log.is_file() else None,
        seconds=time.monotonic() - started,
        cpu_seconds=_cpu_seconds(),
    )


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
