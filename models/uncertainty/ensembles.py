"""What the members of an ensemble say of structures, next to what the specialist says.

A shared trunk makes members cheap. A member adds Δw · Σ_i f_i to the energy, where f_i (K,) are the
invariants of atom i in the last layer. The energies and forces of all members come from one pass through the
network and one vector–Jacobian product for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from models import devices
from models.distillation.features import n_invariants
from models.graphs import Batch, Graph, batches, collate, e0_sum, edge_counts, predict
from models.kernels import for_inference
from models.memory import keep_freed_memory
from models.potentials import Potential

_BYTES = 32_000  # of one number per edge of a batch; see `graphs.predict`


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What is said of one structure: `energy` eV and `forces` (N, 3) eV/Å by the specialist.

    `energies` (M,) and `member_forces` (M, N, 3) are the members' deviations from their mean, over √M, so
    that sums of squares over members are variances.
    """

    energy: float
    forces: np.ndarray
    energies: np.ndarray
    member_forces: np.ndarray

    @property
    def atoms(self) -> np.ndarray:
        """Spread of every atom's force (N,), eV/Å: sqrt(mean over members of |F − F̄|²)."""
        spread: np.ndarray = np.sqrt((self.member_forces**2).sum(axis=(0, 2)))
        return spread

    @property
    def energy_spread(self) -> float:
        """Standard deviation of the members' energies, eV."""
        return float(np.linalg.norm(self.energies))

    @property
    def gradient(self) -> np.ndarray:
        """∂ `energy_spread` / ∂R (N, 3), eV/Å; zero where all members agree on the energy."""
        spread = self.energy_spread
        if spread == 0.0:
            return np.zeros_like(self.forces)
        gradient: np.ndarray = -np.tensordot(self.energies, self.member_forces, axes=1) / spread
        return gradient


def ask_networks(potentials: Sequence[Potential], items: Sequence[Graph]) -> list[Opinion]:
    """What networks say of graphs; the first is the specialist, and a member like the others."""
    said = [predict(potential, items) for potential in potentials]
    opinions = []
    for of_one in zip(*said, strict=True):
        energies = np.array([p.energy for p in of_one])
        forces = np.stack([p.forces for p in of_one])
        root = np.sqrt(len(of_one))
        opinions.append(
            Opinion(
                energy=of_one[0].energy,
                forces=of_one[0].forces,
                energies=(energies - energies.mean()) / root,
                member_forces=(forces - forces.mean(axis=0)) / root,
            )
        )
    return opinions


def perturbed(potential: Potential, perturbations: torch.Tensor) -> Potential:
    """The same potential for `ask_perturbed`, with `perturbations` Δw (M, K) on the chosen device."""
    return replace(potential, network=Perturbed(devices.moved(potential.network), perturbations))


def ask_perturbed(potential: Potential, items: Sequence[Graph]) -> list[Opinion]:
    """What a `perturbed` potential says of graphs; the perturbations are deviations already."""
    keep_freed_memory()
    network = potential.network
    weights = next(network.parameters())
    e0s = torch.atleast_2d(network.atomic_energies_fn.atomic_energies)
    opinions: list[Opinion] = []
    for run in batches(range(len(items)), edge_counts(items), _BYTES // weights.dtype.itemsize):
        chosen = [items[i] for i in run]
        batch = collate(chosen, e0s.shape[1], weights.dtype, weights.device)
        output = network(batch)
        energies = output["interaction_energy"].detach().double()
        own = (energies[:, 0] + e0_sum(batch, e0s)).cpu().tolist()
        members = energies[:, 1:].cpu().numpy()
        forces = output["forces"].detach().double().cpu().split([g.n_atoms for g in chosen], dim=1)
        for k, found in enumerate(forces):
            opinions.append(
                Opinion(
                    energy=own[k],
                    forces=found[0].numpy(),
                    energies=members[k],
                    member_forces=found[1:].numpy(),
                )
            )
    return opinions


class Perturbed(torch.nn.Module):
    """A network that says its own energies and forces, and what each perturbation adds to them.

    It answers like a network, so that `tracing` can write its operations down.
    """

    def __init__(self, network: Any, perturbations: torch.Tensor) -> None:
        super().__init__()
        self.network = for_inference(network)
        self.register_buffer("perturbations", perturbations.to(next(network.parameters())))
        self._n_invariants = n_invariants(network)

    def __getattr__(self, name: str) -> Any:
        if name in ("r_max", "heads", "atomic_numbers", "atomic_energies_fn"):
            return getattr(self.network, name)
        return super().__getattr__(name)

    def forward(
        self, data: Batch, *, compute_force: bool = True, compute_stress: bool = False
    ) -> dict[str, torch.Tensor]:
        """`interaction_energy` (B, 1 + M) eV and `forces` (1 + M, ΣN, 3) eV/Å, the network's own first."""
        data = data | {"positions": data["positions"].detach()}
        direct = getattr(self.network, "direct", False)
        output = self.network(data, training=True, compute_force=direct)
        energies = output["interaction_energy"]
        features = output["node_feats"][:, -self._n_invariants :]

        def forces(result: torch.Tensor, cotangent: torch.Tensor) -> torch.Tensor:
            (found,) = torch.autograd.grad(
                result, data["positions"], -cotangent, retain_graph=True, materialize_grads=True
            )
            return found

        own = output["forces"] if direct else forces(energies, torch.ones_like(energies))
        members = [forces(features, change.expand_as(features)) for change in self.perturbations]
        summed = features.new_zeros(len(energies), self._n_invariants).index_add(0, data["batch"], features)
        changes = summed @ self.perturbations.T
        return {
            "interaction_energy": torch.cat([energies[:, None], changes], dim=1),
            "forces": torch.stack([own, *members]),
        }
