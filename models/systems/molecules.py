"""Small molecules and ions by name, formula or SMILES, as ASE structures (Å)."""

from functools import cache

import numpy as np
from ase import Atoms
from ase.build import molecule


def ion(symbol: str) -> Atoms:
    """A single atom at the origin."""
    return Atoms(symbol, positions=[[0.0, 0.0, 0.0]])


def water() -> Atoms:
    """One water molecule in its experimental geometry."""
    return molecule("H2O")


@cache
def _embedded(smiles: str, seed: int) -> tuple[str, tuple[tuple[float, float, float], ...]]:
    from rdkit import Chem  # only the pre-training script needs rdkit
    from rdkit.Chem.rdDistGeom import EmbedMolecule

    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if EmbedMolecule(mol, randomSeed=seed) != 0:
        raise ValueError(f"no conformer found for SMILES {smiles!r}")
    symbols = "".join(atom.GetSymbol() for atom in mol.GetAtoms())
    return symbols, tuple(map(tuple, mol.GetConformer().GetPositions().tolist()))


def from_smiles(smiles: str, seed: int) -> Atoms:
    """One conformer of `smiles` by distance geometry (ETKDG); raises ValueError if none is found."""
    symbols, positions = _embedded(smiles, seed)
    return Atoms(symbols, positions=np.array(positions))


def hexafluorophosphate(counter_ion: str = "Li") -> Atoms:
    """LiPF6 (or another ion's salt): an octahedral PF6 with the cation above one face."""
    bond = 1.61
    fluorines = bond * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    cation = 2.6 / np.sqrt(3.0) * np.ones(3)
    return Atoms(f"P{'F' * 6}{counter_ion}", positions=np.vstack([np.zeros(3), fluorines, cation]))


def thiophosphate(counter_ion: str = "Li") -> Atoms:
    """Li3PS4 (or another ion's salt): a PS4 tetrahedron with three cations above its edges."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3.0)
    edges = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    return Atoms(
        f"PSSSS{counter_ion * 3}",
        positions=np.vstack([np.zeros(3), 2.05 * corners, 2.9 * edges]),
    )


def rock_salt_piece(cation: str, anion: str, shape: tuple[int, int, int], spacing: float) -> Atoms:
    """A brick of `shape` sites of the rock-salt lattice, nearest neighbours `spacing` Å apart.

    An odd number of sites is made neutral by leaving out the last one.
    """
    sites = np.array([[i, j, k] for i in range(shape[0]) for j in range(shape[1]) for k in range(shape[2])])
    sites = sites[: len(sites) - len(sites) % 2]
    symbols = [cation if s.sum() % 2 == 0 else anion for s in sites]
    return Atoms(symbols, positions=spacing * sites)


def methyl_halide_complex(leaving: str, entering: str, asymmetry: float) -> Atoms:
    """[Y···CH3···X]⁻ along its collinear exchange path, at asymmetry d(C–X) − d(C–Y) in Å."""
    reach = {"F": 1.75, "Cl": 2.30, "Br": 2.45}  # C–X at the symmetric point
    shortest = {"F": 1.40, "Cl": 1.80, "Br": 1.95}  # C–X in the free methyl halide
    d_leaving = max(reach[leaving] + 0.5 * asymmetry, shortest[leaving])
    d_entering = max(reach[entering] - 0.5 * asymmetry, shortest[entering])
    tilt = 0.35 * np.tanh(asymmetry)
    angles = np.array([0.0, 2.0, 4.0]) * np.pi / 3.0
    hydrogens = np.stack([1.04 * np.cos(angles), 1.04 * np.sin(angles), np.full(3, tilt)], axis=1)
    positions = np.vstack([np.zeros(3), hydrogens, [0, 0, d_leaving], [0, 0, -d_entering]])
    return Atoms(["C", "H", "H", "H", leaving, entering], positions=positions)
