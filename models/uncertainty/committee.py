"""A committee of networks that were trained alike, each with a seed of its own."""

from collections.abc import Sequence
from typing import Literal

from ase import Atoms
from pydantic import Field

from models.potentials import Potential
from models.uncertainty.base import Told, Uncertainty


class Committee(Uncertainty):
    """The specialist and others of the same strategy with other seeds; as costly as its members."""

    kind: Literal["committee"] = "committee"
    members: int = Field(4, ge=2, description="networks, the specialist among them")

    @property
    def trainings(self) -> int:
        """All members but the specialist."""
        return self.members - 1

    def perturbations(
        self, specialist: Potential, train: Sequence[Atoms], valid: Sequence[Atoms], report: Told | None
    ) -> None:
        """None: the members are networks of their own."""
