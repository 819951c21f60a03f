"""What came back for a request: which structure each result belongs to, and whether it is a label."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from models.datasets import (
    ENERGY_UNITS,
    FORCE_UNITS,
    STRESS_UNITS,
    DataError,
    Units,
    fingerprint,
    read_structures,
)
from models.external.matching import match
from models.external.outputs import Calculation, is_output, read_output
from models.external.requests import Request
from models.graphs import as_matrix
from models.labels import Entry
from models.reference.base import Result

OURS = Units(energy="eV", forces="eV/Å", stress="eV/Å³")
SETTLED_SECONDS = 60.0
"""An output in `results` that is older than that and ends early is not being copied any more: it failed."""
XYZ = (".xyz", ".extxyz")
_NAMES = {
    "energy": ("REF_energy", "free_energy", "energy"),
    "forces": ("REF_forces", "forces"),
    "stress": ("REF_stress", "stress"),
}


class OtherLevel(DataError):
    """Results at another level of theory than the one that is asked for."""


@dataclass(frozen=True, kw_only=True)
class Came:
    """One result: a label, or else why it is none.

    Attributes:
        where: the file and, where it has several, the frame.
        id: of the requested structure; None where it is none of them.
        label: the structure as requested, with `REF_energy`, `REF_forces` and, if periodic, `REF_stress`.
        failure: why the calculation has no label.
        running: whether it may still get there.
        problem: why the result cannot be taken, whatever the calculation came to.
    """

    path: Path
    where: str
    id: str | None = None
    label: Atoms | None = None
    failure: str = ""
    running: bool = False
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Where a request stands: each structure, by its id, is in one of the first four.

    Attributes:
        running: calculations whose output ends before they do.
        problems: what could not be taken and why, a sentence each.
        contradictions: labels that contradict each other; a sentence for each structure.
    """

    labels: Mapping[str, Came]
    failures: Mapping[str, Came]
    running: Mapping[str, Came]
    missing: list[str]
    problems: list[str]
    contradictions: list[str]

    @property
    def waiting(self) -> list[str]:
        """Ids of the structures that have neither a label nor a failure."""
        return [*self.running, *self.missing]


@dataclass
class Inbox:
    """The results of a request as they come; a file is read again only when it has changed."""

    request: Request
    _read: dict[Path, tuple[tuple[int, int], list[Came]]] = field(default_factory=dict)

    def look(self) -> Survey:
        """Where the request stands now."""
        return survey(self.request, self.came())

    def came(self) -> list[Came]:
        """All results that are there; what cannot be read is a problem."""
        places = [self.request.results, *(self.request.folder / id_ for id_ in self.request.structures)]
        came = []
        for path in (file for place in places for file in sorted(place.rglob("*")) if _counts(file, place)):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # a program's temporary file
            stamp = (status.st_mtime_ns, status.st_size)
            if path not in self._read or self._read[path][0] != stamp:
                self._read[path] = (stamp, self._results(path))
            age = time.time() - status.st_mtime
            settled = path.is_relative_to(self.request.results) and age > SETTLED_SECONDS
            came += [replace(one, running=one.running and not settled) for one in self._read[path][1]]
        return came

    def _results(self, path: Path) -> list[Came]:
        try:
            if path.suffix not in XYZ and path.parent != self.request.results and not is_output(path):
                return []  # whatever else a program leaves in its folder
            return read_results(path, self.request)
        except (DataError, OSError) as error:
            return [Came(path=path, where=str(path), problem=str(error))]


def _counts(file: Path, place: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(place).parts)
    return file.is_file() and not hidden


def survey(request: Request, came: Iterable[Came]) -> Survey:
    """Where a request stands after these results.

    A label counts more than a failure of the same structure. Labels that contradict each other are both
    left out until one of them is gone.
    """
    labels: dict[str, Came] = {}
    failures: dict[str, Came] = {}
    running: dict[str, Came] = {}
    contradicted: dict[str, str] = {}
    problems = []
    for one in came:
        if one.problem or one.id is None:
            problems.append(f"{one.where}: {one.problem}")
        elif one.label is None:
            (running if one.running else failures).setdefault(one.id, one)
        elif (other := labels.setdefault(one.id, one)) is not one:
            if _entry(one).contradicts(_entry(other)):
                text = f"{one.where} and {other.where}: two labels of {one.id} that differ"
                contradicted[one.id] = f"{text}; remove the one that is wrong"
            elif one.path.parent != other.path.parent:
                problems.append(f"{one.where}: the label of {one.id} is also in {other.where}")
    labels = {id_: one for id_, one in labels.items() if id_ not in contradicted}
    failures = {id_: one for id_, one in failures.items() if id_ not in labels and id_ not in contradicted}
    running = {id_: one for id_, one in running.items() if id_ not in {**labels, **failures, **contradicted}}
    for id_, reason in request.given_up().items():
        if id_ not in labels and id_ not in failures and id_ in request.structures:
            before = running.pop(id_, None)
            said = f"{before.failure}; {reason}" if before else reason
            failures[id_] = Came(
                path=before.path if before else request.folder, where="", id=id_, failure=said
            )
    missing = [id_ for id_ in request.structures if id_ not in {**labels, **failures, **running}]
    return Survey(
        labels=labels,
        failures=failures,
        running=running,
        missing=missing,
        problems=problems,
        contradictions=list(contradicted.values()),
    )


def _entry(came: Came) -> Entry:
    assert came.label is not None
    return Entry.of(came.label, fingerprint(came.label))


def read_results(path: Path, request: Request, units: Units = OURS) -> list[Came]:
    """The results in a file, each with the requested structure that it belongs to.

    `units` are those of extended XYZ. Raises OtherLevel, or DataError where the file cannot be read.
    """
    if path.suffix not in XYZ:
        calculations = read_output(path)
        return [
            _assigned(one, path, _where(path, i, len(calculations)), request)
            for i, one in enumerate(calculations)
        ]
    frames = read_structures(path)
    return [
        _of_frame(frame, path, _where(path, i, len(frames)), request, units) for i, frame in enumerate(frames)
    ]


def _where(path: Path, index: int, of: int) -> str:
    return f"{path}, frame {index}" if of > 1 else str(path)


def _of_frame(frame: Atoms, path: Path, where: str, request: Request, units: Units) -> Came:
    level = str(frame.info.get("level_of_theory", request.level_of_theory))
    if level != request.level_of_theory:
        raise OtherLevel(other_level(where, level, request))
    try:
        calculation = _calculation(frame, units)
    except DataError as error:
        return Came(path=path, where=where, problem=str(error))
    came = _assigned(calculation, path, where, request)
    if came.id is not None:
        for key in ("charge", "multiplicity"):
            asked = request.structures[came.id].info[key]
            if frame.info.get(key, asked) != asked:
                said = f"its {key} is {frame.info[key]}, and {asked} was asked for"
                return Came(path=path, where=where, problem=said)
    return came


def other_level(where: str, level: str, request: Request) -> str:
    """What is wrong with results at another level of theory."""
    return f"{where} is at {level}, and {request.level_of_theory} is asked for: levels are never mixed"


def _calculation(frame: Atoms, units: Units) -> Calculation:
    """What a frame of extended XYZ says; raises DataError where it has no label that could be used."""
    if not frame.info.get("converged", True):
        return Calculation(structure=frame, failure="it says that it did not converge")
    said: dict[str, Any] = {**(frame.calc.results if frame.calc else {}), **frame.arrays, **frame.info}
    found = {what: next((said[n] for n in names if n in said), None) for what, names in _NAMES.items()}
    values = {what: _numbers(what, value) for what, value in found.items() if value is not None}
    if missing := [what for what in ("energy", "forces") if what not in values]:
        raise DataError(f"has no {' and no '.join(missing)}")
    if "stress" in values and units.stress is None:
        raise DataError("has a stress; give its unit too")
    if values["energy"].shape != () or values["forces"].shape != (len(frame), 3):
        raise DataError("has no single energy, or no three forces for each atom")
    stress = None
    if "stress" in values and units.stress is not None:
        if values["stress"].size not in (6, 9):
            raise DataError("has a stress of neither six nor nine numbers")
        stress = full_3x3_to_voigt_6_stress(as_matrix(values["stress"])) * STRESS_UNITS[units.stress]
    result = Result(
        energy=float(values["energy"]) * ENERGY_UNITS[units.energy],
        forces=values["forces"] * FORCE_UNITS[units.forces],
        stress=stress,
    )
    return Calculation(structure=frame, result=result)


def _numbers(what: str, value: Any) -> np.ndarray:
    try:
        numbers = np.asarray(value, dtype=float)
    except ValueError:
        raise DataError(f"its {what} is not a number: {value!r}") from None
    if not np.isfinite(numbers).all():
        raise DataError(f"its {what} is not finite")
    return numbers


def _assigned(calculation: Calculation, path: Path, where: str, request: Request) -> Came:
    """A calculation with the structure it belongs to: the one that it is, or the one named in the path."""
    named = next((id_ for id_ in request.structures if id_ in str(path)), None)
    structure = calculation.structure
    found = None if structure is None else match(structure, request.structures)
    if found is None and (named is None or structure is not None):
        formula = "a structure that cannot be read" if structure is None else structure.get_chemical_formula()
        asked = "is not what was asked for there" if named else "is none of those that were asked for"
        return Came(path=path, where=where, problem=f"{formula} {asked}: cell and positions have to stay")
    id_ = found[0] if found else named
    if calculation.result is None or found is None or id_ is None:
        return Came(path=path, where=where, id=id_, failure=calculation.failure, running=calculation.running)
    return Came(path=path, where=where, id=id_, label=_label(calculation.result, found[1], id_, request))


def _label(result: Result, order: np.ndarray, id_: str, request: Request) -> Atoms:
    label = request.structures[id_].copy()
    label.calc = None
    label.arrays = {name: label.arrays[name] for name in ("numbers", "positions")}
    del label.info["id"]
    label.info |= {
        "REF_energy": result.energy,
        "level_of_theory": request.level_of_theory,
        "convergence": json.dumps(dict(result.convergence), sort_keys=True),
    }
    label.arrays["REF_forces"] = result.forces[order]
    if result.stress is not None and label.pbc.all():
        label.info["REF_stress"] = result.stress
    return label
