"""Datasets that do not fit into memory: labelled structures in ASE's LMDB databases, read as graphs.

The files are those that mace-torch reads: `ase.db` of type `aselmdb`, one file or a folder of them.
"""

import bisect
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from ase import Atoms
from ase.db import connect

from models import graphs
from models.graphs import Graph, Surveyed

_SUFFIX = ".aselmdb"
_MAGIC = 0xBEEFC0DE.to_bytes(4, "little")
_FORMAT = 2


class StoreError(ValueError):
    """A database that cannot be read, or holds a structure that cannot be used; the message names it."""


class StoredGraphs(Surveyed):
    """The graphs of a database, each read and given its neighbours when it is asked for.

    Labels are the energy, forces, stress and moments of each row's calculator (eV, eV/Å, eV/Å³, μB),
    unlabelled where it has none. `edge_counts` and `digest` come from one pass over the structures, which is
    remembered in a file beside the database and made anew when the database, the elements, the cutoff (Å) or
    the head change. Only the last structures read are held.
    """

    def __init__(self, path: Path, elements: Sequence[int], cutoff: float, head: int = 0) -> None:
        """Open a database; raises StoreError naming what is missing, empty or unreadable."""
        self.path, self.elements, self.cutoff, self.head = path, tuple(elements), cutoff, head
        self._files = _files(path)
        self._ends = np.cumsum([len(_database(file).ids) for file in self._files]).tolist()
        if not len(self):
            raise StoreError(f"{path}: holds no structures")
        self.edge_counts, self.digest = self._survey()

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, index: int) -> Graph: ...

    @overload
    def __getitem__(self, index: slice) -> list[Graph]: ...

    def __getitem__(self, index: int | slice) -> Graph | list[Graph]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # raises IndexError; counts from the end where negative
        number = bisect.bisect(self._ends, place)
        start = self._ends[number - 1] if number else 0
        file = self._files[number]
        try:
            atoms = _labelled(_database(file)._get_row_by_index(place - start).toatoms())
            return graphs.graph(atoms, self.elements, self.cutoff, self.head)
        except Exception as error:
            raise StoreError(f"{file}, structure {place - start}: {error}") from error

    def __iter__(self) -> Iterator[Graph]:
        return (self[i] for i in range(len(self)))

    def _survey(self) -> tuple[np.ndarray, str]:
        state = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in self._files]
        asked = [_FORMAT, self.elements, self.cutoff, self.head]
        name = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
        remembered = self.path.parent / f"{self.path.name}.{name}.npz"
        if remembered.exists():
            with np.load(remembered) as survey:
                if str(survey["state"]) == json.dumps(state):
                    return survey["edge_counts"], str(survey["digest"])
        counts: list[int] = []
        digest = graphs.digest(_counted(self, counts))
        temporary = remembered.with_name(f"{remembered.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as target:
            np.savez(target, edge_counts=np.array(counts), digest=digest, state=json.dumps(state))
        temporary.replace(remembered)
        return np.array(counts), digest


def _counted(items: Iterator[Graph] | Sequence[Graph], counts: list[int]) -> Iterator[Graph]:
    for item in items:
        counts.append(item.n_edges)
        yield item


def _files(path: Path) -> list[Path]:
    found = sorted(path.glob(f"*{_SUFFIX}")) if path.is_dir() else [path]
    if not found or not found[0].is_file():
        raise StoreError(f"{path}: no such file, and no folder with {_SUFFIX} files")
    return found


_open: dict[Path, tuple[tuple[int, int, int], Any]] = {}


def _database(file: Path) -> Any:
    """The database of a file: opened once per process, as LMDB demands, and again after a fork or change."""
    status = file.stat()
    stamp = (os.getpid(), status.st_ino, status.st_mtime_ns)
    if file not in _open or _open[file][0] != stamp:
        _open.pop(file, None)
        with file.open("rb") as content:
            # Asked first: a connection that fails leaves an object behind that fails again when it goes.
            if content.read(20)[16:] != _MAGIC:
                raise StoreError(f"{file}: not an LMDB database; write it with ase.db, type 'aselmdb'")
        _open[file] = (
            stamp,
            connect(file, type="aselmdb", use_lock_file=False, readonly=True, readahead=False),
        )
    return _open[file][1]


def _labelled(atoms: Atoms) -> Atoms:
    labels = atoms.calc.results if atoms.calc is not None else {}
    if "energy" in labels:
        atoms.info["REF_energy"] = float(labels["energy"])
    if "forces" in labels:
        atoms.arrays["REF_forces"] = np.asarray(labels["forces"], dtype=float)
    if "stress" in labels:
        atoms.info["REF_stress"] = np.asarray(labels["stress"], dtype=float)
    if "magmoms" in labels:
        atoms.arrays["REF_magmoms"] = np.asarray(labels["magmoms"], dtype=float)
    return atoms
