"""What moves the parameters, and the average of where they were, which is judged and kept."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import schedulefree
import torch


class Optimiser(ABC):
    """Moves the parameters in `groups`; `mean` are the averages of its first, in the same order."""

    def __init__(
        self,
        groups: Iterable[Mapping[str, Any]],
        mean: Iterable[torch.nn.Parameter],
        *,
        learning_rate: float,
        clip_gradient: float,
        ema_decay: float,
    ) -> None:
        self.groups = [dict(group) for group in groups]
        self.parameters = [p for group in self.groups for p in group["params"]]
        self.mean = list(mean)
        self.learning_rate, self.clip_gradient, self.ema_decay = learning_rate, clip_gradient, ema_decay
        self.restart()

    def restart(self) -> None:
        """Forget the moments of all gradients so far."""
        self.steps = self.begin([dict(group) for group in self.groups], self.learning_rate)

    @abstractmethod
    def begin(self, groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        """What moves the parameters, without weight decay but where a group has its own."""

    def step(self, learning_rate: float) -> None:
        """One update from the parameters' gradients, clipped by their norm, which are used up."""
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_gradient)
        for group in self.steps.param_groups:
            group["lr"] = learning_rate
        self.steps.step()
        self.steps.zero_grad()

    @abstractmethod
    def follow(self, updates: int) -> None:
        """Take an update, one of so many, into the average."""

    @abstractmethod
    def settle(self) -> None:
        """Make the average one of all updates so far; what is trained stays bit for bit."""

    def state_dict(self) -> dict[str, Any]:
        """What a training goes on from."""
        state: dict[str, Any] = self.steps.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.steps.load_state_dict(state_dict)


class AdamW(Optimiser):
    """AdamW with the largest second moments so far, and a running average (EMA) with a warm-up."""

    def begin(self, groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.0, amsgrad=True)

    @torch.no_grad()
    def follow(self, updates: int) -> None:
        decay = min(self.ema_decay, (1 + updates) / (10 + updates))
        for mean, current in zip(self.mean, self.parameters, strict=False):
            mean.lerp_(current, 1.0 - decay)

    def settle(self) -> None:
        """The average has followed."""


class ScheduleFree(Optimiser):
    """Schedule-free AdamW (arXiv 2405.15682), which averages by itself in place of a decay of the rate."""

    steps: schedulefree.AdamWScheduleFree

    def begin(self, groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        steps = schedulefree.AdamWScheduleFree(groups, lr=learning_rate)
        steps.train()
        return steps

    def follow(self, updates: int) -> None:
        """Its steps keep the average."""

    @torch.no_grad()
    def settle(self) -> None:
        # Going to the average and back would round.
        there = [p.clone() for p in self.parameters]
        self.steps.eval()
        for mean, current in zip(self.mean, self.parameters, strict=False):
            mean.copy_(current)
        self.steps.train()
        for current, kept in zip(self.parameters, there, strict=True):
            current.copy_(kept)


KINDS: Mapping[str, type[Optimiser]] = {"adamw": AdamW, "schedule_free": ScheduleFree}
