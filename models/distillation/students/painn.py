"""Light equivariant message passing: further reach than one layer, cheaper than a MACE of several."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from models.distillation.students.base import EdgeStudent
from models.graphs import Graph


class Painn(EdgeStudent):
    """Scalars and vectors that atoms send to each other.

    Forces are the gradient of the energy, or with "direct" an output of their own, which conserves nothing:
    for comparisons, and as a teacher.
    """

    kind: Literal["painn"] = "painn"
    cutoff: float = Field(4.0, gt=0, description="Å")
    channels: int = Field(32, ge=4)
    layers: int = Field(2, ge=1, le=3)
    basis: int = Field(10, ge=4, description="radial functions")
    forces: Literal["gradient", "direct"] = "gradient"

    @property
    def conservative(self) -> bool:
        """Whether forces are the gradient of the energy."""
        return self.forces == "gradient"

    def architecture(
        self, e0s: Mapping[int, float], train: list[Graph], head: str = "target"
    ) -> dict[str, Any]:
        """See `Student.architecture`."""
        return self.description(e0s, train, head) | {
            "channels": self.channels,
            "layers": self.layers,
            "basis": self.basis,
            "forces": self.forces,
        }
