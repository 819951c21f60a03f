"""Replay: a second head keeps the foundation's own ground in sight while the first learns the target."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from models import losses
from models.heads import select_heads
from models.potentials import Network, Potential
from models.strategies.base import REPLAY_HEAD, Strategy, Target, TrainingData
from models.strategies.lora import LowRank
from models.strategies.sparse import GENTLE, Thresholded
from models.training import EmptyTraining, Optimisation, TrainingSetup


class Replay(Strategy):
    """What replay adds to a strategy: a head for the replay structures, on the trunk of the target's."""

    replay_parts: ClassVar[Mapping[str, str]] = {
        "replay_train": "replay_train",
        "replay_valid": "replay_valid",
    }

    replay_weights: losses.Weights = Field(losses.REPLAY, description="of the replay labels in the loss")
    keep_replay_head: bool = Field(False, description="whether the specialist has both heads")

    def prepare(self, foundation: Potential, e0s: Mapping[int, float], data: TrainingData) -> TrainingSetup:
        """All heads start as the foundation's; raises EmptyTraining without labelled replay structures."""
        if not data.replay_train or not data.replay_valid:
            raise EmptyTraining(f"{self.name} needs replay structures to train and to validate on")
        for index, atoms in enumerate((*data.replay_train, *data.replay_valid)):
            if "REF_energy" not in atoms.info and "REF_forces" not in atoms.arrays:
                raise EmptyTraining(
                    f"{self.name}: replay structure {index} ({atoms.get_chemical_formula()}) has no labels "
                    "at the foundation's level; label it, or use pseudolabelled_replay"
                )
        return super().prepare(foundation, e0s, data)

    def build(self, foundation: Potential, targets: Mapping[str, Target], elements: Sequence[int]) -> Network:
        """The replay head first, at the foundation's E0s; the target's stays the last."""
        replay = Target(train=[], valid=[], e0s=foundation.e0s())
        return super().build(foundation, {REPLAY_HEAD: replay, **targets}, elements)

    def loss_weights(self, head: str) -> losses.Weights:
        """What the labels of `head` weigh in the loss."""
        return self.replay_weights if head == REPLAY_HEAD else super().loss_weights(head)

    def finish(self, network: Network) -> Network:
        """The specialist, with or without the replay head."""
        return select_heads(network, network.heads) if self.keep_replay_head else super().finish(network)


class MultiheadReplay(Replay):
    """Replay on the original labels of the foundation's level (arXiv 2606.12704, strategy 5)."""

    replay_parts: ClassVar[Mapping[str, str]] = {
        "replay_train": "original_train",
        "replay_valid": "original_valid",
    }

    kind: Literal["multihead_replay"] = "multihead_replay"
    optimisation: Optimisation = Optimisation(learning_rate=1e-4, ema_decay=0.9999)


class PseudolabelledReplay(Replay):
    """Replay on the foundation's own predictions (arXiv 2606.12704, strategy 6)."""

    kind: Literal["pseudolabelled_replay"] = "pseudolabelled_replay"
    optimisation: Optimisation = Optimisation(learning_rate=1e-4, ema_decay=0.9999)


class ReplayLora(LowRank, Replay):
    """Pseudolabelled replay through adapters (arXiv 2606.12704, strategy 7)."""

    kind: Literal["replay_lora"] = "replay_lora"
    optimisation: Optimisation = Optimisation(learning_rate=1e-3, clip_gradient=10.0)
    rank: int = Field(4, ge=1)


class SparseReplay(Thresholded, Replay):
    """Replay on original labels, with few changed weights: the future work of OpenReview moBqB1CUym."""

    replay_parts: ClassVar[Mapping[str, str]] = MultiheadReplay.replay_parts

    kind: Literal["sparse_replay"] = "sparse_replay"
    optimisation: Optimisation = GENTLE


class SparsePseudolabelledReplay(Thresholded, Replay):
    """Replay on the foundation's own predictions, with few changed weights."""

    kind: Literal["sparse_pseudolabelled_replay"] = "sparse_pseudolabelled_replay"
    optimisation: Optimisation = GENTLE
