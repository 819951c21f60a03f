"""What LAMMPS hands to a potential, made from a structure: to try an export where there is no LAMMPS."""

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from models.graphs import Prediction, neighbours


class LammpsData:
    """Atoms, explicit ghosts and pairs of one process, under the names that LAMMPS gives them.

    `elems` (ntotal,) are indices into `symbols`; pairs go from an atom `pair_i` to all its neighbours
    `pair_j`, atoms or ghosts, within `cutoff` (Å); `rij` (npairs, 3), Å. What the potential writes: `energy`,
    `eatoms`, and forces by `update_pair_forces`.
    """

    def __init__(self, atoms: Atoms, symbols: Sequence[str], cutoff: float) -> None:
        (i, j), images = neighbours(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
        shifted = images.any(axis=1)
        keys = np.column_stack([j, images])[shifted].astype(int)
        ghosts, which = np.unique(keys, axis=0, return_inverse=True)
        self.nlocal = self.nlistatoms = len(atoms)
        self.ntotal = len(atoms) + len(ghosts)
        self.npairs = len(i)
        self.owner = np.concatenate([np.arange(len(atoms)), ghosts[:, 0]])
        self.iatoms = np.arange(len(atoms), dtype=np.int32)
        self.pair_i = i.astype(np.int32)
        self.pair_j = j.astype(np.int32)
        self.pair_j[shifted] = len(atoms) + which.ravel()
        self.rij = atoms.positions[j] - atoms.positions[i] + images @ atoms.cell.array
        kinds = [list(symbols).index(symbol) for symbol in atoms.get_chemical_symbols()]
        self.elems = np.array(kinds, dtype=np.int32)[self.owner]
        self.energy = 0.0
        self.eatoms = np.zeros(len(atoms))
        self.f = np.zeros((self.ntotal, 3))
        self.virial = np.zeros((3, 3))

    def update_pair_forces(self, forces: np.ndarray) -> None:
        """Add forces (npairs, 3) of pairs: on the first atom, and their opposites on the second."""
        np.add.at(self.f, self.pair_i, forces)
        np.add.at(self.f, self.pair_j, -forces)
        self.virial -= self.rij.T @ forces

    def prediction(self, atoms: Atoms) -> Prediction:
        """What the potential has said; forces on ghosts belong to the atoms they are images of."""
        forces = np.zeros((self.nlocal, 3))
        np.add.at(forces, self.owner, self.f)
        stress = -0.5 * (self.virial + self.virial.T) / atoms.get_volume() if atoms.pbc.all() else None
        return Prediction(energy=self.energy, forces=forces, stress=stress)


class KokkosData(LammpsData):
    """The same from LAMMPS with Kokkos, which also carries what atoms say to their ghosts, and back."""

    def update_pair_forces_gpu(self, forces: torch.Tensor) -> None:
        """`update_pair_forces` of a tensor."""
        self.update_pair_forces(forces.numpy())

    def forward_exchange(self, given: torch.Tensor, taken: torch.Tensor, width: int) -> None:
        """Rows (ntotal, width) of atoms, in `given`, for them and all their ghosts, in `taken`."""
        taken.copy_(given[torch.from_numpy(self.owner)])

    def reverse_exchange(self, given: torch.Tensor, taken: torch.Tensor, width: int) -> None:
        """The sum of the rows of an atom and its ghosts, at the atom; zero at ghosts."""
        taken.zero_().index_add_(0, torch.from_numpy(self.owner), given)
