"""Labelled structures: read, check, normalise, split by trajectory.

Inside Temper every label sits under `REF_energy` (info, eV), `REF_forces` (arrays, eV/Å), `REF_stress` (info,
eV/Å³), `REF_magmoms` (arrays, μB: signed along one axis, or vectors) and `REF_magnetic_forces` (arrays,
eV/μB), where no calculator swallows it.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import numpy as np
from ase import Atoms, units
from ase.io import iread, read, write
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.graphs import as_matrix
from models.labels import Entry

ENERGY_UNITS = {"eV": 1.0, "meV": 1e-3, "Hartree": units.Hartree, "Rydberg": units.Rydberg,
                "kcal/mol": units.kcal / units.mol, "kJ/mol": units.kJ / units.mol}  # fmt: skip
FORCE_UNITS = {"eV/Å": 1.0, "meV/Å": 1e-3, "Hartree/Bohr": units.Hartree / units.Bohr,
               "Rydberg/Bohr": units.Rydberg / units.Bohr,
               "kcal/mol/Å": units.kcal / units.mol, "kJ/mol/nm": 0.1 * units.kJ / units.mol}  # fmt: skip
STRESS_UNITS = {"eV/Å³": 1.0, "GPa": units.GPa, "kbar": 0.1 * units.GPa}
MAGNETIC_FORCE_UNITS = {"eV/μB": 1.0, "meV/μB": 1e-3}
_OPTIONAL = ("stress", "magmoms", "magnetic_forces")
PARTS = ("train", "valid", "test")
Repeated = Literal["first", "last"]


class DataError(ValueError):
    """Labels or structures that cannot be used as they are; the message says where and what to do."""


class Keys(BaseModel):
    """Names under which a file keeps its labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: str = "REF_energy"
    forces: str = "REF_forces"
    stress: str | None = None
    magmoms: str | None = None
    magnetic_forces: str | None = None


class Units(BaseModel):
    """Units of a file's labels; they are never guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: Literal["eV", "meV", "Hartree", "Rydberg", "kcal/mol", "kJ/mol"]
    forces: Literal["eV/Å", "meV/Å", "Hartree/Bohr", "Rydberg/Bohr", "kcal/mol/Å", "kJ/mol/nm"]
    stress: Literal["eV/Å³", "GPa", "kbar"] | None = None
    magmoms: Literal["μB"] | None = None
    magnetic_forces: Literal["eV/μB", "meV/μB"] | None = None


class Splitting(BaseModel):
    """How whole trajectories are dealt to train, valid and test."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str = Field("trajectory", description="info key that names the trajectory of a frame")
    valid: float = Field(0.15, gt=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)
    at_most: Mapping[Literal["train", "valid"], Annotated[int, Field(ge=1)]] | None = Field(
        None, description="keep so many structures of a part, drawn by the seed, and leave out the others"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _leaves_some(self) -> "Splitting":
        if self.valid + self.test >= 1.0:
            raise ValueError("valid and test together leave nothing to train on")
        return self


def read_structures(path: Path) -> list[Atoms]:
    """All frames of an extended XYZ file, whatever it is called; raises DataError naming the file."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        # Opened here: of a path ASE would take what follows an @ for an index, and would unpack archives.
        with path.open(encoding="utf-8") as file:
            _survey(file)
            file.seek(0)
            frames = read(file, index=":", format="extxyz")
    except Exception as error:
        raise DataError(
            f"{path}: cannot be read as extended XYZ ({error}); of another format, convert it first "
            "(ase convert)"
        ) from error
    if not frames:
        raise DataError(f"{path}: holds no structures")
    return frames if isinstance(frames, list) else [frames]


def _survey(file: TextIO) -> None:
    """Raise ValueError where a frame claims more atoms or columns than there are: ASE would wait for them."""
    lines = iter(file)
    for index, header in enumerate(line for line in lines if not line.lstrip().startswith("VEC")):
        if not header.strip():
            return  # here ASE stops
        claimed, properties = int(header), re.search(r"\bProperties=[\"']?(\S+)", next(lines, ""))
        columns = re.findall(r"(?:^|:)\w+:[A-Za-z]:(\d+)", properties[1]) if properties else []
        first = next(lines, "") if claimed else ""
        if claimed and sum(map(int, columns)) > len(first.split()):
            raise ValueError(f"frame {index}: its atoms have fewer columns than its Properties say")
        if (found := bool(first) + sum(1 for _ in islice(lines, max(claimed - 1, 0)))) < claimed:
            raise ValueError(f"frame {index}: is of {claimed} atoms, and the file ends after {found}")


def read_labels(path: Path, keys: Keys, given_units: Units) -> list[Atoms]:
    """Frames of `path` with their labels under the `REF_` keys, in eV and Å.

    Raises DataError on a missing file, a missing, non-finite or misshapen label, a key of stress or moments
    without a unit, or magnetic forces without moments.
    """
    for what in _OPTIONAL:
        if (getattr(keys, what) is None) != (getattr(given_units, what) is None):
            raise DataError(f"labels: give both names.{what} and units.{what}, or neither")
    if keys.magnetic_forces is not None and keys.magmoms is None:
        raise DataError("labels: magnetic forces are those on moments; give names.magmoms and units.magmoms")
    frames = read_structures(path)
    return [_normalised(frame, f"{path}, frame {i}", keys, given_units) for i, frame in enumerate(frames)]


def _normalised(frame: Atoms, where: str, keys: Keys, given_units: Units) -> Atoms:
    for what, numbers in (("a position", frame.positions), ("the cell", frame.cell.array)):
        if not np.isfinite(numbers).all():
            raise DataError(f"{where}: {what} is not finite")
    isolated = frame.info.get("config_type") == "IsolatedAtom"
    if isolated and len(frame) != 1:
        raise DataError(f"{where}: config_type=IsolatedAtom, but it has {len(frame)} atoms")
    labelled = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
    # A `REF_` entry that nobody named has no unit, so it does not travel.
    labelled.info = {
        k: v
        for k, v in frame.info.items()
        if not k.startswith("REF_") and k not in (keys.energy, keys.stress)
    }
    energy = _label(frame, where, "energy", keys.energy, [()])
    labelled.info["REF_energy"] = float(energy) * ENERGY_UNITS[given_units.energy]
    if isolated and keys.forces not in _available(frame):
        labelled.arrays["REF_forces"] = np.zeros((1, 3))
    else:
        forces = _label(frame, where, "forces", keys.forces, [(len(frame), 3)])
        labelled.arrays["REF_forces"] = forces * FORCE_UNITS[given_units.forces]
    if keys.stress is not None and given_units.stress is not None:
        stress = as_matrix(_label(frame, where, "stress", keys.stress, [(6,), (9,), (3, 3)]))
        labelled.info["REF_stress"] = stress * STRESS_UNITS[given_units.stress]
    if keys.magmoms is not None and not (isolated and keys.magmoms not in _available(frame)):
        shapes = [(len(frame),), (len(frame), 3)]
        labelled.arrays["REF_magmoms"] = _label(frame, where, "moments", keys.magmoms, shapes)
        if keys.magnetic_forces is not None and given_units.magnetic_forces is not None:
            on_moments = _label(frame, where, "magnetic forces", keys.magnetic_forces, [(len(frame), 3)])
            scale = MAGNETIC_FORCE_UNITS[given_units.magnetic_forces]
            labelled.arrays["REF_magnetic_forces"] = on_moments * scale
    return labelled


def _label(frame: Atoms, where: str, what: str, key: str, shapes: list[tuple[int, ...]]) -> np.ndarray:
    available = _available(frame)
    if key not in available:
        names = ", ".join(sorted(available)) or "no labels at all"
        raise DataError(f"{where}: no {what} under {key!r}; it has {names}. Set labels.names")
    try:
        value = np.asarray(available[key], dtype=float)
    except ValueError:
        raise DataError(f"{where}: {what} under {key!r} is not a number: {available[key]!r}") from None
    if value.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise DataError(f"{where}: {what} under {key!r} has shape {value.shape}, not {expected}")
    if not np.isfinite(value).all():
        raise DataError(f"{where}: {what} under {key!r} is not finite; remove the frame or label it again")
    return value


def _available(frame: Atoms) -> dict[str, Any]:
    """Everything that could be a label; ASE takes what has a usual name into a calculator."""
    results = frame.calc.results if frame.calc is not None else {}
    arrays = {k: v for k, v in frame.arrays.items() if k not in ("numbers", "positions")}
    return {**results, **arrays, **frame.info}


def settled(frames: Sequence[Atoms], where: str, repeated: Repeated | None) -> list[Atoms]:
    """Frames of which no two give one structure different labels.

    Of those that do, the one that stands is kept: the `first` or the `last`. A structure that comes again
    with the same label stays. Raises DataError naming both frames where nobody said which one stands.
    """
    order = range(len(frames))
    standing: dict[str, tuple[int, Entry]] = {}
    dropped = set()
    for index in reversed(order) if repeated == "last" else order:
        given = entry(frames[index])
        at, other = standing.setdefault(given.structure, (index, given))
        if given.contradicts(other):
            if repeated is None:
                raise DataError(
                    f"{where}, frame {index} ({given.formula}): the structure of frame {at} with another "
                    f"label ({given.energy:.6f} eV here, {other.energy:.6f} eV there, or other forces); "
                    "remove the wrong one (of a campaign's labels, labels.repeated can say that the first "
                    "or the last one stands)"
                )
            dropped.add(index)
    return [frame for index, frame in enumerate(frames) if index not in dropped]


def check_elements(frames: Sequence[Atoms], known: Sequence[str], where: str, model: str) -> None:
    """Raise DataError naming the first structure with an element that `model` does not know."""
    for index, frame in enumerate(frames):
        if unknown := sorted(set(frame.get_chemical_symbols()) - set(known)):
            raise DataError(
                f"{where}, frame {index} ({frame.get_chemical_formula()}): the foundation {model} does "
                f"not know {', '.join(unknown)}; it knows {' '.join(known)}"
            )


def isolated_atoms(frames: Sequence[Atoms]) -> tuple[list[Atoms], list[Atoms]]:
    """Frames marked `config_type=IsolatedAtom`, and all the others."""
    marked = [f for f in frames if f.info.get("config_type") == "IsolatedAtom"]
    return marked, [f for f in frames if f.info.get("config_type") != "IsolatedAtom"]


def fingerprint(atoms: Atoms) -> str:
    """Content hash of a structure: species, positions and cell to 1e-6 Å, periodicity."""
    digest = hashlib.sha256(atoms.numbers.astype("<i8").tobytes())
    digest.update(np.round(atoms.positions * 1e6).astype("<i8").tobytes())
    digest.update(np.round(atoms.cell.array * 1e6).astype("<i8").tobytes() + atoms.pbc.tobytes())
    return digest.hexdigest()


def entry(atoms: Atoms) -> Entry:
    """A labelled structure as it is entered on record; with moments it is one for each order of them."""
    structure = fingerprint(atoms)
    if (magmoms := atoms.arrays.get("REF_magmoms")) is not None:
        # To 0.1 μB: ferro- and antiferromagnet differ by more, and the same calculation done again by less.
        order = np.round(magmoms, 1) + 0.0
        structure = hashlib.sha256(structure.encode() + order.astype("<f8").tobytes()).hexdigest()
    return Entry.of(atoms, structure)


def entries(path: Path) -> Iterator[Entry]:
    """The labelled structures of a dataset as `write_structures` wrote it, one at a time."""
    return (entry(frame) for frame in iread(path, index=":", format="extxyz"))


@dataclass(frozen=True, kw_only=True)
class Split:
    """Indices of frames by part, and the rule by which frames were grouped."""

    indices: Mapping[str, list[int]]
    grouped_by: str
    n_groups: Mapping[str, int]


def split(frames: Sequence[Atoms], rule: Splitting, where: str) -> Split:
    """Deal whole groups of frames to train, valid and test; the same seed, the same split.

    Groups are the values of the info key `rule.by`. Where no frame has it, the frames of one
    chemical formula form a group. Raises DataError if only some frames have the key, if there are
    fewer than three groups, or if one structure would be in two parts.
    """
    present = [rule.by in frame.info for frame in frames]
    if any(present) and not all(present):
        raise DataError(f"{where}, frame {present.index(False)}: has no {rule.by!r}, though other frames do")
    grouped_by = rule.by if all(present) else "chemical formula"
    groups: dict[str, list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        groups[str(frame.info[rule.by]) if all(present) else frame.get_chemical_formula()].append(index)
    if len(groups) < len(PARTS):
        raise DataError(
            f"{where}: only {len(groups)} groups by {grouped_by}; train, valid and test need at least three. "
            f"Name each frame's trajectory in the info key {rule.by!r}"
        )
    names = [sorted(groups)[i] for i in np.random.default_rng(rule.seed).permutation(len(groups))]
    indices: dict[str, list[int]] = {part: [] for part in PARTS}
    counts = dict.fromkeys(PARTS, 0)
    wanted = {"test": rule.test * len(frames), "valid": rule.valid * len(frames)}
    for position, name in enumerate(names):
        left = len(names) - position
        part = next(
            (
                p
                for p in ("test", "valid")
                if not counts[p] or (len(indices[p]) < 0.9 * wanted[p] and left > 2)
            ),
            "train",
        )
        indices[part] += groups[name]
        counts[part] += 1
    parts = Split(indices={p: sorted(i) for p, i in indices.items()}, grouped_by=grouped_by, n_groups=counts)
    check_disjoint({p: [frames[i] for i in parts.indices[p]] for p in PARTS}, where)
    return parts


def check_disjoint(parts: Mapping[str, Sequence[Atoms]], where: str) -> None:
    """Raise DataError naming a structure that is in more than one part."""
    seen: dict[str, tuple[str, int]] = {}
    for part, frames in parts.items():
        for index, frame in enumerate(frames):
            other, at = seen.setdefault(fingerprint(frame), (part, index))
            if other != part:
                raise DataError(
                    f"{where}: structure {index} of {part} ({frame.get_chemical_formula()}) is structure "
                    f"{at} of {other} too; a split must not overlap"
                )


def write_structures(path: Path, frames: Sequence[Atoms]) -> None:
    """Write frames as extended XYZ; the same frames always give the same bytes."""
    write(path, list(frames), format="extxyz")


def describe(frames: Sequence[Atoms]) -> dict[str, Any]:
    """What a dataset holds, for its record: frames, atoms, elements, trajectories."""
    symbols = sorted({symbol for frame in frames for symbol in frame.get_chemical_symbols()})
    return {
        "n_structures": len(frames),
        "n_atoms": sum(map(len, frames)),
        "elements": symbols,
        "n_trajectories": len({str(f.info.get("trajectory", i)) for i, f in enumerate(frames)}),
        "formulas": sorted({frame.get_chemical_formula() for frame in frames})[:20],
    }


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of an ingested dataset: its file, and what it holds."""

    path: Path
    contents: Mapping[str, Any]


def ingest(
    path: Path,
    keys: Keys,
    given_units: Units,
    rule: Splitting,
    work: Path,
    repeated: Repeated | None = None,
) -> dict[str, Part]:
    """Freeze a label file into the parts train, valid, test and, where it has any, isolated atoms.

    Raises DataError (see `read_labels`, `settled` and `split`).
    """
    labelled = read_labels(path, keys, given_units)
    kept = settled(labelled, str(path), repeated)
    isolated, frames = isolated_atoms(kept)
    parts = split(frames, rule, str(path))
    chosen = {part: [frames[i] for i in parts.indices[part]] for part in PARTS}
    for part, number in (rule.at_most or {}).items():
        chosen[part] = _drawn(chosen[part], number, rule.seed)
    if isolated:
        chosen["isolated"] = isolated
    how: dict[str, Any] = {"grouped_by": parts.grouped_by}
    if repeated is not None:
        how |= {"repeated": repeated, "n_dropped": len(labelled) - len(kept)}
    return {name: _freeze(items, work / f"{name}.extxyz", how) for name, items in chosen.items()}


def _drawn(frames: Sequence[Atoms], number: int, seed: int) -> list[Atoms]:
    """At most `number` of the frames, drawn at random, in their order."""
    picks = np.random.default_rng(seed).permutation(len(frames))[:number]
    return [frames[i] for i in sorted(picks)]


def _freeze(frames: Sequence[Atoms], path: Path, more: Mapping[str, Any]) -> Part:
    write_structures(path, frames)
    return Part(path=path, contents={**describe(frames), **more})
