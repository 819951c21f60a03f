"""What networks of our own share: energies from edges' vectors, forces and stresses from their gradient."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import torch

from models.networks.radial import Repulsion


class AtomicEnergies(torch.nn.Module):
    """The E0s (heads × elements), eV, in float64, where a MACE has them too."""

    atomic_energies: torch.Tensor

    def __init__(self, energies: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.register_buffer("atomic_energies", torch.tensor(energies, dtype=torch.float64))

    def forward(self, heads: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        """The E0 of each atom (N,), of its head."""
        return self.atomic_energies[heads, species]


class EdgeNetwork(torch.nn.Module):
    """A network whose energy depends on species and the vectors of edges alone.

    It is called like a MACE network and answers like one. Subclasses say `node_energies`, and how it is
    computed; `description` is what `potentials.build` makes the same network from.
    """

    kind: ClassVar[str]
    embeds: ClassVar[str]
    """The name of the parameter that has one row for each element."""
    n_invariants: int
    """How many of the last columns of the features of atoms are invariants."""
    direct: Final[bool]
    """Whether forces are the network's own and not the gradient of its energy."""
    atomic_numbers: torch.Tensor
    r_max: torch.Tensor
    scale: torch.Tensor
    neighbours: torch.Tensor

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__()
        self.description: dict[str, Any] = description
        self.layers: int = int(description.get("layers", 1))
        self.direct = description.get("forces") == "direct"
        self.heads: list[str] = list(description["heads"])
        numbers = [int(z) for z in description["atomic_numbers"]]
        self.atomic_energies_fn = AtomicEnergies(description["atomic_energies"])
        self.repulsion = Repulsion(numbers)
        self.register_buffer("atomic_numbers", torch.tensor(numbers), persistent=False)
        self.register_buffer("r_max", torch.tensor(float(description["r_max"])), persistent=False)
        self.register_buffer("scale", torch.tensor(float(description["scale"])), persistent=False)
        self.register_buffer("neighbours", torch.tensor(float(description["neighbours"])), persistent=False)

    def node_energies(
        self, species: torch.Tensor, edge_index: torch.Tensor, vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Interaction energies of atoms (N,), eV, and their features (N, F), invariants last.

        `species` (N,) are indices of elements; edges (2, E) go from a sender to the receiver whose energy
        they enter; `vectors` (E, 3), Å, point from the sender to the receiver.
        """
        raise NotImplementedError

    def node_forces(self, features: torch.Tensor) -> torch.Tensor:
        """Where they are `direct`, the forces (N, 3), eV/Å, from the features of the atoms."""
        raise NotImplementedError

    def forward(
        self,
        data: dict[str, torch.Tensor],
        training: bool = False,
        compute_force: bool = True,
        compute_stress: bool = False,
    ) -> dict[str, torch.Tensor | None]:
        """Energies, forces and stresses of a batch, as `graphs.collate` makes it.

        `interaction_energy` (B,) eV, without E0s; `node_energy` (N,) eV, with them; `forces` (N, 3) eV/Å;
        `stress` (B, 3, 3) eV/Å³, or None; `node_feats` (N, F). With `training`, all of them can be
        differentiated with respect to the parameters and `data["positions"]`.
        """
        positions, species, batch = data["positions"], data["species"], data["batch"]
        sender, receiver = data["edge_index"][0], data["edge_index"][1]
        if training:
            positions.requires_grad_(True)
        vectors = positions[receiver] - positions[sender] + data["shifts"]
        derived = compute_stress or (compute_force and not self.direct)
        if derived and not training:
            vectors = vectors.detach().requires_grad_(True)
        energies, features = self.node_energies(species, data["edge_index"], vectors)
        n_structures = data["ptr"].shape[0] - 1
        total = torch.zeros(n_structures, dtype=energies.dtype, device=energies.device)
        total = total.index_add(0, batch, energies)
        forces: torch.Tensor | None = None
        stress: torch.Tensor | None = None
        if self.direct and compute_force:
            forces = self.node_forces(features)
        if derived:
            gradient = torch.autograd.grad([energies.sum()], [vectors], create_graph=training)[0]
            assert gradient is not None
            if compute_force and not self.direct:
                forces = torch.zeros_like(positions)
                forces = forces.index_add(0, sender, gradient).index_add(0, receiver, -gradient)
            if compute_stress:
                stress = stresses(gradient, vectors, batch[receiver], data["cell"])
        e0s = self.atomic_energies_fn(data["head"][batch], species)
        return {
            "interaction_energy": total,
            "node_energy": energies + e0s.to(energies.dtype),
            "forces": forces,
            "stress": stress,
            "node_feats": features,
        }


def stresses(
    gradient: torch.Tensor, vectors: torch.Tensor, structure: torch.Tensor, cells: torch.Tensor
) -> torch.Tensor:
    """Stresses (B, 3, 3), eV/Å³, from the energy's `gradient` (E, 3) with respect to edges' `vectors` (E, 3).

    `structure` (E,) says whose edge it is; `cells` are (3 B, 3), Å.
    """
    cells = cells.view(-1, 3, 3)
    outer = (gradient[:, :, None] * vectors[:, None, :]).view(-1, 9)
    virial = torch.zeros(cells.shape[0], 9, dtype=outer.dtype, device=outer.device)
    virial = virial.index_add(0, structure, outer).view(-1, 3, 3)
    volume = torch.linalg.det(cells).abs()
    return 0.5 * (virial + virial.transpose(1, 2)) / volume[:, None, None]
