"""Student architectures: what runs for months, so as little as the accuracy allows."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from models.graphs import Graph
from models.potentials import Network, build


class SmallMace(BaseModel):
    """A MACE with few channels: scalars only by default, two layers, short cutoff."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["small_mace"] = "small_mace"
    channels: int = Field(16, ge=4)
    max_l: int = Field(0, ge=0, le=2, description="highest degree of the messages between layers")
    max_ell: int = Field(2, ge=1, le=3, description="highest degree of the edges' spherical harmonics")
    correlation: int = Field(2, ge=1, le=3)
    layers: int = Field(2, ge=1, le=3)
    cutoff: float = Field(4.0, gt=0, description="Å")
    radial_mlp: tuple[int, ...] = Field((32, 32), description="hidden widths of the network on distances")

    def architecture(
        self, e0s: Mapping[int, float], train: list[Graph], head: str = "target"
    ) -> dict[str, Any]:
        """The description that `potentials.build` takes, for the elements of `e0s` (eV) alone."""
        elements = sorted(e0s)
        forces = torch.cat([g.forces for g in train])
        edges = sum(int((_lengths(g) < self.cutoff).sum()) for g in train)
        return {
            "r_max": self.cutoff,
            "num_bessel": 8,
            "num_polynomial_cutoff": 5,
            "max_ell": self.max_ell,
            "interaction_cls_first": "RealAgnosticInteractionBlock",
            "interaction_cls": "RealAgnosticResidualInteractionBlock",
            "num_interactions": self.layers,
            "num_elements": len(elements),
            "hidden_irreps": "+".join(
                f"{self.channels}x{degree}{'eo'[degree % 2]}" for degree in range(self.max_l + 1)
            ),
            "MLP_irreps": "16x0e",
            "gate": "silu",
            "readout_cls": "NonLinearReadoutBlock",
            "atomic_energies": [[e0s[z] for z in elements]],
            "avg_num_neighbors": edges / sum(g.n_atoms for g in train),
            "atomic_numbers": elements,
            "correlation": self.correlation,
            "radial_MLP": list(self.radial_mlp),
            "radial_type": "bessel",
            "pair_repulsion": True,
            "distance_transform": "None",
            "atomic_inter_scale": [float(forces.square().mean().sqrt())],
            "atomic_inter_shift": [0.0],
            "heads": [head],
        }

    def network(self, e0s: Mapping[int, float], train: list[Graph], seed: int) -> Network:
        """A freshly initialised student; the same seed, the same weights."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build(self.architecture(e0s, train))


def _lengths(graph: Graph) -> torch.Tensor:
    i, j = graph.edge_index
    return (graph.positions[j] - graph.positions[i] + graph.unit_shifts @ graph.cell).norm(dim=1)
