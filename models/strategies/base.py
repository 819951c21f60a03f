"""What every fine-tuning strategy is: a small frozen value with one method."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ase import Atoms
from pydantic import BaseModel, ConfigDict

from models.potentials import Network, Potential, select_head
from models.training import Optimisation, TrainingSetup

TARGET_HEAD = "target"
REPLAY_HEAD = "replay"


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Labelled structures of the target, and pseudolabelled ones for replay and for retention."""

    train: Sequence[Atoms]
    valid: Sequence[Atoms]
    replay_train: Sequence[Atoms] = field(default_factory=list)
    replay_valid: Sequence[Atoms] = field(default_factory=list)


class Strategy(BaseModel, ABC):
    """One way to fine-tune; subclasses differ in `kind`, which is also their name in YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    optimisation: Optimisation

    @abstractmethod
    def prepare(self, foundation: Potential, e0s: Mapping[int, float], data: TrainingData) -> TrainingSetup:
        """The network to train, its data and its loss, from a foundation and the target's E0s (eV)."""

    def finish(self, network: Network) -> Network:
        """The specialist: the trained network with the target head only."""
        return select_head(network, TARGET_HEAD)
