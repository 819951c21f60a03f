"""What every kind of uncertainty is made of."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field

from models.potentials import Potential

Told = Callable[[dict[str, Any]], None]


class Uncertainty(BaseModel, ABC):
    """How a specialist says what it does not know; subclasses differ in `kind`, their name in YAML.

    All are ensembles: where the members' forces differ, the specialist's may be wrong. They differ in what
    the members are. All are calibrated in the same way, on held-out labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    coverage: float = Field(
        0.9, gt=0, lt=1, description="share of atoms whose force error is to stay below its bound"
    )

    @property
    def trainings(self) -> int:
        """How many further trainings, with other seeds, it needs."""
        return 0

    @abstractmethod
    def perturbations(
        self, specialist: Potential, train: Sequence[Atoms], valid: Sequence[Atoms], report: Told | None
    ) -> torch.Tensor | None:
        """What members on the specialist's trunk add to the read-out of its K last invariants: Δw (M, K).

        Sums of squares over members are variances. None where the members are networks of their own.
        `train` are the labels that the specialist has learnt, `valid` held-out ones.
        """
