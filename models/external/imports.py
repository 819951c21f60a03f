"""Results that a person brings: checked first, then copied to where they are waited for."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms
from pydantic import ValidationError

from models.datasets import ENERGY_UNITS, FORCE_UNITS, STRESS_UNITS, DataError, Units, write_structures
from models.external.outputs import is_output
from models.external.requests import Request
from models.external.results import (
    OURS,
    XYZ,
    Came,
    Inbox,
    OtherLevel,
    other_level,
    read_results,
    survey,
)

_DIGITS = 12  # of a file's hash in its name, so that it is there once however often it is brought


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What was brought.

    Attributes:
        labels: ids of the structures that it has labels of.
        failures: why there is none, by the id of the structure.
        problems: what was not taken and why, a sentence each.
    """

    labels: list[str]
    failures: dict[str, str]
    problems: list[str]


def units_of(text: str | None) -> Units:
    """Units that a person gives as energy,forces[,stress]; eV and Å where nothing is given.

    Raises DataError where one is unknown.
    """
    if text is None:
        return OURS
    fields = [field.strip() for field in text.split(",")]
    try:
        return Units.model_validate(dict(zip(("energy", "forces", "stress"), fields, strict=False)))
    except ValidationError as error:
        known = ", ".join(ENERGY_UNITS), ", ".join(FORCE_UNITS), ", ".join(STRESS_UNITS)
        raise DataError(
            f"units {text!r}: give energy,forces[,stress]; energy is one of {known[0]}; forces are in one of "
            f"{known[1]}; stress in one of {known[2]}"
        ) from error


def bring(
    request: Request, given: Sequence[Path], level_of_theory: str | None, units: Units = OURS
) -> Imported:
    """Take the results in files and folders; `units` are those of extended XYZ.

    Nothing is copied where this raises OtherLevel, or DataError where a file cannot be read or a label
    contradicts another.
    """
    if level_of_theory is not None and level_of_theory != request.level_of_theory:
        raise OtherLevel(other_level("what is imported", level_of_theory, request))
    came = {path: read_results(path, request, units) for path in dict.fromkeys(_files(given))}
    every = [one for results in came.values() for one in results]
    if contradictions := survey(request, [*Inbox(request).came(), *every]).contradictions:
        raise DataError("; ".join(contradictions))
    for path, results in came.items():
        _keep(path, [one for one in results if one.id is not None and not one.problem], request)
    return Imported(
        labels=list(dict.fromkeys(one.id for one in every if one.id and one.label is not None)),
        failures={one.id: f"{one.where}: {one.failure}" for one in every if one.id and one.failure},
        problems=[f"{one.where}: {one.problem}" for one in every if one.problem],
    )


def _files(given: Sequence[Path]) -> Iterator[Path]:
    """Files as given, and those in folders that look like results."""
    for path in given:
        if not path.exists():
            raise DataError(f"{path}: no such file")
        if not path.is_dir():
            yield path
            continue
        inside = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        found = [file for file in inside if file.suffix in XYZ or is_output(file)]
        if not found:
            raise DataError(f"{path}: holds no results that Temper can read")
        yield from found


def _keep(path: Path, results: Sequence[Came], request: Request) -> None:
    """Copy what was taken of a file: outputs as they are, extended XYZ in our units and names."""
    if not results:
        return
    name = f"{hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS]}-{path.name}"
    if path.suffix in XYZ:
        target = request.results / f"{name.removesuffix(path.suffix)}.extxyz"
    else:
        target = request.results / str(results[0].id) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}-{target.name}")
    if path.suffix in XYZ:
        write_structures(temporary, [_frame(one, request) for one in results])
    else:
        shutil.copy2(path, temporary)
    temporary.replace(target)


def _frame(came: Came, request: Request) -> Atoms:
    if came.label is not None:
        return came.label
    failed = request.structures[str(came.id)].copy()
    failed.info["converged"] = False
    return failed
