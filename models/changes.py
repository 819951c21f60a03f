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

    def write(self) -> None:
        """Make the network what follows from what was moved."""

    def pace(self) -> float:
        """What the learning rate is multiplied with."""
        return 1.0

    def turns(self, progress: float) -> bool:
        """Decide anew what may change, if it is time, and whether it was: then the optimiser starts anew."""
        return False

    def agree(self, other: "Change") -> None:
        """Let the same change as in `other`, of which this is the average."""

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
    """W' = W + S(Δ, δ), S(Δ, δ) = sign(Δ) max(|Δ| - δ, 0), δ = sigmoid(τ), of OpenReview moBqB1CUym.

    All weights of the tensors named in `groups` have a Δ, and every group of them, of so many elements, its
    own τ; the other parameters of the network, which has `n_weights` that can be trained, stay. Those that
    are `new`, which its foundation does not have, are moved themselves and count for nothing. Both are
    trained, τ with a decoupled weight decay of `decay`; it starts where δ is `threshold`.

    Unlike there, Δ starts at zero: the network starts as it was, and weights without a gradient stay bit for
    bit. As all start below their threshold, those below it have a gradient too.
    """

    groups: Mapping[str, tuple[int, ...]]
    n_weights: int
    threshold: float
    decay: float
    new: tuple[str, ...] = ()

    def of(self, network: Network) -> Change:
        """The network with Δ and τ."""
        return _Thresholded(network, self)


@dataclass(frozen=True, kw_only=True)
class LargestChanges:
    """W' = W + Δ, in the end only of those weights of the tensors `names` that changed most on the way.

    All of them change until the share `reached` of the training is done, at `search_rate` times the learning
    rate: a step of so many weights goes farther than one of few. Then the threshold is set that leaves a
    `share` of the network's `n_weights`. What is above it goes on from where it is, with an optimiser that
    starts anew, as what it knew of the gradients was of another training; all else is again what it was, and
    stays. Parameters that are `new` are moved themselves.
    """

    names: tuple[str, ...]
    n_weights: int
    share: float
    reached: float
    search_rate: float
    new: tuple[str, ...] = ()

    def of(self, network: Network) -> Change:
        """The network with Δ."""
        return _Largest(network, self)


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
    def write(self) -> None:
        parts = self._parts()
        flat = self._changed().split([p.numel() for p in parts])
        for p, values in zip(parts, flat, strict=True):
            p.copy_(values.view_as(p))

    @abstractmethod
    def _changed(self) -> torch.Tensor:
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
    def __init__(self, network: Network, rule: SoftThresholds) -> None:
        super().__init__(network, list(rule.groups), rule.new, rule.n_weights)
        self.rule = rule
        self.sizes = [size for sizes in rule.groups.values() for size in sizes]
        start = math.log(rule.threshold / (1.0 - rule.threshold))
        self.delta = torch.nn.Parameter(torch.zeros_like(self.before))
        self.tau = torch.nn.Parameter(self.before.new_full((len(self.sizes),), start))

    def moved(self) -> list[dict[str, Any]]:
        return [
            {"params": [self.delta, *self._new()]},
            {"params": [self.tau], "weight_decay": self.rule.decay},
        ]

    @torch.no_grad()
    def take_gradients(self) -> None:
        self.delta.grad = self._taken()
        above = self.delta.abs() > self._each(self.thresholds())
        slopes = (self.delta.grad * self.delta.sign() * above).split(self.sizes)
        thresholds = self.thresholds()
        self.tau.grad = -thresholds * (1.0 - thresholds) * torch.stack([part.sum() for part in slopes])

    def thresholds(self) -> torch.Tensor:
        """δ of every group."""
        return torch.sigmoid(self.tau.detach())

    def _each(self, of_groups: torch.Tensor) -> torch.Tensor:
        """The value of its group for each weight."""
        return of_groups.repeat_interleave(torch.tensor(self.sizes, device=of_groups.device))

    def _changed(self) -> torch.Tensor:
        delta, thresholds = self.delta.detach(), self._each(self.thresholds())
        return torch.where(
            delta.abs() > thresholds, self.before + (delta - thresholds * delta.sign()), self.before
        )

    def facts(self) -> dict[str, float]:
        """With the threshold of every tensor or path."""
        names = [
            name.removesuffix(".weight") + (f"[{i}]" if len(sizes) > 1 else "")
            for name, sizes in self.rule.groups.items()
            for i in range(len(sizes))
        ]
        found = zip(names, self.thresholds().tolist(), strict=True)
        return {**super().facts(), **{f"threshold {name}": value for name, value in found}}


class _Largest(_Sparse):
    held: torch.Tensor
    live: torch.Tensor
    threshold: torch.Tensor

    def __init__(self, network: Network, rule: LargestChanges) -> None:
        super().__init__(network, list(rule.names), rule.new, rule.n_weights)
        self.rule = rule
        self.delta = torch.nn.Parameter(torch.zeros_like(self.before))
        self.register_buffer("held", torch.zeros((), dtype=torch.bool, device=self.before.device))
        self.register_buffer("live", torch.ones_like(self.before, dtype=torch.bool))
        self.register_buffer("threshold", self.before.new_zeros(()))

    def moved(self) -> list[dict[str, Any]]:
        return [{"params": [self.delta, *self._new()]}]

    def take_gradients(self) -> None:
        self.delta.grad = self._taken() * self.live

    def pace(self) -> float:
        return 1.0 if self.held else self.rule.search_rate

    @torch.no_grad()
    def turns(self, progress: float) -> bool:
        if self.held or progress < self.rule.reached:
            return False
        self.held.fill_(True)
        sizes, places = self.delta.abs().topk(min(self._wanted, len(self.delta)))
        self.threshold.copy_(sizes[-1])
        self.live.zero_()[places[sizes > 0.0]] = True
        self.delta.mul_(self.live)
        return True

    @property
    def _wanted(self) -> int:
        return max(1, round(self.rule.share * self.n_weights))

    def agree(self, other: Change) -> None:
        assert isinstance(other, _Largest)
        for own, there in zip(self._decided(), other._decided(), strict=True):
            own.copy_(there)

    def _decided(self) -> tuple[torch.Tensor, ...]:
        return self.held, self.live, self.threshold

    def _changed(self) -> torch.Tensor:
        return torch.where(self.live, self.before + self.delta.detach(), self.before)

    def may_be_kept(self) -> bool:
        return self.n_changed() <= self._wanted

    def facts(self) -> dict[str, float]:
        """With the size from which changes were held, 0 before they are."""
        return {**super().facts(), "threshold": float(self.threshold)}


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

    def _changed(self) -> torch.Tensor:
        return self.before.index_add(0, self.index, self.delta.detach())
