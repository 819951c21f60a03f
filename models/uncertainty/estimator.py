"""A specialist that says with its energies and forces how wrong they may be."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from models import devices
from models.graphs import Graph, graphs
from models.potentials import Potential
from models.tracing import traced
from models.uncertainty.calibration import Calibration
from models.uncertainty.ensembles import Opinion, ask_networks, ask_perturbed, perturbed


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a specialist says of one structure, and how sure it is.

    Attributes:
        energy: eV, the specialist's own.
        forces: (N, 3) eV/Å, the specialist's own.
        atoms: (N,) eV/Å: with the probability that the uncertainty was calibrated for, the force error of an
            atom (the length of the error's vector) is below this.
        energy_spread: standard deviation of the members' energies, eV; not calibrated.
        gradient: (N, 3) eV/Å, ∂ `energy_spread` / ∂R, for dynamics that is drawn to the unknown.
    """

    energy: float
    forces: np.ndarray
    atoms: np.ndarray
    energy_spread: float
    gradient: np.ndarray

    @property
    def largest(self) -> float:
        """The bound of the least certain atom, eV/Å."""
        return float(self.atoms.max())


class Ensemble:
    """The specialist and its members: networks, or perturbations Δw (M, K) on the specialist's trunk."""

    def __init__(self, potentials: Sequence[Potential], perturbations: torch.Tensor | None) -> None:
        self.specialist = potentials[0]
        self._shared = perturbations is not None
        if perturbations is None:
            self._asked = [traced(potential) for potential in potentials]
        else:
            other = perturbed(self.specialist, perturbations)
            # On a GPU a network is not written down but compiled, which this one cannot be.
            self._asked = [traced(other) if devices.chosen().type == "cpu" else other]

    def ask(self, structures: Sequence[Atoms]) -> list[Opinion]:
        """What all say of structures; raises ValueError on an element that is not known."""
        items: list[Graph] = graphs(structures, self.specialist)
        return ask_perturbed(self._asked[0], items) if self._shared else ask_networks(self._asked, items)


class Estimator:
    """Estimates of many structures at once, cheap enough for every few steps of dynamics.

    Attributes:
        coverage: the probability with which an atom's force error is below its bound.
        typical: the median of `Estimate.largest` over the held-out structures, eV/Å.
    """

    def __init__(self, ensemble: Ensemble, calibration: Calibration) -> None:
        self._ensemble = ensemble
        self._calibration = calibration
        self.coverage = calibration.coverage
        self.typical = calibration.typical

    def estimate(self, structures: Sequence[Atoms]) -> list[Estimate]:
        """An estimate of each structure; raises ValueError on an element that is not known."""
        return [
            Estimate(
                energy=opinion.energy,
                forces=opinion.forces,
                atoms=self._calibration.bounds(opinion.atoms),
                energy_spread=opinion.energy_spread,
                gradient=opinion.gradient,
            )
            for opinion in self._ensemble.ask(structures)
        ]
