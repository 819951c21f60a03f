"""What a reference says of crystals, read from the frames of a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from models import lattice
from models.datasets import DataError
from models.validation.base import Number

LEAST_VOLUMES = 5  # for the four parameters of an equation of state


@dataclass(frozen=True, kw_only=True)
class KnownCrystal:
    """One crystal, and what the reference says of it.

    Attributes:
        name: of the crystal.
        frames: by volume; one, or several that give an equation of state.
        minimum: the frame of the lowest energy.
        volume: at the minimum, Å³.
        bulk_modulus: there, GPa; None where nobody knows.
        elastic: tensor (6, 6) in Voigt order, GPa, likewise.
        highest: frequency of a phonon, THz, likewise.
    """

    name: str
    frames: Sequence[Atoms]
    minimum: Atoms
    volume: float
    bulk_modulus: Number
    elastic: np.ndarray | None
    highest: Number


def known_crystals(path: Path, frames: Sequence[Atoms]) -> list[KnownCrystal]:
    """The crystals in the frames of a file, in its order.

    Raises DataError naming the file, the frame or crystal, and the key, on a frame without name or cell, a
    crystal whose frames give no equation of state, and a value that is not a number.
    """
    groups: dict[str, list[Atoms]] = {}
    for index, atoms in enumerate(frames):
        where = f"{path}, frame {index}"
        if "crystal" not in atoms.info:
            raise DataError(f"{where}: has no info 'crystal', the name of the crystal")
        if not atoms.pbc.all():
            raise DataError(f"{where}: is not periodic in all directions")
        groups.setdefault(str(atoms.info["crystal"]), []).append(atoms)
    return [_reference(f"{path}, crystal {name}", name, group) for name, group in groups.items()]


def _reference(where: str, name: str, group: Sequence[Atoms]) -> KnownCrystal:
    frames = sorted(group, key=lambda atoms: float(atoms.get_volume()))
    minimum, volume = frames[0], float(frames[0].get_volume())
    bulk_modulus = _known(where, frames, "REF_bulk_modulus", ())
    if len(frames) > 1:
        energies = [_known(where, [atoms], "REF_energy", ()) for atoms in frames]
        if len(frames) < LEAST_VOLUMES or None in energies:
            raise DataError(
                f"{where}: {len(frames)} frames; give one, or {LEAST_VOLUMES} and more with REF_energy in all"
            )
        labels = [float(energy) for energy in energies if energy is not None]
        state = lattice.equation_of_state([float(atoms.get_volume()) for atoms in frames], labels)
        if state is None:
            raise DataError(f"{where}: REF_energy has no minimum within the volumes of the frames")
        minimum, volume, bulk_modulus = frames[int(np.argmin(labels))], state.volume, state.bulk_modulus
    elastic = _known(where, frames, "REF_elastic", (36,))
    return KnownCrystal(
        name=name,
        frames=frames,
        minimum=minimum,
        volume=volume,
        bulk_modulus=bulk_modulus,
        elastic=None if elastic is None else elastic.reshape(6, 6),
        highest=_known(where, frames, "REF_highest_frequency", ()),
    )


def _known(where: str, frames: Sequence[Atoms], key: str, shape: tuple[int, ...]) -> Any:
    """The number or numbers under a key of any frame's info; None where there are none."""
    for atoms in frames:
        if key in atoms.info:
            try:
                value = np.asarray(atoms.info[key], dtype=float).reshape(shape)
            except ValueError:
                value = np.asarray(np.nan)
            if not np.isfinite(value).all():
                raise DataError(f"{where}: {key} must be {int(np.prod(shape))} finite numbers")
            return value if shape else float(value)
    return None
