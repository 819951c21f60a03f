"""Linear heads on the specialist's trunk, each of which has seen the labels a little otherwise.

A committee of heads that share a frozen trunk is the idea of Beck et al. (arXiv 2508.09907). Theirs are
trained; these are solved for.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from pydantic import Field

from models.datasets import DataError
from models.potentials import Potential
from models.uncertainty.base import Told, Uncertainty
from models.uncertainty.groups import grouped
from models.uncertainty.regression import normal_equations

_RESAMPLES = 64
_RIDGE = 1e-4  # anything from 1e-10 to 1e-2 ranks errors equally well


class Heads(Uncertainty):
    """Least squares of what the specialist leaves of its training labels, on resampled trajectories.

    A head weighs every trajectory by a draw of an exponential distribution (the Bayesian bootstrap of
    Rubin, Ann. Stat. 1981), and corrects the read-out of the last layer by the ridge regression that
    follows. Of 64 heads the principal directions are kept, by the forces that they change.
    """

    kind: Literal["heads"] = "heads"
    members: int = Field(8, ge=1, description="principal directions; each costs half a prediction or less")
    seed: int = 0

    def perturbations(
        self, specialist: Potential, train: Sequence[Atoms], valid: Sequence[Atoms], report: Told | None
    ) -> torch.Tensor:
        """See `Uncertainty.perturbations`; raises DataError where there is one training structure only."""
        if len(train) < 2:
            raise DataError(
                "heads are fitted to resampled labels: one training structure cannot be resampled"
            )
        groups = grouped(train).numbers
        drawn = np.random.default_rng(self.seed).exponential(size=(_RESAMPLES, groups.max() + 1))
        equations = normal_equations(specialist, train, drawn[:, groups], report)
        heads = torch.linalg.solve(equations.regularised(_RIDGE), equations.right)
        deviations = (heads - heads.mean(dim=0)) / len(heads) ** 0.5
        metric = torch.linalg.cholesky(equations.regularised(_RIDGE).mean(dim=0))
        _, sizes, directions = torch.linalg.svd(deviations @ metric, full_matrices=False)
        kept = sizes[: self.members, None] * directions[: self.members]
        return torch.linalg.solve_triangular(metric, kept, upper=False, left=False)
