"""Pseudolabelled replay: a second head keeps the foundation's own predictions in sight."""

from collections.abc import Mapping
from typing import Literal

from models import losses
from models.graphs import graph
from models.potentials import Potential, with_heads
from models.strategies.base import REPLAY_HEAD, TARGET_HEAD, Strategy, TrainingData
from models.training import EmptyTraining, Optimisation, TrainingSetup


class PseudolabelledReplay(Strategy):
    """Two heads on one trunk; the replay head is taught the foundation (arXiv 2606.12704, strategy 6)."""

    kind: Literal["pseudolabelled_replay"] = "pseudolabelled_replay"
    optimisation: Optimisation = Optimisation(learning_rate=1e-4, ema_decay=0.9999)

    def prepare(self, foundation: Potential, e0s: Mapping[int, float], data: TrainingData) -> TrainingSetup:
        """Both heads start as the foundation's; raises EmptyTraining without replay structures."""
        if not data.replay_train or not data.replay_valid:
            raise EmptyTraining("pseudolabelled_replay needs replay structures to train and to validate on")
        network = with_heads(foundation, {REPLAY_HEAD: foundation.e0s(), TARGET_HEAD: e0s})
        table, cutoff = foundation.elements, foundation.cutoff
        target = [graph(a, table, cutoff, 1) for a in data.train]
        replay = [graph(a, table, cutoff, 0) for a in data.replay_train]
        return TrainingSetup(
            network=network,
            train=[*target, *replay],
            valid={
                "target": [graph(a, table, cutoff, 1) for a in data.valid],
                "replay": [graph(a, table, cutoff, 0) for a in data.replay_valid],
            },
            weights=[losses.REPLAY, losses.TARGET],
        )
