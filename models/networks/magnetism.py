"""Moments of atoms, and an energy of them: Landau's on each atom, Heisenberg's exchange between neighbours.

Coefficients come from invariants of the atoms' surroundings, so that they change with the structure. Moments
enter as m·m alone: turning all of them together, or reversing them, changes nothing (there is no spin-orbit
coupling), and permuting or moving atoms does what it does to every energy. Magnitudes depend on the structure
and on how neighbours' directions lie to each other, never on the magnitudes that are given.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import Linear, Sequential, SiLU

from models.networks.radial import RadialBasis

LANDAU = 3  # powers of m²: m², m⁴, m⁶
EXCHANGE = 2  # powers of m·m: bilinear and biquadratic
_FAINT = 0.05  # of the scale: a moment that is smaller has no direction to speak of


class Magnetism(torch.nn.Module):
    """Magnitudes of moments from structure and order, and the energy of moments that are given.

    Moments are measured in `scale` (elements,) μB; magnitudes start as `mean` (elements,) μB. The last layers
    start at zero: so does the energy, whatever the moments. Without moments it is zero for good.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, description: dict[str, Any], n_features: int, n_elements: int, r_max: float) -> None:
        super().__init__()
        self.description = dict(description)
        channels, basis = int(description["channels"]), int(description["basis"])
        self.n_features = n_features
        self.register_buffer("mean", torch.zeros(n_elements))
        self.register_buffer("scale", torch.ones(n_elements))
        self.species = torch.nn.Parameter(0.5 * torch.randn(n_elements, channels))
        self.features = Linear(n_features, channels)
        self.radial_basis = RadialBasis(r_max, basis)
        self.order = Linear(basis, channels, bias=False)
        self.magnitude = Sequential(SiLU(), Linear(channels, channels), SiLU(), Linear(channels, 1))
        self.landau = Sequential(SiLU(), Linear(channels, channels), SiLU(), Linear(channels, LANDAU))
        self.exchange = Sequential(
            SiLU(), Linear(channels, channels), SiLU(), Linear(channels, EXCHANGE * basis)
        )
        for layers in (self.magnitude, self.landau, self.exchange):
            for parameter in layers[-1].parameters():
                torch.nn.init.zeros_(parameter)

    def forward(
        self,
        features: torch.Tensor,
        species: torch.Tensor,
        edge_index: torch.Tensor,
        distances: torch.Tensor,
        spins: torch.Tensor,
        batch: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Magnitudes (N,), μB, of atoms, and their energies (N,), eV, with the moments `spins` (N, 3), μB.

        `features` (N, F) are invariants, `species` (N,) indices of elements, `distances` (E,) Å of edges
        (2, E); `batch` (N,) says whose atom it is. Where a structure has no moments, its magnitudes are those
        of the ferromagnet.
        """
        sender, receiver = edge_index[0], edge_index[1]
        scale = self.scale.index_select(0, species)
        hidden = self.features(features) + self.species.index_select(0, species)
        shapes = self.radial_basis(distances)
        directions = _directions(spins.detach(), _FAINT * scale, batch)
        along = (directions.index_select(0, sender) * directions.index_select(0, receiver)).sum(dim=1)
        order = shapes.new_zeros(len(species), shapes.shape[1]).index_add(
            0, receiver, along[:, None] * shapes
        )
        expected = self.magnitude(hidden + self.order(order))[:, 0]
        magnitudes = self.mean.index_select(0, species) + scale * expected

        reduced = spins / scale[:, None]
        square = (reduced * reduced).sum(dim=1)
        energies = (self.landau(hidden) * _powers(square, LANDAU)).sum(dim=1)
        # A sum of both ends does not know which one is first.
        pairs = self.exchange(hidden.index_select(0, sender) + hidden.index_select(0, receiver))
        strengths = pairs.view(-1, EXCHANGE, shapes.shape[1]) * shapes[:, None]
        strengths = strengths.sum(dim=2)
        product = (reduced.index_select(0, sender) * reduced.index_select(0, receiver)).sum(dim=1)
        halves = 0.5 * (strengths * _powers(product, EXCHANGE)).sum(dim=1)
        return magnitudes, energies.index_add(0, receiver, halves)

    def start_at(self, mean: Sequence[float], scale: Sequence[float]) -> None:
        """Take what is known of the elements' moments, μB, before any training."""
        self.mean.copy_(torch.tensor(mean))
        self.scale.copy_(torch.tensor(scale))

    @torch.no_grad()
    def take(self, other: "Magnetism", rows: Sequence[int]) -> None:
        """Take the weights of another one, of whose elements these `rows` are ours."""
        given = other.state_dict()
        for name in ("mean", "scale", "species"):
            given[name] = given[name][list(rows)]
        self.load_state_dict(given)


def _directions(spins: torch.Tensor, faint: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Unit vectors (N, 3), shorter for moments about as small as `faint` (N,); of no moments at all, up."""
    squares = (spins * spins).sum(dim=1)
    given = torch.zeros_like(squares).index_add(0, batch, squares).index_select(0, batch) > 0.0
    up = torch.zeros_like(spins).index_fill(1, torch.tensor([2], device=spins.device), 1.0)
    return torch.where(given[:, None], spins / (squares + faint * faint).sqrt()[:, None], up)


def _powers(values: torch.Tensor, highest: int) -> torch.Tensor:
    """The first to the `highest` power, in columns."""
    return torch.stack([values**power for power in range(1, highest + 1)], dim=1)
