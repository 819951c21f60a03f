"""A MACE with magnetic moments: its own energy plus that of moments, which come with the structure.

The trunk sees no moments. All that it has of the structure is polar and even under time reversal, so that
it can say how large a moment is, and never where it points: a direction can only come from moments that are
given, and through the energy of them.
"""

from typing import Any

import torch
from mace.modules.utils import get_edge_vectors_and_lengths, get_symmetric_displacement

from models.mace_torch import modules
from models.networks.magnetism import Magnetism

DEFAULTS = {"channels": 32, "basis": 8}


class MagneticMace(modules.ScaleShiftMACE):
    """A `ScaleShiftMACE` with the child `magnetism`, whose energy is added.

    It is never built as such: `give_moments` makes one of a MACE, whatever its layers have been replaced by.
    """

    magnetism: Magnetism

    def forward(  # type: ignore[override] # of mace's outputs only what Temper asks for
        self,
        data: dict[str, torch.Tensor],
        training: bool = False,
        compute_force: bool = True,
        compute_stress: bool = False,
    ) -> dict[str, torch.Tensor | None]:
        """As a MACE answers, with `magmoms` (N,) μB and `magnetic_forces` (N, 3) eV/μB, -∂E/∂m, beside it.

        `data["spins"]` (N, 3) μB are the moments that are given.
        """
        positions, spins = data["positions"], data["spins"]
        for tensor in (positions, spins):
            tensor.requires_grad_(True)
        moved = dict(data)
        displacement = None
        if compute_stress:
            moved["positions"], moved["shifts"], displacement = get_symmetric_displacement(
                positions=positions,
                unit_shifts=data["unit_shifts"],
                cell=data["cell"],
                edge_index=data["edge_index"],
                num_graphs=data["ptr"].numel() - 1,
                batch=data["batch"],
                displacement=torch.zeros_like(data["cell"].view(-1, 3, 3)).requires_grad_(True),
            )
        output: dict[str, Any] = super().forward(moved, compute_force=False)
        _, distances = get_edge_vectors_and_lengths(
            positions=moved["positions"], edge_index=data["edge_index"], shifts=moved["shifts"]
        )
        magmoms, energies = self.magnetism(
            output["node_feats"][:, -self.magnetism.n_features :],
            data["node_attrs"].argmax(dim=1),
            data["edge_index"],
            distances[:, 0],
            spins,
            data["batch"],
        )
        total = output["interaction_energy"].index_add(0, data["batch"], energies)
        output |= {
            "magmoms": magmoms,
            "energy": output["energy"] + total - output["interaction_energy"],
            "interaction_energy": total,
            "node_energy": output["node_energy"] + energies,
        }
        wanted = {"forces": positions} if compute_force else {}
        if displacement is not None:
            wanted["stress"] = displacement
        if wanted:
            wanted["magnetic_forces"] = spins
            gradients = torch.autograd.grad(total.sum(), list(wanted.values()), create_graph=training)
            output |= {name: -gradient for name, gradient in zip(wanted, gradients, strict=True)}
        if displacement is not None:
            volume = torch.linalg.det(data["cell"].view(-1, 3, 3)).abs()[:, None, None]
            output["stress"] = -output["stress"] / volume
        return output


def give_moments(network: Any, description: dict[str, Any] | None = None) -> None:
    """Make a `MagneticMace` of a MACE, in place: a new child that says nothing yet; all else stays."""
    like = next(network.parameters())
    invariants = network.products[-1].linear.irreps_out
    network.magnetism = Magnetism(
        description or DEFAULTS, invariants.dim, len(network.atomic_numbers), float(network.r_max)
    ).to(like)
    network.__class__ = MagneticMace


def without_moments(network: MagneticMace) -> Any:
    """The same network as a plain MACE, to be described as one; it shares everything."""
    plain = object.__new__(modules.ScaleShiftMACE)
    plain.__dict__.update(network.__dict__)
    plain.__dict__["_modules"] = {k: v for k, v in network._modules.items() if k != "magnetism"}
    return plain
