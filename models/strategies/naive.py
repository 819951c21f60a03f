"""Naive fine-tuning: every parameter, from the foundation's weights."""

from collections.abc import Mapping
from typing import Literal

from models import losses
from models.graphs import graphs
from models.potentials import Potential, with_heads
from models.strategies.base import TARGET_HEAD, Strategy, TrainingData
from models.training import Optimisation, TrainingSetup


class Naive(Strategy):
    """All parameters on the target's labels alone (arXiv 2606.12704, strategy 1)."""

    kind: Literal["naive"] = "naive"
    optimisation: Optimisation = Optimisation()

    def prepare(self, foundation: Potential, e0s: Mapping[int, float], data: TrainingData) -> TrainingSetup:
        """One head; the replay structures only show what is forgotten, by their forces."""
        network = with_heads(foundation, {TARGET_HEAD: e0s})
        forgotten = [a.copy() for a in data.replay_valid]
        for atoms in forgotten:
            del atoms.info["REF_energy"]  # of another level: its E0s are not this head's
        valid = {"target": graphs(data.valid, foundation), "replay": graphs(forgotten, foundation)}
        return TrainingSetup(
            network=network,
            train=graphs(data.train, foundation),
            valid={name: items for name, items in valid.items() if items},
            weights=[losses.TARGET],
        )
