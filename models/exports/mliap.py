"""A potential in LAMMPS, through the unified Python interface of its ML-IAP package.

LAMMPS opens a file with a `LammpsPotential` and asks it for energies and forces, pair by pair. All that has
to be installed beside it is torch and this package: the network is TorchScript inside the file. LAMMPS wants
no base class, only these names.
"""

import io
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import torch

# TorchScript would rewrite the network after its first calls: it would round differently, and would take time
# to do it again whenever shapes have changed, as numbers of pairs always do.
torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])


class LammpsPotential:
    """One potential for `pair_style mliap unified`.

    An atom's energy is E0 and what its neighbours within `cutoff` (Å) give it, through `layers` rounds of
    messages. After one layer nothing is needed of a neighbour but its element. Further layers need to know
    which atom a ghost is the image of, which LAMMPS tells only with Kokkos, and here only in one process.
    """

    def __init__(
        self,
        energies: bytes,
        *,
        dtype: torch.dtype,
        symbols: Sequence[str],
        e0s: Sequence[float],
        cutoff: float,
        layers: int,
        about: Mapping[str, Any],
    ) -> None:
        """`energies` is TorchScript: interaction energies (N,), eV, of species, edges and their vectors."""
        self.energies = energies
        self.dtype = dtype
        self.e0s = torch.tensor(e0s, dtype=torch.float64)
        self.layers = layers
        self.about = dict(about)
        # What LAMMPS reads and writes.
        self.element_types = list(symbols)
        self.rcutfac = 0.5 * cutoff  # LAMMPS adds up those of both atoms
        self.ndescriptors = 1
        self.nparams = 1
        self.interface: Any = None
        self._prepare()

    def _prepare(self) -> None:
        self._network = torch.jit.load(io.BytesIO(self.energies), map_location="cpu")
        self._process = float(secrets.randbits(52))  # what this process is known by among others

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def compute_descriptors(self, data: Any) -> None:
        """Nothing: all is done by `compute_forces`."""

    def compute_gradients(self, data: Any) -> None:
        """Nothing: all is done by `compute_forces`."""

    def compute_forces(self, data: Any) -> None:
        """Give LAMMPS the energies of its atoms and the force of every pair; called at every step.

        Raises ValueError on types of atoms without an element, RuntimeError where ghosts cannot be resolved.
        """
        n_atoms = data.nlocal
        owners = self._owners(data) if self.layers > 1 else None  # all processes take part, also empty ones
        if n_atoms == 0:
            data.energy = 0.0
            return
        elements = torch.as_tensor(data.elems).long()
        if data.nlistatoms != n_atoms or bool((elements < 0).any()):
            raise ValueError(
                "every type of atoms needs an element in pair_coeff: this potential takes all atoms"
            )
        device = elements.device
        self._network.to(device)
        species, sender, receiver = elements[:n_atoms], elements[:0], elements[:0]
        vectors = torch.zeros(0, 3, dtype=self.dtype, device=device)
        if data.npairs:
            receiver, sender = torch.as_tensor(data.pair_i).long(), torch.as_tensor(data.pair_j).long()
            if owners is None:
                # One layer sees of a neighbour only its element: a node of each stands for all its ghosts.
                species = torch.cat([species, torch.arange(len(self.element_types), device=device)])
                sender = torch.where(sender < n_atoms, sender, n_atoms + elements[sender])
            else:
                sender = owners[sender]
            vectors = -torch.as_tensor(data.rij).to(self.dtype)  # LAMMPS's go from i to j
        with torch.enable_grad():
            vectors.requires_grad_()
            energies = self._network(species, torch.stack([sender, receiver]), vectors)[:n_atoms].double()
            (slope,) = torch.autograd.grad(energies.sum(), vectors)
        energies = energies.detach() + self.e0s.to(device)[elements[:n_atoms]]
        listed = energies[torch.as_tensor(data.iatoms)[:n_atoms].long()]
        data.energy = float(listed.sum())
        if _with_kokkos(data):
            torch.as_tensor(data.eatoms).copy_(listed)
        else:
            data.eatoms = listed.numpy()
        if data.npairs:
            forces = -slope.double().contiguous()
            data.update_pair_forces(forces if device.type != "cpu" else forces.numpy())

    def _owners(self, data: Any) -> torch.Tensor:
        """The atom of this process that each atom is, and each ghost is an image of."""
        if data.ntotal == data.nlocal and not _with_kokkos(data):
            return torch.arange(data.nlocal)
        if not _with_kokkos(data):
            raise RuntimeError(
                f"a potential with {self.layers} layers of messages and periodic images needs LAMMPS with "
                "Kokkos: start it with -k on -sf kk"
            )
        device = torch.as_tensor(data.elems).device
        here = torch.full((data.ntotal, 2), -1.0, dtype=torch.float64, device=device)
        here[: data.nlocal, 0] = self._process
        here[: data.nlocal, 1] = torch.arange(data.nlocal)
        there = torch.empty_like(here)
        data.forward_exchange(here, there, 2)
        if bool((there[:, 0] != self._process).any()):
            raise RuntimeError(
                f"a potential with {self.layers} layers of messages runs in one MPI process only; "
                "one with one layer runs in any number"
            )
        return there[:, 1].long()


def _with_kokkos(data: Any) -> bool:
    return hasattr(data, "forward_exchange")
