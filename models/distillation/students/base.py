"""What every student architecture is: a small frozen value from which a network is made."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from models.graphs import Graph
from models.potentials import Network, build


class Student(BaseModel, ABC):
    """One architecture; subclasses differ in `kind`, which is what they are called in YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    cutoff: float = Field(gt=0, description="Å")

    @property
    def conservative(self) -> bool:
        """Whether forces are the gradient of the energy."""
        return True

    @abstractmethod
    def architecture(
        self, e0s: Mapping[int, float], train: list[Graph], head: str = "target"
    ) -> dict[str, Any]:
        """The description that `potentials.build` takes, for the elements of `e0s` (eV) alone.

        `train` gives what networks are scaled by: mean numbers of neighbours and the size of the forces.
        """

    def network(
        self, e0s: Mapping[int, float], train: list[Graph], seed: int, head: str = "target"
    ) -> Network:
        """A freshly initialised student with this one head; the same seed, the same weights."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build(self.architecture(e0s, train, head))


class EdgeStudent(Student):
    """A student whose network is one of `models.networks`, of the same kind."""

    def description(self, e0s: Mapping[int, float], train: list[Graph], head: str) -> dict[str, Any]:
        """What the descriptions of all these networks have; see `architecture`."""
        elements = sorted(e0s)
        return {
            "network": self.kind,
            "atomic_numbers": elements,
            "atomic_energies": [[e0s[z] for z in elements]],
            "heads": [head],
            "r_max": self.cutoff,
            "scale": force_scale(train),
            "neighbours": mean_neighbours(train, self.cutoff),
        }


def force_scale(train: list[Graph]) -> float:
    """Root mean square of the force components, eV/Å."""
    return float(torch.cat([g.forces for g in train]).square().mean().sqrt())


def mean_neighbours(train: list[Graph], cutoff: float) -> float:
    """Mean number of neighbours of an atom within `cutoff`, Å."""
    return sum(int((lengths(g) < cutoff).sum()) for g in train) / sum(g.n_atoms for g in train)


def lengths(graph: Graph) -> torch.Tensor:
    """Lengths of the edges of a graph (E,), Å."""
    i, j = graph.edge_index
    return (graph.positions[j] - graph.positions[i] + graph.unit_shifts @ graph.cell).norm(dim=1)
