"""A network of one layer in the manner of the atomic cluster expansion (Drautz, Phys. Rev. B 99, 014104,
2019), with moments as plain tensors (Shapeev, Multiscale Model. Simul. 14, 1153, 2016).

An atom's neighbours are summed up into moments, products of the moments are invariants of up to five bodies,
and a small network of the atom's element makes its energy of them, with any further products. All that
depends on an edge is a few radial functions and products of its direction: that is what makes it fast.
"""

from typing import Any

import torch
from torch.nn.functional import silu

from models.networks.base import EdgeNetwork
from models.networks.radial import RadialBasis

RANKS = (0, 1, 1, 1, 2, 2, 2, 2, 2, 2)  # of 1, x, y, z, xy, yz, zx, xx, yy, zz
_ENTRIES = ((0, 1), (1, 2), (2, 0), (0, 0), (1, 1), (2, 2))  # of the last six


class Moments(torch.nn.Module):
    """Sums over neighbours of radial functions times tensors, as one product of matrices for each atom."""

    def forward(
        self, radial: torch.Tensor, tensors: torch.Tensor, receiver: torch.Tensor, n_atoms: int
    ) -> torch.Tensor:
        """Moments (N, 10, R) from radial functions (E, R) and tensors (E, 10)."""
        places, slots = padded(receiver, n_atoms)
        # Atoms with fewer neighbours than others get rows of zeros.
        zero = radial.new_zeros(1, radial.shape[1])
        radial = torch.cat([radial, zero]).index_select(0, places)
        tensors = torch.cat([tensors, tensors.new_zeros(1, 10)]).index_select(0, places)
        return tensors.view(n_atoms, slots, 10).transpose(1, 2) @ radial.view(n_atoms, slots, radial.shape[1])


def padded(receiver: torch.Tensor, n_atoms: int, slots: int = 0) -> tuple[torch.Tensor, int]:
    """Which edge stands in each of an atom's slots (N slots,), E where none does; and how many slots it has.

    These are as many as the atom with most edges needs, and `slots` at least.
    """
    counts = torch.bincount(receiver, minlength=n_atoms)
    if n_atoms > 0:
        slots = max(slots, int(counts.max()))
    order = torch.argsort(receiver, stable=True)
    by_atom = receiver[order]
    within = torch.arange(order.shape[0], device=order.device) - (counts.cumsum(0) - counts)[by_atom]
    places = torch.full((n_atoms * slots,), order.shape[0], device=order.device)
    return places.index_copy(0, by_atom * slots + within, order), slots


class Ace(EdgeNetwork):
    """One layer of invariants of up to five bodies in `channels` channels, then a network of width `hidden`.

    Neighbours enter through `basis` radial functions, for each of `species` mixtures of the elements.
    """

    kind = "ace"
    embeds = "neighbour"
    margin = 0.3
    """In dynamics edges may be given to it up to so far beyond the cutoff, Å: cheaper than new lists."""
    squares: torch.Tensor
    actions: torch.Tensor
    own: torch.Tensor

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        n_elements, self.channels = len(self.atomic_numbers), int(description["channels"])
        basis, hidden, channels = int(description["basis"]), int(description["hidden"]), self.channels
        mixtures = int(description["species"])
        self.radial_basis = RadialBasis(float(description["r_max"]), basis)
        self.moments = Moments()
        self.neighbour = torch.nn.Parameter(torch.randn(n_elements, mixtures))
        self.radial = torch.nn.Parameter(torch.randn(mixtures * basis, channels) / mixtures**0.5)
        self.n_invariants = n_invariants = 6 * channels
        self.inner = torch.nn.Parameter(torch.randn(n_invariants, n_elements * hidden) / n_invariants**0.5)
        self.bias = torch.nn.Parameter(torch.zeros(n_elements * hidden))
        self.outer = torch.nn.Parameter(torch.randn(n_elements, hidden) / hidden**0.5)
        squares, actions = _contractions()
        self.register_buffer("squares", squares, persistent=False)
        self.register_buffer("actions", actions, persistent=False)
        self.register_buffer("own", torch.eye(n_elements), persistent=False)

    def node_energies(
        self, species: torch.Tensor, edge_index: torch.Tensor, vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `EdgeNetwork.node_energies`; the features are the invariants (N, 6 C)."""
        sender, receiver = edge_index[0], edge_index[1]
        distances = (vectors * vectors).sum(dim=1).sqrt()
        directions = vectors / distances[:, None]
        mixed = directions * directions.roll(-1, 1)
        ones = torch.ones_like(distances)[:, None]
        tensors = torch.cat([ones, directions, mixed, directions * directions], dim=1)
        basis = self.radial_basis(distances)
        radial = (self.neighbour[species[sender]][:, :, None] * basis[:, None, :]).flatten(1)
        energies, features = self.atoms(species, self.moments(radial, tensors, receiver, species.shape[0]))
        repulsion = self.repulsion(distances, species[receiver], species[sender])
        return energies.index_add(0, receiver, repulsion), features

    def atoms(self, species: torch.Tensor, moments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies of atoms (N,), eV, and invariants (N, 6 C) from the moments of their neighbours."""
        n_atoms, channels = moments.shape[0], self.channels
        moments = moments @ (self.radial / self.neighbours.sqrt())
        scalars, vectors, matrices = moments.split([1, 3, 6], dim=1)
        products = (matrices[:, :, None] * vectors[:, None]).view(n_atoms, 18, channels)
        turned = self.actions @ products  # the matrix of rank 2 times the vector
        invariants = torch.cat(
            [
                scalars,
                self.squares @ (moments * moments),
                (turned * vectors).sum(dim=1, keepdim=True),
                (turned * turned).sum(dim=1, keepdim=True),
            ],
            dim=1,
        ).view(n_atoms, 6 * channels)
        outer = (self.own[:, :, None] * self.outer).view(self.own.shape[0], -1)
        inner = silu(invariants @ self.inner + self.bias) - silu(self.bias)  # an atom alone has its E0
        return self.scale * (inner * outer[species]).sum(dim=1), invariants


def _contractions() -> tuple[torch.Tensor, torch.Tensor]:
    """What takes squares to squared norms by rank (3, 10), and products to matrix times vector (3, 18)."""
    squares, actions = torch.zeros(3, 10), torch.zeros(3, 6, 3)
    for component, rank in enumerate(RANKS):
        squares[rank, component] = 1.0
    for k, (i, j) in enumerate(_ENTRIES):
        actions[i, k, j] = actions[j, k, i] = 1.0
        squares[2, 4 + k] = 1.0 if i == j else 2.0
    return squares, actions.view(3, 18)
