"""Training from scratch: what the labels alone give, without the foundation's weights."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from models.graphs import graph
from models.heads import fresh
from models.potentials import Network, Potential
from models.strategies.base import Strategy, Target
from models.training import EmptyTraining, Optimisation


class FromScratch(Strategy):
    """The foundation's architecture with random weights, the baseline of arXiv 2606.12704.

    The output is measured in the root mean square force of the training structures, from their mean
    energy above the E0s; the seed of the optimisation draws the weights.
    """

    starts_as_foundation: ClassVar[bool] = False

    kind: Literal["from_scratch"] = "from_scratch"
    optimisation: Optimisation = Optimisation(learning_rate=1e-2, ema_decay=0.99, clip_gradient=10.0)

    def build(self, foundation: Potential, targets: Mapping[str, Target], elements: Sequence[int]) -> Network:
        """A fresh network; raises EmptyTraining where no training structure has forces or energies."""
        frames = [atoms for target in targets.values() for atoms in target.train]
        labelled = [a.arrays["REF_forces"].ravel() for a in frames if "REF_forces" in a.arrays]
        forces = np.concatenate(labelled) if labelled else np.zeros(0)
        if not (rms := np.sqrt(np.mean(forces[np.isfinite(forces)] ** 2)) if len(forces) else 0.0) > 0.0:
            raise EmptyTraining(f"{self.name}: no training structure has a force above zero to measure by")
        edges = [graph(atoms, foundation.elements, foundation.cutoff).n_edges for atoms in frames]
        return fresh(
            foundation,
            {head: target.e0s for head, target in targets.items()},
            elements,
            seed=self.optimisation.seed,
            scale=float(rms),
            shifts={head: _interaction_per_atom(target) for head, target in targets.items()},
            neighbours=sum(edges) / sum(map(len, frames)),
        )


def _interaction_per_atom(target: Target) -> float:
    """Mean energy above the E0s of a target's training structures, eV/atom; zero where none is labelled."""
    found = [
        (atoms.info["REF_energy"] - sum(target.e0s[int(z)] for z in atoms.numbers)) / len(atoms)
        for atoms in target.train
        if "REF_energy" in atoms.info
    ]
    return float(np.mean(found)) if found else 0.0
