"""The lithium-electrolyte example: Li⁺ and LiPF6 in carbonate clusters at GFN2-xTB.

Run `python -m models.systems.electrolytes --out deployments/campaigns/li-electrolyte` to make both files
again; rdkit, of the extra `pretraining`, builds the solvents.
"""

import numpy as np
from ase import Atoms

from models.reference.xtb import Method
from models.systems.labelling import Part, make_files, minimum, settled, snapshots
from models.systems.molecules import from_smiles, hexafluorophosphate, ion
from models.systems.packing import pack

METHOD: Method = "GFN2-xTB"

SOLVENTS = {"EC": "C1COC(=O)O1", "DMC": "COC(=O)OC", "EMC": "CCOC(=O)OC"}
SOLUTES = {"Li": 1, "LiPF6": 0}
"""Charge by solute."""

# (solute, its solvents, temperature in K) of each labelled trajectory.
TRAJECTORIES = (
    ("Li", ("EC", "EC"), 300.0), ("Li", ("EC", "EC", "EC"), 300.0), ("Li", ("DMC", "DMC"), 300.0),
    ("Li", ("EC", "EMC"), 400.0), ("Li", ("EC", "EC", "DMC"), 400.0), ("Li", ("EMC",), 500.0),
    ("Li", ("EC",), 500.0), ("Li", ("EC", "EC"), 500.0), ("LiPF6", (), 400.0), ("LiPF6", ("EC",), 300.0),
    ("LiPF6", ("EC", "EC"), 300.0), ("LiPF6", ("DMC",), 300.0), ("LiPF6", ("EMC",), 400.0),
    ("LiPF6", ("EC", "DMC"), 400.0), ("LiPF6", ("DMC", "DMC"), 300.0), ("LiPF6", ("EC",), 500.0),
)  # fmt: skip
MINIMA = (
    ("Li", ("EC",)), ("Li", ("EC", "EC")), ("Li", ("DMC",)), ("Li", ("EC", "DMC")),
    ("LiPF6", ()), ("LiPF6", ("EC",)), ("LiPF6", ("DMC",)), ("LiPF6", ("EC",)),
)  # fmt: skip


def cluster(solute: str, solvents: tuple[str, ...], rng: np.random.Generator) -> Atoms:
    """`solute` with molecules of solvent packed at random about it; charge in its info.

    Raises KeyError for a solute or a solvent that is not listed above.
    """
    charge = SOLUTES[solute]
    centre = hexafluorophosphate() if solute == "LiPF6" else ion("Li")
    molecules = [from_smiles(SOLVENTS[name], seed=int(rng.integers(1, 20))) for name in solvents]
    atoms = pack([centre, *molecules], rng, closest=2.0)
    atoms.info["charge"] = charge
    return atoms


def _labelled(index: int) -> list[Atoms]:
    solute, solvents, temperature = TRAJECTORIES[index]
    rng = np.random.default_rng([1, index])
    frames = snapshots(
        settled(cluster(solute, solvents, rng), METHOD, fmax=0.3, steps=150),
        temperature,
        rng,
        time_step=1.0,
        friction=0.02,
        equilibrate=200.0,
        frames=14,
        interval=20.0,
    )
    for frame in frames:
        frame.info |= {"trajectory": f"t{index:02d}", "family": "electrolytes", "temperature": temperature}
        frame.info["name"] = "+".join([solute, *solvents])
    return frames


def _minimum(index: int) -> list[Atoms]:
    solute, solvents = MINIMA[index]
    atoms = settled(cluster(solute, solvents, np.random.default_rng([2, index])), METHOD, steps=150)
    return [minimum(atoms, "+".join([solute, *solvents]) + f" {index}")]


def main() -> None:
    make_files(
        __doc__,
        {
            "labels": Part(make=_labelled, n=len(TRAJECTORIES)),
            "minima": Part(make=_minimum, n=len(MINIMA)),
        },
    )


if __name__ == "__main__":
    main()
