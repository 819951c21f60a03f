"""The argyrodite example: crystals of Li6PS5Cl and of its chlorine-rich relatives at GFN1-xTB.

GFN1-xTB is the level of the shipped foundation, which knows clusters only: what is learnt here is the
crystal and its stresses. The charges of GFN2-xTB do not converge in it; with bromine, GFN1-xTB gives
forces of hundreds of eV/Å. tblite knows no k-points, so that every label is of the conventional cell.

Run `python -m models.systems.argyrodite --out deployments/campaigns/argyrodite` to make both files again.
"""

import numpy as np
from ase import Atoms
from ase.spacegroup import crystal

from models.reference.base import labelled_copy
from models.reference.xtb import Method, calculator
from models.systems.deformation import deformed, random_strain
from models.systems.labelling import Part, make_files, relax

METHOD: Method = "GFN1-xTB"

EDGE = 9.85  # Å; Deiseroth et al., Angew. Chem. Int. Ed. 47, 755 (2008)
VOLUMES = (0.98, 1.03, 1.08, 1.13, 1.18)  # of the diffraction's; GFN1-xTB makes it less dense
RATTLE = {"Li": (0.04, 0.20), "other": (0.02, 0.10)}  # Å, least and largest width
FRAMES = 4

# (chlorines for sulphur and lithium, exchanged pairs of chlorine and sulphur) of each labelled trajectory.
TRAJECTORIES = ((0, 0), (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1))


def argyrodite(rng: np.random.Generator, *, rich: int = 0, exchanged: int = 0) -> Atoms:
    """The conventional cell of Li(6-x)PS(5-x)Cl(1+x), F-43m with lithium on 24g; x is a quarter of `rich`.

    Li6PS5Cl itself has 52 atoms. `rich` of the four free sulphurs (4c) are chlorine, a lithium missing for
    each; `exchanged` of the others have changed places with a chlorine (4a), as in the real crystal.
    `rng` chooses which. Raises ValueError where that is more than four.
    """
    if not 0 <= rich + exchanged <= 4:
        raise ValueError("there are four free sulphurs")
    atoms = crystal(
        ["Li", "P", "S", "S", "Cl"],
        basis=[(0.02, 0.25, 0.25), (0.0, 0.0, 0.5), (0.12, 0.12, 0.62), (0.25, 0.25, 0.25), (0.0, 0.0, 0.0)],
        spacegroup=216,
        cellpar=[EDGE, EDGE, EDGE, 90, 90, 90],
    )
    site = atoms.arrays["spacegroup_kinds"]
    sulphurs, chlorines = rng.permutation(np.flatnonzero(site == 3)), np.flatnonzero(site == 4)
    atoms.numbers[sulphurs[: rich + exchanged]] = 17
    atoms.numbers[rng.permutation(chlorines)[:exchanged]] = 16
    del atoms[rng.permutation(np.flatnonzero(site == 0))[:rich]]
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)


def _isotropic(atoms: Atoms, volume: float) -> Atoms:
    return deformed(atoms, (volume ** (1.0 / 3.0) - 1.0) * np.eye(3), np.arange(len(atoms)))


def _labelled(index: int) -> list[Atoms]:
    rng = np.random.default_rng([1, index])
    rich, exchanged = TRAJECTORIES[index]
    start = argyrodite(rng, rich=rich, exchanged=exchanged)
    volumes = rng.permutation(np.linspace(VOLUMES[0], VOLUMES[-1], FRAMES))
    frames = []
    for volume in volumes:
        frame = deformed(_isotropic(start, volume), random_strain(0.01, rng), np.arange(len(start)))
        reach = rng.uniform()
        for atom in frame:
            least, largest = RATTLE.get(atom.symbol, RATTLE["other"])
            atom.position += rng.normal(0.0, least + reach * (largest - least), size=3)
        frame.calc = calculator(METHOD)
        frames.append(labelled_copy(frame))
        frames[-1].info |= {"trajectory": f"t{index:02d}", "family": "argyrodites"}
    return frames


def _crystal(index: int) -> list[Atoms]:
    """Li6PS5Cl at the volume of that index, its atoms relaxed."""
    frame = _isotropic(argyrodite(np.random.default_rng(0)), VOLUMES[index])
    frame.calc = calculator(METHOD)
    relax(frame, fmax=0.05, steps=40)
    labelled = labelled_copy(frame)
    labelled.info["crystal"] = "Li6PS5Cl"
    return [labelled]


def main() -> None:
    make_files(
        __doc__,
        {
            "labels": Part(make=_labelled, n=len(TRAJECTORIES)),
            "crystals": Part(make=_crystal, n=len(VOLUMES)),
        },
    )


if __name__ == "__main__":
    main()
