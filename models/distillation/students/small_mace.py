"""A small MACE: what changes least from its teacher."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from models.distillation.students.base import Student, force_scale, mean_neighbours
from models.graphs import Graph


class SmallMace(Student):
    """A MACE with few channels: scalars only by default, two layers, short cutoff."""

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
        """See `Student.architecture`."""
        elements = sorted(e0s)
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
            "avg_num_neighbors": mean_neighbours(train, self.cutoff),
            "atomic_numbers": elements,
            "correlation": self.correlation,
            "radial_MLP": list(self.radial_mlp),
            "radial_type": "bessel",
            "pair_repulsion": True,
            "distance_transform": "None",
            "atomic_inter_scale": [force_scale(train)],
            "atomic_inter_shift": [0.0],
            "heads": [head],
        }
