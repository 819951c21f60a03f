"""The posterior of the last layer's read-out, as if that alone had been fitted."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from pydantic import Field

from models.graphs import graphs
from models.potentials import Potential
from models.uncertainty.base import Told, Uncertainty
from models.uncertainty.regression import invariants, normal_equations


class LastLayer(Uncertainty):
    """Last-layer prediction rigidity, LLPR (Bigi et al., Mach. Learn.: Sci. Technol. 5, 2024).

    The variance of an energy is σ² = α² fᵀ(FᵀF + ς²)⁻¹ f, with the last layer's invariants f summed over
    atoms. F has a row for each training label, energies as well as force components, in units of what the
    specialist leaves of them. ς² is raised until there is a Cholesky factor; α makes the residuals of the
    held-out energies as large as σ says. Members are orthogonal draws of the read-out's posterior; with as
    many of them as there are invariants, they are the whole of it.
    """

    kind: Literal["last_layer"] = "last_layer"
    members: int = Field(8, ge=1, description="draws; each costs half a prediction or less")
    seed: int = 0

    def perturbations(
        self, specialist: Potential, train: Sequence[Atoms], valid: Sequence[Atoms], report: Told | None
    ) -> torch.Tensor:
        """See `Uncertainty.perturbations`."""
        factor = normal_equations(specialist, train, np.ones((1, len(train))), report).factor()
        energies, features = invariants(specialist, graphs(valid, specialist))
        sigma = torch.linalg.solve_triangular(factor, features.T, upper=False).norm(dim=0)
        residuals = torch.tensor([a.info["REF_energy"] for a in valid], dtype=torch.float64) - energies
        alpha = (residuals / sigma).square().mean().sqrt()
        generator = torch.Generator().manual_seed(self.seed)
        number = min(self.members, len(factor))
        drawn = torch.randn(len(factor), number, generator=generator, dtype=torch.float64)
        # Orthogonal ones miss less of the posterior than independent ones.
        drawn = torch.linalg.qr(drawn)[0] * (alpha * (len(factor) / number) ** 0.5)
        return torch.linalg.solve_triangular(factor.T, drawn, upper=True).T
