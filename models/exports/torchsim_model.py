"""A potential as a model of torch-sim: many systems at once, on a GPU where there is one."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms

from models import devices
from models.graphs import Batch, Prediction, e0_sum, neighbours
from models.kernels import for_inference
from models.potentials import Potential

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports what one of its dependencies has deprecated
    from torch_sim.io import atoms_to_state
    from torch_sim.models.interface import ModelInterface
    from torch_sim.state import SimState


class TorchSimPotential(ModelInterface):
    """One potential with one head, on `device`; default: the chosen one (see `models.devices`).

    States are in float64 whatever the type of the network, so that total energies keep their digits.
    Raises ValueError on a potential with several heads, and on elements that it does not know.
    """

    def __init__(
        self, potential: Potential, device: torch.device | None = None, *, compute_stress: bool = True
    ) -> None:
        if len(potential.heads) != 1:
            raise ValueError(f"torch-sim takes a potential with one head, this has {potential.heads}")
        super().__init__()
        self._device = device or devices.chosen()
        self._dtype = torch.float64
        self._compute_stress = compute_stress
        self._compute_forces = True
        self._network_dtype = potential.dtype
        self._cutoff = potential.cutoff
        self._symbols = potential.symbols
        self.network = for_inference(copy.deepcopy(potential.network).to(self._device))
        self.e0s = torch.tensor([list(potential.e0s().values())], dtype=torch.float64, device=self._device)
        species_of = torch.full((119,), -1)
        species_of[potential.elements] = torch.arange(len(potential.elements))
        self.species_of = species_of.to(self._device)

    def forward(self, state: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """`energy` (S,), eV, with E0s, `forces` (N, 3), eV/Å, and `stress` (S, 3, 3), eV/Å³, of S systems.

        `state` is a SimState, or its fields by name. Without periodic boundaries the stress is NaN.
        """
        if isinstance(state, dict):
            state = SimState(**{"masses": torch.ones_like(state["positions"][:, 0]), **state})
        stress = self._compute_stress and state.pbc
        batch = self._batch(state)
        output = self.network(batch, compute_force=True, compute_stress=stress)
        energies = output["interaction_energy"].detach().double() + e0_sum(batch, self.e0s)
        found = {"energy": energies, "forces": output["forces"].detach().double()}
        if stress:
            found["stress"] = output["stress"].detach().double()
        elif self._compute_stress:
            found["stress"] = torch.full((state.n_systems, 3, 3), torch.nan, device=self._device).double()
        return {name: tensor.to(state.dtype) for name, tensor in found.items()}

    def _batch(self, state: SimState) -> Batch:
        """The systems as one graph (see `graphs.collate`)."""
        species = self.species_of[state.atomic_numbers]
        if bool((species < 0).any()):
            raise ValueError(
                f"an element that the potential does not know; it knows {', '.join(self._symbols)}"
            )
        counts = torch.bincount(state.system_idx, minlength=state.n_systems)
        pointer = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        cells = state.row_vector_cell.double()
        edges, images = self._edges(state, cells, pointer)
        shifts = (images[:, None] @ cells[state.system_idx[edges[0]]])[:, 0]

        def real(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(self._device, self._network_dtype)

        return {
            "positions": real(state.positions),
            "node_attrs": real(torch.nn.functional.one_hot(species, len(self._symbols))),
            "edge_index": edges,
            "unit_shifts": real(images),
            "shifts": real(shifts),
            "cell": real(cells.reshape(-1, 3)),
            "batch": state.system_idx,
            "ptr": pointer,
            "head": torch.zeros_like(counts),
            "n_atoms": counts,
            "species": species,
        }

    def _edges(
        self, state: SimState, cells: torch.Tensor, pointer: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positions = state.positions.detach().double().cpu().numpy()
        starts = pointer.tolist()
        found = [
            neighbours(positions[first:end], cell, np.full(3, bool(state.pbc)), self._cutoff)
            for first, end, cell in zip(starts[:-1], starts[1:], cells.cpu().numpy(), strict=True)
        ]
        edges = np.concatenate(
            [edges + first for (edges, _), first in zip(found, starts[:-1], strict=True)], 1
        )
        images = np.concatenate([images for _, images in found])
        return torch.from_numpy(edges).to(self._device), torch.from_numpy(images).to(self._device)


def evaluate(potential: Potential, structures: Sequence[Atoms]) -> list[Prediction]:
    """What the model says of structures, one state for each, on the CPU."""
    device = torch.device("cpu")
    model = TorchSimPotential(potential, device)
    found = []
    for atoms in structures:
        output = model(atoms_to_state([atoms], device, torch.float64))
        stress = output["stress"][0].numpy() if atoms.pbc.all() else None
        energy, forces = float(output["energy"]), output["forces"].numpy()
        found.append(Prediction(energy=energy, forces=forces, stress=stress))
    return found
