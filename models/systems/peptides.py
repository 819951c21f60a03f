"""The SPICE-like example: capped amino acids, dry and with a few waters, at GFN2-xTB.

Run `python -m models.systems.peptides --out deployments/campaigns/spice` to make both files again; rdkit,
of the extra `pretraining`, builds the conformers.
"""

import numpy as np
from ase import Atoms

from models.reference.xtb import Method
from models.systems.labelling import Part, make_files, minimum, settled, snapshots
from models.systems.molecules import from_smiles, water
from models.systems.packing import pack

METHOD: Method = "GFN2-xTB"

SIDE_CHAINS = {
    "gly": "", "ala": "C", "val": "C(C)C", "leu": "CC(C)C", "ser": "CO", "thr": "[C@@H](C)O", "cys": "CS",
    "met": "CCSC", "asn": "CC(N)=O", "asp": "CC(=O)O", "phe": "Cc1ccccc1", "his": "Cc1cnc[nH]1",
}  # fmt: skip

# (amino acid, water molecules, temperature in K) of each labelled trajectory.
TRAJECTORIES = (
    ("gly", 0, 300.0), ("ala", 0, 500.0), ("ser", 0, 300.0), ("cys", 0, 300.0), ("val", 0, 300.0),
    ("asn", 0, 400.0), ("met", 0, 300.0), ("phe", 0, 300.0), ("his", 0, 400.0), ("asp", 0, 300.0),
    ("ala", 2, 300.0), ("gly", 4, 300.0), ("thr", 2, 400.0), ("cys", 3, 400.0), ("ser", 4, 300.0),
    ("leu", 0, 500.0),
)  # fmt: skip
MINIMA = (("ala", 1), ("gly", 1), ("gly", 2), ("ser", 1), ("ser", 2), ("cys", 1), ("cys", 2), ("asn", 1))


def capped(amino_acid: str, seed: int) -> Atoms:
    """A conformer of acetyl–X–N-methylamide, the dipeptide of an uncharged amino acid X.

    Raises KeyError for an amino acid that is not in `SIDE_CHAINS`.
    """
    side_chain = SIDE_CHAINS[amino_acid]
    alpha = f"[C@@H]({side_chain})" if side_chain else "C"
    return from_smiles(f"CC(=O)N{alpha}C(=O)NC", seed)


def solvated(amino_acid: str, n_water: int, rng: np.random.Generator) -> Atoms:
    """`capped` with `n_water` molecules of water packed around it."""
    conformer = capped(amino_acid, seed=int(rng.integers(1, 1000)))
    return pack([conformer, *(water() for _ in range(n_water))], rng, closest=2.0)


def _labelled(index: int) -> list[Atoms]:
    amino_acid, n_water, temperature = TRAJECTORIES[index]
    rng = np.random.default_rng([1, index])
    frames = snapshots(
        settled(solvated(amino_acid, n_water, rng), METHOD),
        temperature,
        rng,
        time_step=1.0,
        friction=0.02,
        equilibrate=120.0,
        frames=15,
        interval=20.0,
    )
    for frame in frames:
        frame.info |= {"trajectory": f"t{index:02d}", "family": "peptides", "temperature": temperature}
        frame.info["name"] = f"{amino_acid}+{n_water}H2O" if n_water else amino_acid
    return frames


def _minimum(index: int) -> list[Atoms]:
    amino_acid, seed = MINIMA[index]
    atoms = settled(capped(amino_acid, seed), METHOD)
    return [minimum(atoms, f"{amino_acid} {seed}")]


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
