"""The families of structures that the shipped foundation is pre-trained on.

A family is a function `(rng) -> (structure, charge)`; each call starts one trajectory.
"""

from collections.abc import Callable

import numpy as np
from ase import Atoms

from models.systems.molecules import (
    from_smiles,
    hexafluorophosphate,
    ion,
    methyl_halide_complex,
    rock_salt_piece,
    thiophosphate,
    water,
)
from models.systems.packing import pack

ORGANICS = """
C CC C=C C#C CO CCO C=O CC=O CC(C)=O OC=O CC(=O)O N CN CC#N C#N NC=O CC(N)=O COC C1CO1 c1ccccc1
c1ccncc1 O=C=O S CS CSC CS(C)=O CS(C)(=O)=O c1ccsc1 CF FCF FC(F)F CCl ClCCl CBr BrCCBr CCBr O OO F
Cl Br P CP CP(C)C O=P(O)(O)O COP(=O)(OC)OC FP(F)F FP(F)(F)(F)F ClP(Cl)Cl NN NO CN(C)C=O NC(N)=O
c1cc[nH]c1 c1cnc[nH]1 Oc1ccccc1 Cc1ccccc1 FC(F)(F)C ClC=C BrC=C Clc1ccccc1 CSSC S=C=S O=S=O [H][H]
C1CCCC1 CC(C)C C=CC=C OCCO NCC(=O)O NCCO FC(F)(F)F BrBr ClCl CC(F)Cl NS(=O)(=O)C OCC(O)CO
""".split()  # noqa: SIM905
PEPTIDES = """
CC(=O)NCC(=O)NC CC(=O)N[C@@H](C)C(=O)NC CC(=O)N[C@@H](CO)C(=O)NC CC(=O)N[C@@H](CS)C(=O)NC
CC(=O)N[C@@H](CC(N)=O)C(=O)NC CC(=O)NC NCC(=O)NCC(=O)O C[C@H](N)C(=O)N[C@@H](C)C(=O)O
""".split()  # noqa: SIM905
CARBONATES = """
C1COC(=O)O1 COC(=O)OC CCOC(=O)OC CC1COC(=O)O1 FC1COC(=O)O1
""".split()  # noqa: SIM905

_SALTS = [("Na", "Cl"), ("Li", "Cl"), ("Na", "F"), ("Li", "F"), ("Na", "Br"), ("Li", "Br")]
_SPACING = {"NaCl": 2.82, "LiCl": 2.57, "NaF": 2.31, "LiF": 2.01, "NaBr": 2.98, "LiBr": 2.75}

Family = Callable[[np.random.Generator], tuple[Atoms, int]]


def _conformer(smiles: list[str], rng: np.random.Generator) -> Atoms:
    return from_smiles(str(rng.choice(smiles)), seed=int(rng.integers(1, 20)))


def nacl_aq(rng: np.random.Generator) -> tuple[Atoms, int]:
    """One or two NaCl pairs in three to fourteen water molecules."""
    pairs = 1 if rng.uniform() < 0.75 else 2
    n_water = int(rng.integers(3, 15))
    solutes = [ion("Na"), ion("Cl")] * pairs
    rest = [*solutes[1:], *(water() for _ in range(n_water))]
    order = rng.permutation(len(rest))
    return pack([solutes[0], *(rest[i] for i in order)], rng), 0


def water_clusters(rng: np.random.Generator) -> tuple[Atoms, int]:
    """One to sixteen water molecules."""
    return pack([water() for _ in range(int(rng.integers(1, 17)))], rng), 0


def organics(rng: np.random.Generator) -> tuple[Atoms, int]:
    """Small molecules, alone, in pairs, or with water."""
    molecules = [_conformer(ORGANICS, rng)]
    if rng.uniform() < 0.6:
        molecules.append(water() if rng.uniform() < 0.4 else _conformer(ORGANICS, rng))
    return pack(molecules, rng, closest=2.2), 0


def peptides(rng: np.random.Generator) -> tuple[Atoms, int]:
    """Capped amino acids and dipeptides, some with a few water molecules."""
    n_water = int(rng.integers(0, 4)) if rng.uniform() < 0.5 else 0
    return pack([_conformer(PEPTIDES, rng), *(water() for _ in range(n_water))], rng, closest=2.2), 0


def sn2(rng: np.random.Generator) -> tuple[Atoms, int]:
    """Methyl halides attacked by halide anions, along the exchange path (charge −1)."""
    leaving, entering = rng.choice(["F", "Cl", "Br"], 2)
    return methyl_halide_complex(str(leaving), str(entering), float(rng.uniform(-2.0, 2.0))), -1


def electrolytes(rng: np.random.Generator) -> tuple[Atoms, int]:
    """Lithium and sodium salts in carbonates, and thiophosphate pieces of the argyrodites."""
    kind = rng.uniform()
    if kind < 0.3:
        salt = hexafluorophosphate()
    elif kind < 0.45:
        salt = rock_salt_piece("Li", str(rng.choice(["F", "Cl"])), (2, 1, 1), 2.1)
    elif kind < 0.7:
        pieces = [thiophosphate(), Atoms("SLi2", positions=[[0, 0, 0], [1.6, 1.3, 0], [-1.6, 1.3, 0]])]
        pieces += [rock_salt_piece("Li", str(rng.choice(["Cl", "Br"])), (2, 1, 1), 2.1)]
        return pack([pieces[0], *(p for p in pieces[1:] if rng.uniform() < 0.6)], rng, closest=2.2), 0
    else:
        return pack(
            [_conformer(CARBONATES, rng) for _ in range(int(rng.integers(1, 3)))], rng, closest=2.2
        ), 0
    return pack(
        [salt, *(_conformer(CARBONATES, rng) for _ in range(int(rng.integers(1, 3))))], rng, closest=2.0
    ), 0


def salts(rng: np.random.Generator) -> tuple[Atoms, int]:
    """Bricks of alkali halides, strained by up to a tenth."""
    cation, anion = _SALTS[int(rng.integers(len(_SALTS)))]
    i, j, k = (int(n) for n in rng.integers(1, 4, size=3))
    shape = (max(i, 2), 1, 1) if i * j * k == 1 else (i, j, k)
    spacing = _SPACING[cation + anion] * float(rng.uniform(0.93, 1.1))
    return rock_salt_piece(cation, anion, shape, spacing), 0


FAMILIES: dict[str, tuple[Family, float]] = {
    "nacl_aq": (nacl_aq, 0.42),
    "water": (water_clusters, 0.10),
    "organics": (organics, 0.20),
    "peptides": (peptides, 0.07),
    "sn2": (sn2, 0.05),
    "electrolytes": (electrolytes, 0.11),
    "salts": (salts, 0.05),
}
"""Family by name, with its share of the trajectories."""
