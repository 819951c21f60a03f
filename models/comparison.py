"""How far two files of results are apart: weights, trajectories, structures, and numbers in JSON."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from models import checkpoints
from models.checkpoints import NotACheckpoint
from models.datasets import read_structures

_LEAST = 1e-2  # the least unit of a difference: what is next to nothing may be next to nothing else

_IN_DYNAMICS = (".positions", ".potential_energy", ".kinetic_energy")  # Å and eV

Value = tuple[Any, float | None]
"""Numbers or a text, and the unit in which a difference counts; None: the range of the numbers."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The largest difference between two files.

    Attributes:
        where: what differs most: a tensor, an array, a number's place in the JSON.
        absolute: in the unit of the numbers.
        relative: to the range (largest minus smallest) of the array it is in, or to a lone number itself,
            and at least to 0.01; of positions to 1 Å, of energies of structures to 1 eV per atom, of energies
            in dynamics to 1 eV. Infinite where there is no difference of numbers: another text, another
            shape, something that only one of them has.
    """

    where: str
    absolute: float = math.inf
    relative: float = math.inf


def compare(before: Path, after: Path) -> Difference:
    """The largest relative difference between two files of the same kind, which their suffix tells."""
    read = _READERS.get(before.suffix)
    if read is None or before.suffix != after.suffix:
        return Difference(where="the bytes")
    old, new = read(before), read(after)
    if alone := sorted(old.keys() ^ new.keys()):
        return Difference(where=f"{alone[0]}, which only one of them has")
    differences = (_apart(name, *old[name], new[name][0]) for name in old)
    return max(
        differences, key=lambda d: d.relative, default=Difference(where="", absolute=0.0, relative=0.0)
    )


def _apart(where: str, old: Any, unit: float | None, new: Any) -> Difference:
    a, b = np.asarray(old), np.asarray(new)
    if a.shape != b.shape or not (_numeric(a) and _numeric(b)):
        same = a.shape == b.shape and bool((a == b).all())
        return Difference(where=where, absolute=0.0, relative=0.0) if same else Difference(where=where)
    if a.size == 0:
        return Difference(where=where, absolute=0.0, relative=0.0)
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return Difference(where=where)
    finite = np.isfinite(a)
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    absolute = float(np.abs(a - b).max())
    if unit is None:
        unit = float(np.ptp(a)) or float(np.abs(a).max())
    return Difference(where=where, absolute=absolute, relative=absolute / max(unit, _LEAST))


def _numeric(array: np.ndarray) -> bool:
    return array.dtype.kind in "biuf"


def _tensors(path: Path) -> dict[str, Value]:
    """The tensors of a checkpoint, in either form, or of trajectories, and what their header says."""
    try:
        described, weights = checkpoints.read(path)
        header: dict[str, Any] = {"temper": described}
        tensors = {name: tensor.numpy() for name, tensor in weights.items()}
    except NotACheckpoint:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
    values: dict[str, Value] = {
        f"tensor {name}": (tensor, 1.0 if name.endswith(_IN_DYNAMICS) else None)
        for name, tensor in tensors.items()
    }
    return values | dict(_leaves("header", header))


def _structures(path: Path) -> dict[str, Value]:
    """The frames of a file, each array of all frames in one."""
    frames = read_structures(path)
    n_atoms = np.array([len(frame) for frame in frames])
    values: dict[str, Value] = {
        "numbers of atoms": (n_atoms, None),
        "species": ([str(symbol) for frame in frames for symbol in frame.get_chemical_symbols()], None),
        "cells": (np.array([frame.cell.array for frame in frames]), 1.0),
        "periodicity": (np.array([frame.pbc for frame in frames]), None),
    }
    for name in sorted({name for frame in frames for name in frame.arrays} - {"numbers"}):
        given = [frame.arrays[name] for frame in frames if name in frame.arrays]
        values[name] = (np.concatenate(given), 1.0 if name == "positions" else None)
    for name in sorted({name for frame in frames for name in frame.info}):
        told = [frame.info.get(name) for frame in frames]
        if name == "REF_energy" and None not in told:
            values["REF_energy per atom"] = (np.array(told) / n_atoms, 1.0)
        else:
            values |= dict(_leaves(name, [np.asarray(value).tolist() for value in told]))
    return values


def _numbers(path: Path) -> dict[str, Value]:
    return dict(_leaves("", json.loads(path.read_text(encoding="utf-8"))))


def _leaves(where: str, content: Any) -> Iterator[tuple[str, Value]]:
    """The numbers and texts of JSON by their place; lists of numbers stay together."""
    match content:
        case Mapping():
            for key, value in content.items():
                yield from _leaves(f"{where}.{key}".lstrip("."), value)
        case list() if not _is_array(content):
            yield f"length of {where}", (len(content), None)
            for index, value in enumerate(content):
                yield from _leaves(f"{where}[{index}]", value)
        case int() | float() | list():
            yield where, (content, None)
        case _:
            yield where, (repr(content), None)


def _is_array(content: list[Any]) -> bool:
    """Whether a list, which may hold lists, is one array of numbers."""
    try:
        return _numeric(np.array(content))
    except ValueError:
        return False


_READERS: dict[str, Callable[[Path], dict[str, Value]]] = {
    ".safetensors": _tensors,
    ".extxyz": _structures,
    ".json": _numbers,
}
