"""One layer in the manner of the atomic cluster expansion: the fastest."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from models.distillation.students.base import EdgeStudent
from models.graphs import Graph


class Ace(EdgeStudent):
    """Invariants of up to five bodies of an atom's neighbours, and a small network on top."""

    kind: Literal["ace"] = "ace"
    cutoff: float = Field(5.0, gt=0, description="Å")
    channels: int = Field(16, ge=4)
    basis: int = Field(8, ge=4, description="radial functions")
    species: int = Field(4, ge=1, description="mixtures of the neighbours' elements that are told apart")
    hidden: int = Field(16, ge=4, description="width of the network on top")

    def architecture(
        self, e0s: Mapping[int, float], train: list[Graph], head: str = "target"
    ) -> dict[str, Any]:
        """See `Student.architecture`."""
        return self.description(e0s, train, head) | {
            "channels": self.channels,
            "basis": self.basis,
            "species": min(self.species, len(e0s)),
            "hidden": self.hidden,
        }
