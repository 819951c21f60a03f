"""What a student's loss consists of beside the labels: one term per objective, as modules of torch.

A term reads the teacher's lessons from the batch. What it needs beside the student, such as a projection
between two sets of features, is trained with it and not kept. Terms are means of norms of differences, in the
scale of the Huber loss on forces, which for an error above 0.01 eV/Å is 0.01 times the error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import mse_loss

from models.distillation import hessians
from models.graphs import Batch
from models.losses import HUBER_DELTA, Term, huber_mean, n_labelled
from models.potentials import Network

_HUGE = 1e4  # eV/Å²; rows with such an entry are next to nothing in the loss (arXiv 2501.09009)
_NEXT_TO_NOTHING = 1e-8

Output = dict[str, torch.Tensor]


class Weighted(Term):
    """A term with a weight, which is saved with the training, since it may decay."""

    weight: torch.Tensor

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight))

    def forward(self, network: Network, batch: Batch, output: Output) -> torch.Tensor:
        """The weighted term; see `Term`."""
        return self.weight * self.value(network, batch, output)

    def value(self, network: Network, batch: Batch, output: Output) -> torch.Tensor:
        """The term without its weight."""
        raise NotImplementedError


class ForcesTerm(Weighted):
    """The teacher's forces, also where there are labels."""

    def count(self, batch: Batch) -> int:
        """Components of forces."""
        return n_labelled(batch["teacher_forces"])

    def value(self, network: Network, batch: Batch, output: Output) -> torch.Tensor:
        """Huber loss of force components."""
        return huber_mean(output["forces"], batch["teacher_forces"])


class AtomicEnergiesTerm(Weighted):
    """The teacher's energies of single atoms."""

    def count(self, batch: Batch) -> int:
        """Atoms with an energy."""
        return n_labelled(batch["teacher_atomic_energies"])

    def value(self, network: Network, batch: Batch, output: Output) -> torch.Tensor:
        """Huber loss of the atoms' energies, measured from their E0s."""
        return huber_mean(atomic_energies(network, batch, output), batch["teacher_atomic_energies"])


class NodeFeaturesTerm(Weighted):
    """The teacher's last invariant features, from the student's by a linear projection ("n2n")."""

    def __init__(self, weight: float, n_student: int, n_teacher: int) -> None:
        super().__init__(weight)
        self.projection = torch.nn.Linear(n_student, n_teacher)

    def value(self, network: Network, batch: Batch, output: Output) -> torch.Tensor:
        """Mean square of the differences of features."""
        said = output["node_feats"][:, -self.projection.in_features :]
        return HUBER_DELTA * mse_loss(self.projection(said), batch["teacher_node_features"])


class EnergyGradientTerm(Weighted):
    """The negative gradient of a direct-force student's energy against the labelled forces."""

    def count(self, batch: Batch) -> int:
        """Atoms with labelled forces."""
        return int(batch["labels_forces"].isfinite().all(dim=1).sum())

    def value(self, network: Network, batch: Batch, output: Output) -> torch.Tensor:
        """Mean norm of the difference, over atoms with labels."""
        energy = output["interaction_energy"].sum()
        (gradient,) = torch.autograd.grad(energy, batch["positions"], create_graph=True)
        labels = batch["labels_forces"]
        labelled = labels.isfinite().all(dim=1)
        total = norms(gradient[labelled] + labels[labelled]).sum()
        return HUBER_DELTA * total / max(int(labelled.sum()), 1)  # a batch may have no labels


@dataclass(frozen=True, kw_only=True)
class Decay:
    """When a weight becomes `factor` times what it was, once: below `limit` of what `judged_by` names."""

    factor: float
    limit: float
    judged_by: Literal["forces", "energy_and_forces"]
    energy: float
    forces: float

    def score(self, errors: Mapping[str, float]) -> float:
        """Error of the forces, or the weighted sum with that of the energies."""
        if self.judged_by == "forces":
            return errors["forces_mae"]
        return self.forces * errors["forces_mae"] + self.energy * errors["energy_per_atom_mae"]


class CurvatureTerm(Weighted):
    """Products of the Hessian with `per_step` of each structure's stored directions, drawn anew each time.

    The student's products are exact, or differences of its forces over `displacement` Å, of either sign.
    The lessons are called `name`_directions and `name`_products, (ΣN, K, 3).
    """

    decayed: torch.Tensor

    def __init__(
        self,
        weight: float,
        *,
        name: str,
        per_step: int,
        displacement: float | None,
        decay: Decay | None,
        seed: int,
    ) -> None:
        super().__init__(weight)
        self.register_buffer("decayed", torch.tensor(False))
        self._generator = torch.Generator().manual_seed(seed)
        self.name = name
        self.per_step = per_step
        self.displacement = displacement
        self.decay = decay

    def get_extra_state(self) -> torch.Tensor:
        """Where the draws are, so that a training that goes on draws what it would have drawn."""
        return self._generator.get_state()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """See `get_extra_state`."""
        self._generator.set_state(state)

    def judged(self, errors: Mapping[str, float]) -> None:
        """Let the weight decay once the student is as good as its teacher."""
        if self.decay is not None and not self.decayed and self.decay.score(errors) < self.decay.limit:
            self.weight *= self.decay.factor
            self.decayed.fill_(True)

    def value(self, network: Network, batch: Batch, output: Output) -> torch.Tensor:
        """Per structure the mean over directions of the sum over atoms of norms, per atom of the batch."""
        every, labels = batch[f"{self.name}_directions"], batch[f"{self.name}_products"]
        atoms = torch.arange(len(every), device=every.device)
        total = output["forces"].new_zeros(())
        structures = batch["batch"]
        lots = torch.rand(len(batch["n_atoms"]), every.shape[1], generator=self._generator)
        chosen = lots.argsort(dim=1)[:, : self.per_step].to(every.device)
        for k in range(chosen.shape[1]):
            mine = chosen[structures, k]
            direction, label = every[atoms, mine], labels[atoms, mine]
            labelled = label.isfinite().all(dim=1)
            if not labelled.any():
                continue
            direction = direction.nan_to_num()
            found = self._product(network, batch, output["forces"], direction)
            largest = label.nan_to_num().abs().amax(dim=1)
            peak = largest.new_zeros(len(batch["n_atoms"])).scatter_reduce(0, structures, largest, "amax")
            scale = torch.where(peak > _HUGE, _NEXT_TO_NOTHING, 1.0).to(label)[structures]
            total = total + (scale[labelled] * norms(found[labelled] - label[labelled])).sum()
        return HUBER_DELTA * total / (chosen.shape[1] * len(every))

    def _product(
        self, network: Network, batch: Batch, forces: torch.Tensor, direction: torch.Tensor
    ) -> torch.Tensor:
        if self.displacement is None:
            return hessians.product(forces, batch, direction, graph=True)
        # A random side: the mean over steps is the central difference, at half its price.
        side = 1.0 if torch.rand((), generator=self._generator) < 0.5 else -1.0
        step = side * self.displacement
        moved = batch | {"positions": (batch["positions"] + step * direction).detach()}
        there = network(moved, training=True, compute_force=True)["forces"]
        return (forces - there) / step


def norms(vectors: torch.Tensor) -> torch.Tensor:
    """Lengths (N,) of vectors (N, 3), with a gradient also at zero."""
    return (vectors.square().sum(dim=1) + 1e-12).sqrt()


def atomic_energies(network: Network, batch: Batch, output: Output) -> torch.Tensor:
    """What each atom adds to the energy, without its E0 (N,), eV."""
    e0s = torch.atleast_2d(network.atomic_energies_fn.atomic_energies)
    # The network added its E0s in its own precision; what it added is what is taken away.
    own = e0s[batch["head"][batch["batch"]], batch["species"]].to(batch["positions"].dtype)
    return (output["node_energy"] - own).to(batch["positions"].dtype)
