"""A light equivariant message-passing network in the manner of PaiNN (Schütt et al., arXiv 2102.03150).

Atoms have scalars and vectors. Neighbours send both, weighted by filters of the distance; then each atom
mixes what it has. Lengths of vectors are smooth at zero, so that all derivatives exist.
"""

from typing import Any

import torch
from torch.nn import Linear, Sequential, SiLU

from models.networks.base import EdgeNetwork
from models.networks.radial import RadialBasis


class Message(torch.nn.Module):
    """What the neighbours of an atom add to its scalars and vectors."""

    def __init__(self, channels: int, basis: int, neighbours: float) -> None:
        super().__init__()
        self.sent = Sequential(Linear(channels, channels), SiLU(), Linear(channels, 3 * channels))
        self.filters = Linear(basis, 3 * channels, bias=False)
        self.norm = neighbours**-0.5

    def forward(
        self,
        scalars: torch.Tensor,
        vectors: torch.Tensor,
        basis: torch.Tensor,
        directions: torch.Tensor,
        edge_index: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New scalars (N, C) and vectors (N, 3, C) from the old ones and edges (2, E)."""
        sender, receiver = edge_index[0], edge_index[1]
        weights = self.norm * self.sent(scalars).index_select(0, sender) * self.filters(basis)
        # Not `chunk`: TorchScript cannot differentiate it where a part is not used.
        scalar, along, onward = weights.tensor_split(3, dim=1)
        vector = directions[:, :, None] * along[:, None] + vectors.index_select(0, sender) * onward[:, None]
        return scalars.index_add(0, receiver, scalar), vectors.index_add(0, receiver, vector)


class Mixing(torch.nn.Module):
    """How the scalars and vectors of one atom change each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.pairs = Linear(channels, 2 * channels, bias=False)
        self.gates = Sequential(Linear(2 * channels, channels), SiLU(), Linear(channels, 3 * channels))

    def forward(self, scalars: torch.Tensor, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """New scalars (N, C) and vectors (N, 3, C)."""
        first, second = self.pairs(vectors).tensor_split(2, dim=2)
        lengths = ((second * second).sum(dim=1) + 1.0).sqrt() - 1.0
        scalar, product, vector = self.gates(torch.cat([scalars, lengths], dim=1)).tensor_split(3, dim=1)
        scalars = scalars + scalar + product * (first * second).sum(dim=1)
        return scalars, vectors + vector[:, None] * first


class Painn(EdgeNetwork):
    """`layers` rounds of messages between `channels` scalars and vectors.

    With forces "direct" they are read from the vectors; then they are not the gradient of the energy, and
    the stress, which is, does not belong to them.
    """

    kind = "painn"
    embeds = "embedding"

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        channels, basis = int(description["channels"]), int(description["basis"])
        neighbours = float(description["neighbours"])
        self.channels = self.n_invariants = channels
        self.radial_basis = RadialBasis(float(description["r_max"]), basis)
        self.embedding = torch.nn.Parameter(torch.randn(len(self.atomic_numbers), channels))
        self.messages = torch.nn.ModuleList(
            [Message(channels, basis, neighbours) for _ in range(self.layers)]
        )
        self.mixings = torch.nn.ModuleList([Mixing(channels) for _ in range(self.layers)])
        self.energy = Sequential(Linear(channels, channels), SiLU(), Linear(channels, 1, bias=False))
        if self.direct:
            self.gates = Sequential(Linear(channels, channels), SiLU(), Linear(channels, channels))

    def node_energies(
        self, species: torch.Tensor, edge_index: torch.Tensor, vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `EdgeNetwork.node_energies`; the features are vectors (3 C), then scalars (C)."""
        distances = (vectors * vectors).sum(dim=1).sqrt()
        directions = vectors / distances[:, None]
        basis = self.radial_basis(distances)
        scalars = self.embedding[species]
        arrows = torch.zeros(species.shape[0], 3, self.channels, dtype=scalars.dtype, device=scalars.device)
        for message, mixing in zip(self.messages, self.mixings):  # noqa: B905  (TorchScript has no strict)
            scalars, arrows = message(scalars, arrows, basis, directions, edge_index)
            scalars, arrows = mixing(scalars, arrows)
        repulsion = self.repulsion(distances, species[edge_index[1]], species[edge_index[0]])
        energies = self.scale * (self.energy(scalars)[:, 0] - self.alone()[species])
        return energies.index_add(0, edge_index[1], repulsion), torch.cat([arrows.flatten(1), scalars], dim=1)

    def alone(self) -> torch.Tensor:
        """What the network makes of an atom of each element without neighbours, whose energy is its E0."""
        scalars = self.embedding
        arrows = torch.zeros(scalars.shape[0], 3, self.channels, dtype=scalars.dtype, device=scalars.device)
        for mixing in self.mixings:
            scalars, arrows = mixing(scalars, arrows)
        return self.energy(scalars)[:, 0]

    def node_forces(self, features: torch.Tensor) -> torch.Tensor:
        """See `EdgeNetwork.node_forces`."""
        arrows, scalars = features.split([3 * self.channels, self.channels], dim=1)
        return self.scale * (arrows.view(-1, 3, self.channels) * self.gates(scalars)[:, None]).sum(dim=2)
