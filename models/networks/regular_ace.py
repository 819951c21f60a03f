"""An `Ace` for batches in which every atom has the same number of edges, its forces written out by hand.

Sums over neighbours are then products of matrices without any index. Of what depends on an edge, the slots of
an atom's neighbours come last, so that all arithmetic runs along them.
"""

import torch

from models.networks.ace import Ace
from models.networks.base import stresses


class RegularAce(torch.nn.Module):
    """The same energies, forces and stresses; edges are sorted by receiver, S = E/N for each.

    For inference: nothing can be differentiated.
    """

    centres: torch.Tensor

    def __init__(self, network: Ace) -> None:
        super().__init__()
        self.network = network
        basis = network.radial_basis
        mixtures = network.neighbour.shape[1]
        centres = torch.stack([torch.ones_like(basis.centres), basis.centres]).repeat(1, mixtures)
        self.register_buffer("centres", centres)  # (2, mixtures × basis): ones, and the centres

    def forward(
        self, data: dict[str, torch.Tensor], compute_force: bool = True, compute_stress: bool = False
    ) -> dict[str, torch.Tensor | None]:
        """`interaction_energy`, `forces` and `stress`, see `EdgeNetwork.forward`."""
        network, species, sender = self.network, data["species"], data["edge_index"][0]
        positions = data["positions"]
        n_atoms = len(species)
        slots = len(sender) // n_atoms
        others = (positions.index_select(0, sender) - data["shifts"]).view(n_atoms, slots, 3)
        vectors = (positions[:, None] - others).transpose(1, 2).contiguous()  # (N, 3, S)
        inverse = (vectors * vectors).sum(dim=1, keepdim=True).rsqrt()
        directions = vectors * inverse
        turned = torch.cat([directions[:, 1:], directions[:, :1]], dim=1)  # y, z, x
        ones = torch.ones_like(inverse)
        tensors = torch.cat([ones, directions, directions * turned, directions * directions], dim=1)

        basis = network.radial_basis
        distances = inverse.reciprocal()
        x = distances * basis.inverse_cutoff
        inside = (1.0 - x * x).clamp(min=0.0)
        from_centre = x - basis.centres[:, None]
        values = (from_centre * from_centre * -basis.sharpness).exp() * (inside * inside * inside)
        mixture = network.neighbour[species].index_select(0, sender).view(n_atoms, slots, -1)
        mixture = mixture.transpose(1, 2).contiguous()[:, :, None]
        radial = (mixture * values[:, None]).view(n_atoms, -1, slots)

        moments = tensors @ radial.transpose(1, 2)
        with torch.enable_grad():
            energies, _ = network.atoms(species, moments.requires_grad_(True))
            (by_moments,) = torch.autograd.grad(energies.sum(), moments)
        by_radial = by_moments.transpose(1, 2).contiguous() @ tensors
        by_tensors = by_moments @ radial

        # Gaussians times (1 - x²)³: both have derivatives that are multiples of themselves.
        plain, centred = (self.centres @ (by_radial * radial)).split(1, dim=1)
        by_x = (centred - x * plain) * (2.0 * basis.sharpness) - 6.0 * x * plain / inside.clamp(min=1e-9)
        repulsion, by_distance = network.repulsion.with_slopes(
            distances[:, 0], species[:, None], species.index_select(0, sender).view(n_atoms, slots)
        )
        by_distance = (by_x * basis.inverse_cutoff)[:, 0] + by_distance

        _, first, mixed, squared = by_tensors.split([1, 3, 3, 3], dim=1)
        back = mixed * directions
        by_direction = torch.cat([back[:, 2:], back[:, :2]], dim=1)
        by_direction = first + mixed * turned + by_direction + 2.0 * squared * directions
        along = (by_direction * directions).sum(dim=1, keepdim=True)
        gradient = (by_direction - along * directions) * inverse + by_distance[:, None] * directions

        energies = energies.detach() + repulsion.sum(dim=1)
        total = energies.new_zeros(len(data["ptr"]) - 1).index_add(0, data["batch"], energies)
        by_edge = gradient.transpose(1, 2).reshape(-1, 3)
        forces = (-gradient.sum(dim=2)).index_add(0, sender, by_edge)
        found: dict[str, torch.Tensor | None] = {
            "interaction_energy": total,
            "forces": forces,
            "stress": None,
        }
        if compute_stress:
            structure = data["batch"].repeat_interleave(slots)
            edges = vectors.transpose(1, 2).reshape(-1, 3)
            found["stress"] = stresses(by_edge, edges, structure, data["cell"])
        return found
