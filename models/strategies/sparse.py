"""Sparse fine-tuning: few weights change, which ones is learned; and controls that choose them beforehand."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from models.changes import LargestChanges, Positions, Rule, SoftThresholds
from models.gradients import gradients
from models.potentials import Network, Potential, n_parameters
from models.strategies.base import Strategy, TrainingData
from models.training import EmptyTraining, Optimisation, TrainingSetup
from models.training_state import TrainingState

PACE = Optimisation(learning_rate=1e-1, ema_decay=0.99, clip_gradient=10.0)
"""As for LoRA: few parameters want a larger rate than all."""
GENTLE = PACE.model_copy(update={"learning_rate": 3e-2})
"""Beyond it, masks of sensitive weights err more, and replay forgets more without erring less."""

_SCORED = 128  # structures that tell which weights matter


class FewWeights(Strategy):
    """What sparse strategies have in common: a share of the weights that may change, and of which tensors.

    What the foundation does not have, as a part for magnetic moments, is trained as a whole and not counted.
    """

    trained_share: float | None = Field(
        0.03, gt=0, lt=1, description="changed weights, of all weights of the network"
    )
    weights_of: Literal["equivariant", "all"] = Field(
        "equivariant",
        description="what may change: linear layers and tensor products as in the paper, or every tensor",
    )

    def _described(self) -> str:
        share = "free" if self.trained_share is None else f"{100 * self.trained_share:g}".replace(".", "-")
        return f"{super()._described()}-{share}{'' if self.trained_share is None else 'pct'}"

    def prepare(self, foundation: Potential, e0s: Mapping[int, float], data: TrainingData) -> TrainingSetup:
        """As every strategy, with the rule by which few weights change."""
        setup = super().prepare(foundation, e0s, data)
        known = {name for name, _ in foundation.network.named_parameters()}
        trained = [name for name, p in setup.network.named_parameters() if p.requires_grad]
        new = tuple(name for name in trained if name not in known)
        tensors = {name: paths for name, paths in self._tensors(setup.network).items() if name in known}
        if not tensors:
            raise EmptyTraining(f"{self.name}: {type(setup.network).__name__} has no layer that may change")
        return replace(setup, change=self.rule(setup, tensors, new))

    def _tensors(self, network: Network) -> dict[str, tuple[int, ...]]:
        """Names of the tensors that may change, with the sizes of their paths in order."""
        from models.mace_torch import o3

        layers = (o3.Linear, o3.FullyConnectedTensorProduct, o3.TensorProduct)
        modules = dict(network.named_modules())
        found = {}
        for name, parameter in network.named_parameters():
            layer, _, own = name.rpartition(".")
            if not parameter.requires_grad or not parameter.numel():
                continue
            if own == "weight" and type(modules[layer]) in layers:
                paths = [i for i in modules[layer].instructions if getattr(i, "has_weight", True)]
                found[name] = tuple(math.prod(path.path_shape) for path in paths)
            elif self.weights_of == "all":
                found[name] = (parameter.numel(),)
        return found

    @abstractmethod
    def rule(
        self, setup: TrainingSetup, tensors: Mapping[str, tuple[int, ...]], new: tuple[str, ...]
    ) -> Rule:
        """How the weights of these tensors change, and what is `new` with them."""


class Thresholded(FewWeights):
    """Every weight may change, and which ones do in the end is learned.

    With a `trained_share` that share is `reached`, and from then on held: see
    `models.changes.LargestChanges`. Without, thresholds are soft and sparsity is what the paper makes of
    `threshold_decay`: 0.01 is its "L", for accuracy, 0.3 its "H"; it grows with learning rate and updates.
    See `models.changes.SoftThresholds`.
    """

    reached: float = Field(0.25, gt=0, le=1, description="share of the training until the share is reached")
    search_rate: float = Field(0.1, gt=0, description="learning rate until then, over that of after")
    thresholds: Literal["layer", "path"] = Field(
        "layer",
        description="without a share: a threshold for every tensor, or every path of irreps through it",
    )
    threshold_decay: float = Field(
        0.01, ge=0, description="without a share: weight decay of the thresholds' logits"
    )
    initial_threshold: float = Field(1e-3, gt=0, lt=1, description="without a share: where thresholds start")

    def begins(self, longer: Strategy) -> bool:
        """As every strategy, but not where it follows from the number of epochs when the share is reached."""
        return super().begins(longer) and self.trained_share is None

    def rule(
        self, setup: TrainingSetup, tensors: Mapping[str, tuple[int, ...]], new: tuple[str, ...]
    ) -> Rule:
        """The largest changes, or soft thresholds."""
        n_weights = _n_weights(setup.network, new)
        if self.trained_share is not None:
            return LargestChanges(
                names=tuple(tensors),
                n_weights=n_weights,
                share=self.trained_share,
                reached=self.reached,
                search_rate=self.search_rate,
                new=new,
            )
        whole = {name: (sum(sizes),) for name, sizes in tensors.items()}
        return SoftThresholds(
            groups=whole if self.thresholds == "layer" else tensors,
            n_weights=n_weights,
            threshold=self.initial_threshold,
            decay=self.threshold_decay,
            new=new,
        )


class Sparse(Thresholded):
    """Sparsity-promoting fine-tuning (OpenReview moBqB1CUym) on the target's labels alone."""

    kind: Literal["sparse"] = "sparse"
    optimisation: Optimisation = PACE


class Masked(FewWeights):
    """The control of `sparse`: as many weights, chosen before training by what does not know the change.

    `fisher` takes those with the largest mean squared gradient of a structure's loss (FISH masks, arXiv
    2111.09839), `magnitude` the largest weights, `random` any, drawn by the optimisation's seed. Only
    weights count that have a gradient at all: those of absent elements have none.
    """

    kind: Literal["masked"] = "masked"
    optimisation: Optimisation = GENTLE
    trained_share: float = Field(
        0.03, gt=0, lt=1, description="changed weights, of all weights of the network"
    )
    by: Literal["fisher", "magnitude", "random"] = Field("fisher", description="how weights are chosen")

    def _described(self) -> str:
        return f"{super()._described()}-{self.by}"

    def rule(
        self, setup: TrainingSetup, tensors: Mapping[str, tuple[int, ...]], new: tuple[str, ...]
    ) -> Rule:
        """The positions of the weights with the largest scores."""
        network = setup.network
        fisher = _fisher(setup, list(tensors), self.optimisation.seed)
        if self.by == "random":
            draw = torch.Generator().manual_seed(self.optimisation.seed)
            scores = {name: torch.rand(f.shape, generator=draw) for name, f in fisher.items()}
        elif self.by == "magnitude":
            scores = {name: network.get_parameter(name).detach().abs().flatten() for name in fisher}
        else:
            scores = fisher
        ranked = torch.cat([scores[name].where(f > 0, -1.0) for name, f in fisher.items()])
        n_weights = _n_weights(network, new)
        wanted = min(round(self.trained_share * n_weights), int((ranked >= 0).sum()))
        keep = torch.zeros(len(ranked), dtype=torch.bool)
        keep[ranked.topk(wanted).indices] = True
        parts = keep.split([len(f) for f in fisher.values()])
        chosen = {name: part.nonzero().flatten() for name, part in zip(fisher, parts, strict=True)}
        return Positions(chosen=chosen, n_weights=n_weights, new=new)


def _n_weights(network: Network, new: tuple[str, ...]) -> int:
    """The weights of a network that can be trained, but for new ones."""
    return n_parameters(network) - sum(network.get_parameter(name).numel() for name in new)


def _fisher(setup: TrainingSetup, names: list[str], seed: int) -> dict[str, torch.Tensor]:
    """Mean squared gradients of the losses of single structures with respect to the elements of tensors."""
    network = setup.network
    e0s = torch.atleast_2d(network.atomic_energies_fn.atomic_energies)
    tensors = {name: network.get_parameter(name) for name in names}
    order = np.random.default_rng(seed).permutation(len(setup.train))[:_SCORED]
    found = {name: torch.zeros(p.numel(), dtype=p.dtype) for name, p in tensors.items()}
    state = TrainingState(rate=0.0)
    for index in order:
        gradients(network, [setup.train[int(index)]], e0s, setup.weights, (), state)
        for name, p in tensors.items():
            if p.grad is not None:
                found[name] += p.grad.flatten() ** 2 / len(order)
        network.zero_grad()
    return found
