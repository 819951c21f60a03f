"""How a training moves the parameters of a network: directly, or by a change of few of its weights.

The network is always a plain one. Its gradients are handed on to what the optimiser moves, and what that
becomes is written into its parameters: the numbers of a reparameterisation without its modules, so that
kernels, parts of batches, several processes and files know nothing of it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from models.potentials import Network, n_parameters

_EVERY = 10  # updates from one search for the common level to the next, which costs as much as all else
_ROUNDING = 1.01  # of a share: weights whose change is about the threshold


class Change(torch.nn.Module):
    """A network in training, and what the optimiser moves of it: its parameters themselves."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def moved(self) -> list[dict[str, Any]]:
        """Groups of parameters, as `torch.optim` takes them."""
        return [{"params": [p for p in self.network.parameters() if p.requires_grad]}]

    def take_gradients(self) -> None:
        """Turn the gradients of the network's parameters into those of what is moved."""

    def write(self, progress: float) -> None:
        """Make the network what follows from what was moved; `progress` is the share of the training done."""

    def may_be_kept(self) -> bool:
        """Whether the network is one that the training may result in."""
        return True

    def facts(self) -> dict[str, float]:
        """What the record of an evaluation says of the change."""
        return {}

    def n_trained(self) -> int:
        """Number of trained parameters."""
        return n_parameters(self.network)


class Rule(Protocol):
    """How a training changes a network; its text tells it from others."""

    def of(self, network: Network) -> Change:
        """The network with what is moved in its place."""
        ...


@dataclass(frozen=True)
class _Directly:
    """Every parameter that is differentiated is moved."""

    def of(self, network: Network) -> Change:
        """The network itself."""
        return Change(network)


DIRECTLY = _Directly()


@dataclass(frozen=True, kw_only=True)
class SoftThresholds:
    """W' = W + S(Δ, δ), S(Δ, δ) = Δ - shrinkage · δ sign(Δ) where |Δ| > δ, else 0; δ = sigmoid(τ + c).

    With a shrinkage of 1 this is the soft threshold of OpenReview moBqB1CUym; with less, changes lose less of
    their size. All weights of the tensors named in `groups` have a Δ, and every group of them, of so many
    elements, its own τ; the other parameters of the network, which has `n_weights` that can be trained, stay.
    Those that are `new`, which its foundation does not have, are moved themselves and count for nothing.
    Both are trained, τ with a decoupled weight decay of `decay`.

    Without a `share`, c is 0 and τ starts where δ is `threshold`. With one, c is what leaves no more than
    this share of the network's weights with a change, while τ says where they are: all may change at the
    start, ever fewer until the share `reached` of the training is done.

    Unlike there, Δ starts at zero: the network starts as it was, and weights without a gradient stay bit for
    bit. What is below its threshold has no gradient, except without a share: all start below it then.
    """

    groups: Mapping[str, tuple[int, ...]]
    n_weights: int
    share: float | None
    reached: float
    shrinkage: float
    threshold: float
    decay: float
    new: tuple[str, ...] = ()

    def of(self, network: Network) -> Change:
        """The network with Δ and τ."""
        return _Thresholded(network, self)


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Weights at fixed positions change, by tensor (int64, of its elements), of `n_weights` in all.

    Parameters that are `new` are moved themselves.
    """

    chosen: Mapping[str, torch.Tensor]
    n_weights: int
    new: tuple[str, ...] = ()

    def of(self, network: Network) -> Change:
        """The network with a change for each of these weights."""
        return _Masked(network, self)


class _Sparse(Change, ABC):
    """The weights `names` end to end, of which few change, and `new` ones. No others are differentiated."""

    before: torch.Tensor

    def __init__(self, network: Network, names: list[str], new: Sequence[str], n_weights: int) -> None:
        super().__init__(network)
        self.names, self.new, self.n_weights = names, new, n_weights
        network.requires_grad_(False)
        for parameter in (*self._parts(), *self._new()):
            parameter.requires_grad_()
        self.register_buffer("before", self._flat(), persistent=False)

    def _parts(self) -> list[torch.nn.Parameter]:
        return [self.network.get_parameter(name) for name in self.names]

    def _new(self) -> list[torch.nn.Parameter]:
        return [self.network.get_parameter(name) for name in self.new]

    def _flat(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self._parts()])

    def _taken(self) -> torch.Tensor:
        """The gradients of the weights, end to end, which they lose."""
        parts = self._parts()
        taken = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parts])
        for p in parts:
            p.grad = None
        return taken

    @torch.no_grad()
    def write(self, progress: float) -> None:
        parts = self._parts()
        flat = self._changed(progress).split([p.numel() for p in parts])
        for p, values in zip(parts, flat, strict=True):
            p.copy_(values.view_as(p))

    @abstractmethod
    def _changed(self, progress: float) -> torch.Tensor:
        """What the weights become; what does not change is `before` bit for bit."""

    def facts(self) -> dict[str, float]:
        """Changed weights as a share of all of the network, and of those that may change."""
        changed = self.n_changed()
        return {
            "changed_share": changed / self.n_weights,
            "changed_share_of_chosen": changed / len(self.before),
        }

    def n_changed(self) -> int:
        """Number of weights that are not what they were."""
        return int((self._flat() != self.before).sum())

    def n_trained(self) -> int:
        """Number of weights that are not what they were, and of new ones."""
        return self.n_changed() + sum(p.numel() for p in self._new())


class _Thresholded(_Sparse):
    level: torch.Tensor
    live: torch.Tensor
    taken: torch.Tensor

    def __init__(self, network: Network, rule: SoftThresholds) -> None:
        super().__init__(network, list(rule.groups), rule.new, rule.n_weights)
        self.rule = rule
        self.sizes = [size for sizes in rule.groups.values() for size in sizes]
        like = self.before
        start = 0.0 if rule.share is not None else math.log(rule.threshold / (1.0 - rule.threshold))
        self.delta = torch.nn.Parameter(torch.zeros_like(like))
        self.tau = torch.nn.Parameter(like.new_full((len(self.sizes),), start))
        self.register_buffer("level", like.new_zeros(()))
        self.register_buffer("live", torch.ones_like(like, dtype=torch.bool))
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64, device=like.device))

    def moved(self) -> list[dict[str, Any]]:
        return [
            {"params": [self.delta, *self._new()]},
            {"params": [self.tau], "weight_decay": self.rule.decay},
        ]

    @torch.no_grad()
    def take_gradients(self) -> None:
        gradient = self._taken()
        alive = gradient * self.live
        self.delta.grad = gradient if self.rule.share is None else alive
        self.tau.grad = torch.zeros_like(self.tau)
        if self.rule.shrinkage:
            slopes = (alive * self.delta.sign()).split(self.sizes)
            thresholds = self.thresholds()
            slope = self.rule.shrinkage * torch.stack([part.sum() for part in slopes])
            self.tau.grad = -thresholds * (1.0 - thresholds) * slope
        self.taken += 1

    def thresholds(self) -> torch.Tensor:
        """δ of every group."""
        return torch.sigmoid(self.tau.detach() + self.level)

    def _changed(self, progress: float) -> torch.Tensor:
        if self.rule.share is not None and int(self.taken) % _EVERY == 0:
            self.level.fill_(self._level(self._budget(progress)))
        parts = []
        groups = zip(
            *(whole.split(self.sizes) for whole in (self.delta.detach(), self.before, self.live)),
            self.thresholds(),
            strict=True,
        )
        for delta, before, live, threshold in groups:
            # Adam makes many changes of one size: at the threshold they are out, at zero not yet pruned.
            (torch.gt if threshold > 0.0 else torch.ge)(delta.abs(), threshold, out=live)
            shrunk = self.rule.shrinkage * threshold * delta.sign() if self.rule.shrinkage else 0.0
            parts.append(torch.where(live, before + (delta - shrunk), before))
        return torch.cat(parts)

    def _budget(self, progress: float) -> int:
        """How many weights may have a change, by the cubic schedule of gradual pruning (arXiv 1710.01878)."""
        assert self.rule.share is not None
        ahead = max(1.0 - progress / self.rule.reached, 0.0) if self.rule.reached else 0.0
        last = round(self.rule.share * self.n_weights)
        return round(last + max(len(self.before) - last, 0) * ahead**3)

    def _level(self, budget: int) -> float:
        """The c with which `budget` weights are above their threshold."""
        if budget >= len(self.before):
            return -math.inf
        heights = torch.logit(self.delta.abs())
        for part, tau in zip(heights.split(self.sizes), self.tau, strict=True):
            part.sub_(tau)
        return float(heights.kthvalue(len(heights) - budget).values)

    def may_be_kept(self) -> bool:
        return self.rule.share is None or self.n_changed() <= self._budget(1.0) * _ROUNDING

    def facts(self) -> dict[str, float]:
        """With the threshold of every tensor or path."""
        names = [
            name.removesuffix(".weight") + (f"[{i}]" if len(sizes) > 1 else "")
            for name, sizes in self.rule.groups.items()
            for i in range(len(sizes))
        ]
        found = zip(names, self.thresholds().tolist(), strict=True)
        return {**super().facts(), **{f"threshold {name}": value for name, value in found}}


class _Masked(_Sparse):
    index: torch.Tensor

    def __init__(self, network: Network, rule: Positions) -> None:
        super().__init__(network, list(rule.chosen), rule.new, rule.n_weights)
        parts = self._parts()
        starts = [0, *torch.tensor([p.numel() for p in parts]).cumsum(0).tolist()]
        index = torch.cat([start + where for start, where in zip(starts, rule.chosen.values(), strict=False)])
        self.register_buffer("index", index.to(self.before.device))
        self.delta = torch.nn.Parameter(self.before.new_zeros(len(index)))

    def moved(self) -> list[dict[str, Any]]:
        return [{"params": [self.delta, *self._new()]}]

    def take_gradients(self) -> None:
        self.delta.grad = self._taken()[self.index]

    def _changed(self, progress: float) -> torch.Tensor:
        return self.before.index_add(0, self.index, self.delta.detach())
