"""What every fine-tuning strategy is: a small frozen value that says what to train on what."""

from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field

from models import losses
from models.graphs import Graph, graph
from models.heads import select_heads, with_heads
from models.magnetism import learn_moments
from models.potentials import Network, Potential
from models.training import EmptyTraining, Optimisation, TrainingSetup

TARGET_HEAD = "target"
REPLAY_HEAD = "replay"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Labelled structures of one level of theory, and its E0s (eV, by atomic number)."""

    train: Sequence[Atoms]
    valid: Sequence[Atoms]
    e0s: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Labelled structures of the target, further targets by head, and structures for replay and retention."""

    train: Sequence[Atoms]
    valid: Sequence[Atoms]
    replay_train: Sequence[Atoms] = field(default_factory=list)
    replay_valid: Sequence[Atoms] = field(default_factory=list)
    further: Mapping[str, Target] = field(default_factory=dict)


class Strategy(BaseModel, ABC):
    """One way to fine-tune; subclasses differ in `kind`, which is what they are called in YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    starts_as_foundation: ClassVar[bool] = True
    """Whether the prepared network says what the foundation says, before any training."""
    replay_parts: ClassVar[Mapping[str, str]] = {"replay_valid": "replay_valid"}
    """The replay data that this strategy is given: roles of `TrainingData`, and parts of the replay set."""

    kind: str
    called: str = Field(
        "",
        pattern=r"^([a-z0-9][a-z0-9-]*)?$",
        description="a name of its own, in place of what it would have",
    )
    optimisation: Optimisation
    weights: losses.Weights = Field(losses.TARGET, description="of the target's labels in the loss")
    elements: Literal["whole", "present"] = Field(
        "whole",
        description="keep the foundation's elements, or those of the given structures, replay included",
    )

    @property
    def name(self) -> str:
        """What this candidate is called in reports and records; two of one campaign must differ."""
        return self.called or self._described()

    def _described(self) -> str:
        return self.kind.replace("_", "-")

    def seeded(self, seed: int) -> Self:
        """The same strategy with another seed of its optimisation."""
        return self.model_copy(update={"optimisation": self.optimisation.model_copy(update={"seed": seed})})

    def begins(self, longer: "Strategy") -> bool:
        """Whether a training by `longer`, the same strategy with more epochs, begins as this one."""
        return self.optimisation.begins(longer.optimisation)

    def prepare(self, foundation: Potential, e0s: Mapping[int, float], data: TrainingData) -> TrainingSetup:
        """The network to train, its data and its loss, from a foundation and the target's E0s (eV).

        Where structures have moments, the network gets a part for these that is trained whatever else is
        (see `magnetism.learn_moments`). Raises EmptyTraining where a head would have nothing to learn from,
        and ValueError where a structure's element is unknown or without an E0.
        """
        targets = {**data.further, TARGET_HEAD: Target(train=data.train, valid=data.valid, e0s=e0s)}
        if REPLAY_HEAD in targets or TARGET_HEAD in data.further:
            raise ValueError(f"a further head can be called neither {TARGET_HEAD!r} nor {REPLAY_HEAD!r}")
        for head, target in targets.items():
            if not target.train or not target.valid:
                raise EmptyTraining(f"head {head!r} needs structures to train and to validate on")
        given = [a for target in targets.values() for a in (*target.train, *target.valid)]
        present = {int(z) for a in (*given, *data.replay_train, *data.replay_valid) for z in a.numbers}
        elements = [z for z in foundation.elements if self.elements == "whole" or z in present]

        network = self.build(foundation, targets, elements)
        labelled = [atoms for target in targets.values() for atoms in target.train]
        if any("REF_magmoms" in atoms.arrays for atoms in labelled):
            learn_moments(network, labelled, self.optimisation.seed)
        heads = list(network.heads)

        def made(frames: Iterable[Atoms], head: str) -> list[Graph]:
            return [graph(atoms, elements, foundation.cutoff, heads.index(head)) for atoms in frames]

        train = [g for head, target in targets.items() for g in made(target.train, head)]
        valid = {head: made(target.valid, head) for head, target in targets.items()}
        if REPLAY_HEAD in heads:
            train += made(data.replay_train, REPLAY_HEAD)
            valid[REPLAY_HEAD] = made(data.replay_valid, REPLAY_HEAD)
        elif data.replay_valid:
            # Of another level than this head: the energies mean nothing, the forces show what is forgotten.
            valid[REPLAY_HEAD] = made(map(_without_energy, data.replay_valid), TARGET_HEAD)
        return TrainingSetup(
            network=network, train=train, valid=valid, weights=[self.loss_weights(head) for head in heads]
        )

    def build(self, foundation: Potential, targets: Mapping[str, Target], elements: Sequence[int]) -> Network:
        """The network before training, with the foundation's weights in every head."""
        return with_heads(foundation, {head: target.e0s for head, target in targets.items()}, elements)

    def loss_weights(self, head: str) -> losses.Weights:
        """What the labels of `head` weigh in the loss."""
        return self.weights

    def finish(self, network: Network) -> Network:
        """The specialist: the trained network as a plain one, with the heads of the targets."""
        return select_heads(network, [head for head in network.heads if head != REPLAY_HEAD])


def _without_energy(atoms: Atoms) -> Atoms:
    bare = atoms.copy()
    bare.info.pop("REF_energy", None)
    return bare
