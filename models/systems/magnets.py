"""Strained and rattled crystals of magnetic transition metals, labelled with moments by CHGNet.

Run `python -m models.systems.magnets --out DIR`, with the extra `chgnet`. Labels say how large moments are
and nothing of their order: CHGNet sees none, and its moments are all positive.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal

from models.reference.chgnet import Chgnet
from models.systems.deformation import random_strain
from models.systems.labelling import Part, make_files


def _rock_salt(metal: str, a: float) -> Callable[[], Atoms]:
    return lambda: bulk(f"{metal}O", "rocksalt", a=a, cubic=True)


def _layered(metal: str, a: float, c: float) -> Callable[[], Atoms]:
    """The layers of α-NaFeO2."""
    places = [(0, 0, 0.5), (0, 0, 0), (0, 0, 0.26)]
    cell = [a, a, c, 90, 90, 120]
    return lambda: crystal(["Li", metal, "O"], places, spacegroup=166, cellpar=cell)


CRYSTALS: dict[str, Callable[[], Atoms]] = {
    "Fe": lambda: bulk("Fe", "bcc", a=2.87, cubic=True),
    "Co": lambda: bulk("Co", "hcp", a=2.51, c=4.07),
    "Ni": lambda: bulk("Ni", "fcc", a=3.52, cubic=True),
    "MnO": _rock_salt("Mn", 4.44),
    "FeO": _rock_salt("Fe", 4.33),
    "CoO": _rock_salt("Co", 4.26),
    "NiO": _rock_salt("Ni", 4.18),
    "LiMnO2": _layered("Mn", 2.87, 14.6),
    "LiCoO2": _layered("Co", 2.82, 14.05),
    "LiNiO2": _layered("Ni", 2.88, 14.2),
}
"""By name: ideal cells of about the measured lattice parameters."""


def trajectory(index: int, frames: int = 3) -> list[Atoms]:
    """Labelled frames of one strain of one of the crystals, in turn."""
    rng = np.random.default_rng(index)
    name = list(CRYSTALS)[index % len(CRYSTALS)]
    ideal = CRYSTALS[name]()
    ideal.set_cell(
        ideal.cell.array @ (np.eye(3) * rng.uniform(0.96, 1.06) + random_strain(0.015, rng)), scale_atoms=True
    )
    made = []
    for _ in range(frames):
        moved = Atoms(ideal.numbers, positions=ideal.positions, cell=ideal.cell, pbc=True)
        moved.positions += rng.normal(0.0, 0.08, size=moved.positions.shape)
        moved.info |= {"trajectory": f"{name}-{index}", "family": name}
        with tempfile.TemporaryDirectory() as work:
            made.append(Chgnet().label(moved, Path(work)))
    return made


def main() -> None:
    """Write `labels.extxyz`."""
    make_files(__doc__ or "", {"labels": Part(make=trajectory, n=8 * len(CRYSTALS))})


if __name__ == "__main__":
    main()
