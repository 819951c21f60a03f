"""The folder that asks for labels: structures, inputs, and a word on how to bring results back."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ase import Atoms

from models.datasets import DataError, fingerprint, read_structures, write_structures
from models.external.inputs import write_inputs
from models.reference.base import charge_and_multiplicity
from models.reference.external import External

FOLDER = "external"
"""Where all requests are, under Temper's home."""
RESULTS = "results"
_DIGITS = 12  # of a fingerprint, as an id
_REQUEST, _STRUCTURES, _CLOSED = "request.json", "structures.extxyz", "closed.json"

_README = """# {name}: {count} labels are waited for

Temper asks for energies, forces and, of periodic structures, stresses at this level of theory:

    {level_of_theory}

`{structures}` has all structures: positions in Å, charge and multiplicity, and an `id` each. {inputs}

## How to bring results back

Put files into `{results}/`, or leave a program's output in the folder of its structure. Or let Temper
check them first:

    temper labels import {request} FILES...

It takes

- extended XYZ, with `REF_energy` and `REF_forces` (and `REF_stress`), or `energy`, `forces` and `stress`,
  in eV, eV/Å and eV/Å³; for other units say `--units Hartree,Hartree/Bohr` (energy, forces, stress) when
  you import. Calculations that did not converge can be marked with `converged=F`;
- output files of VASP (`vasprun.xml`, `OUTCAR`), ORCA (`.out`), CP2K (`.out`) and Quantum ESPRESSO
  (`.pwo`, `.out`), of single points. What has not converged is recognised, and becomes no label.

Results are matched by what they are: the order of atoms does not matter, nor does a shift of the whole,
but cells and positions have to stay (to 0.001 Å). Every result is taken as soon as it is there; some are
better than none. If the rest will not come:

    temper labels import {request} --complete

What is waited for is listed by `temper labels waiting`.
"""
_WITH_INPUTS = """The folder of each id
has inputs for {programs}. They are a proposal: change what your machine needs. What decides the result has
to stay at the level above."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Labels that are asked for.

    Attributes:
        structures: by id; info has `charge` and `multiplicity`.
    """

    folder: Path
    name: str
    level_of_theory: str
    asked_at: datetime
    structures: Mapping[str, Atoms]

    @property
    def results(self) -> Path:
        """Where results are put."""
        return self.folder / RESULTS

    def given_up(self) -> dict[str, str]:
        """Why a label will not come, by the id of its structure."""
        file = self.folder / _CLOSED
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def give_up(self, ids: Iterable[str], reason: str) -> None:
        """Wait no longer for the labels of these structures."""
        _replace(self.folder / _CLOSED, {**self.given_up(), **dict.fromkeys(ids, reason)})


def identifier(atoms: Atoms) -> str:
    """The id of a structure: the first digits of its fingerprint."""
    return fingerprint(atoms)[:_DIGITS]


def place(root: Path, name: str, level_of_theory: str, frames: Sequence[Atoms]) -> Path:
    """The folder of a request for the labels of `frames`: always the same for the same."""
    content = json.dumps([level_of_theory, *(fingerprint(frame) for frame in frames)])
    return root / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def ask(folder: Path, name: str, calculator: External, frames: Sequence[Atoms]) -> Request:
    """The request in `folder`, which asks for the labels of `frames`, and of what it asked for before.

    Inputs are written where a structure has no folder, so that what somebody changed there stays. Raises
    DataError where two structures differ in nothing but charge or multiplicity.
    """
    (folder / RESULTS).mkdir(parents=True, exist_ok=True)
    before = load(folder).structures if (folder / _REQUEST).exists() else {}
    if any(identifier(frame) not in before for frame in frames):
        _write(folder, name, calculator, [*before.values(), *frames])
    for frame in frames:
        target = folder / identifier(frame)
        if not target.exists():
            unfinished = target.with_name(f".{target.name}")
            unfinished.mkdir(exist_ok=True)
            write_inputs(calculator, frame, unfinished)
            unfinished.rename(target)
    return load(folder)


def load(folder: Path) -> Request:
    """The request in a folder; raises DataError where there is none, or it cannot be read."""
    try:
        said = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: holds no request for labels ({error})") from None
    frames = read_structures(folder / _STRUCTURES)
    return Request(
        folder=folder,
        name=said["name"],
        level_of_theory=said["level_of_theory"],
        asked_at=datetime.fromisoformat(said["asked_at"]),
        structures={str(frame.info["id"]): frame for frame in frames},
    )


def requests(root: Path) -> list[Request]:
    """All requests under `root`, the oldest first."""
    found = [load(file.parent) for file in root.glob(f"*/{_REQUEST}")]
    return sorted(found, key=lambda request: (request.asked_at, request.folder.name))


def find(root: Path, text: str) -> Request:
    """The request that a person means: its folder, its name, or the beginning of it.

    Raises DataError where it is none or several.
    """
    if (Path(text) / _REQUEST).exists():
        return load(Path(text).absolute())
    names = sorted(file.parent.name for file in root.glob(f"*/{_REQUEST}"))
    meant = [name for name in names if name == text] or [name for name in names if name.startswith(text)]
    if len(meant) != 1:
        known = ", ".join(meant or names) or "none"
        raise DataError(
            f"{text!r} is {'more than one' if meant else 'no'} request for labels; there are: {known}"
        )
    return load(root / meant[0])


def _write(folder: Path, name: str, calculator: External, frames: Sequence[Atoms]) -> None:
    structures: dict[str, Atoms] = {}
    for index, frame in enumerate(frames):
        charge, multiplicity = charge_and_multiplicity(frame)
        atoms = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
        if frame.has("initial_magmoms"):
            atoms.set_initial_magnetic_moments(frame.get_initial_magnetic_moments())
        atoms.info = {"id": identifier(frame), "charge": charge, "multiplicity": multiplicity}
        other = structures.setdefault(identifier(frame), atoms)
        if other.info != atoms.info:
            raise DataError(
                f"structure {index} ({frame.get_chemical_formula()}) is asked for with two charges or "
                "multiplicities at once; ask for one after the other"
            )
    write_structures(folder / _STRUCTURES, list(structures.values()))
    inputs = _WITH_INPUTS.format(programs=", ".join(calculator.inputs)) if calculator.inputs else ""
    text = _README.format(
        name=name,
        count=len(structures),
        level_of_theory=calculator.level_of_theory,
        structures=_STRUCTURES,
        results=RESULTS,
        inputs=inputs,
        request=folder.name,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    listed = [
        {**atoms.info, "fingerprint": fingerprint(atoms), "formula": atoms.get_chemical_formula()}
        for atoms in structures.values()
    ]
    said = {"name": name, "level_of_theory": calculator.level_of_theory, "structures": listed}
    _replace(folder / _REQUEST, {**said, "asked_at": datetime.now(UTC).isoformat(timespec="seconds")})


def _replace(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that nobody ever reads half of it."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(file)
