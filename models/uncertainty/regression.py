"""Least squares of labels on the invariants of a network's last layer and their derivatives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from models.distillation.features import n_invariants
from models.graphs import Graph, graphs
from models.potentials import Potential
from models.uncertainty.base import Told
from models.uncertainty.ensembles import ask_perturbed, perturbed

MAX_ATOMS = 5000
"""Of training labels with more atoms, structures drawn at random stand for all: each costs K products."""
_STRUCTURES = 16  # from one report to the next
_RIDGES = [10.0**power for power in range(-12, 1)]


@dataclass(frozen=True, kw_only=True)
class NormalEquations:
    """For each of M weightings of the labels, XᵀX (M, K, K) and Xᵀr (M, K), in units of the residuals r."""

    left: torch.Tensor
    right: torch.Tensor

    def regularised(self, ridge: float) -> torch.Tensor:
        """`left` with `ridge` times the mean of all diagonals on the diagonal."""
        mean = torch.diagonal(self.left, dim1=1, dim2=2).mean()
        return self.left + ridge * mean * torch.eye(self.left.shape[1], dtype=self.left.dtype)

    def factor(self) -> torch.Tensor:
        """Cholesky factor (K, K) for the first weighting, with the least ridge for which there is one."""
        for ridge in _RIDGES:
            factor, failed = torch.linalg.cholesky_ex(self.regularised(ridge)[0])
            if not failed:
                return factor
        raise FloatingPointError("the invariants of the last layer are not finite")


class _Rows:
    """Sums over the rows of one kind of label."""

    def __init__(self, n_weightings: int, n_columns: int) -> None:
        self.left = torch.zeros(n_weightings, n_columns, n_columns, dtype=torch.float64)
        self.right = torch.zeros(n_weightings, n_columns, dtype=torch.float64)
        self.squares = 0.0
        self.number = 0

    def add(self, rows: np.ndarray, residuals: np.ndarray, weights: torch.Tensor) -> None:
        """Add rows (n, K) and their residuals (n,); `weights` has one for each weighting."""
        matrix, vector = torch.from_numpy(rows), torch.from_numpy(residuals)
        self.left += weights[:, None, None] * (matrix.T @ matrix)
        self.right += weights[:, None] * (matrix.T @ vector)
        self.squares += float(vector.square().sum())
        self.number += len(residuals)

    @property
    def variance(self) -> float:
        """Mean square of the residuals; never zero."""
        return max(self.squares / self.number, 1e-20)


def invariants(potential: Potential, items: Sequence[Graph]) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies (n,), eV, and the invariants of the last layer summed over atoms (n, K)."""
    opinions = ask_perturbed(perturbed(potential, _units(potential)), items)
    return (
        torch.tensor([o.energy for o in opinions], dtype=torch.float64),
        torch.tensor(np.stack([o.energies for o in opinions])),
    )


def normal_equations(
    potential: Potential, frames: Sequence[Atoms], weights: np.ndarray, report: Told | None
) -> NormalEquations:
    """The least squares of what `potential` leaves of labels; `weights` (M, n) are those of the frames.

    Its rows are energies over √N and force components, both over the root mean square of their residuals.
    """
    chosen = _drawn(frames)
    probe = perturbed(potential, _units(potential))
    energies, forces = (_Rows(len(weights), n_invariants(potential.network)) for _ in range(2))
    for first in range(0, len(chosen), _STRUCTURES):
        part = chosen[first : first + _STRUCTURES]
        opinions = ask_perturbed(probe, graphs([frames[i] for i in part], potential))
        for i, opinion in zip(part, opinions, strict=True):
            own = torch.from_numpy(weights[:, i])
            root = len(frames[i]) ** 0.5
            missing = np.array([frames[i].info["REF_energy"] - opinion.energy])
            energies.add(opinion.energies[None] / root, missing / root, own)
            jacobian = opinion.member_forces.reshape(len(opinion.energies), -1).T
            forces.add(jacobian, (frames[i].arrays["REF_forces"] - opinion.forces).ravel(), own)
        if report is not None:
            report({"structures": first + len(part), "of": len(chosen)})
    return NormalEquations(
        left=energies.left / energies.variance + forces.left / forces.variance,
        right=energies.right / energies.variance + forces.right / forces.variance,
    )


def _units(potential: Potential) -> torch.Tensor:
    """Perturbations (K, K) whose members say the invariants themselves."""
    return torch.eye(n_invariants(potential.network), dtype=torch.float64)


def _drawn(frames: Sequence[Atoms]) -> list[int]:
    order = np.random.default_rng(0).permutation(len(frames))
    sizes = np.array([len(frames[i]) for i in order]).cumsum()
    return sorted(order[: max(2, int(np.searchsorted(sizes, MAX_ATOMS, side="right")))].tolist())
