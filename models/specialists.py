"""Many specialists of one foundation in memory: one network, and the few weights in which each differs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models import checkpoints
from models.calculator import PotentialCalculator
from models.checkpoints import CheckpointError
from models.potentials import Potential, load, state


@dataclass(frozen=True, kw_only=True)
class _Specialist:
    """By tensor flat positions, the foundation's values there and its own; and what is said of it."""

    weights: Mapping[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    heads: list[str]
    level_of_theory: Mapping[str, str]
    provenance: Mapping[str, Any]


class Specialists:
    """Specialists of one foundation that share its network; one of them is in use at a time.

    Going over to another one writes only the weights in which the two differ from the foundation, and each
    has the very bits of its own checkpoint then, whatever was in use before. Not for several threads at once.
    """

    def __init__(self, foundation: Path) -> None:
        """Read the foundation, from any checkpoint; raises CheckpointError."""
        start = load(foundation)
        self._network = start.network
        self._tensors = state(self._network)  # they share its memory
        about = {"level_of_theory": start.level_of_theory, "provenance": start.provenance}
        self._known = {"": _Specialist(weights={}, heads=start.heads, **about)}
        self._current = ""

    def add(self, name: str, checkpoint: Path) -> None:
        """Take a specialist in; raises CheckpointError where it has another shape than the foundation."""
        if not name or name in self._known:
            raise CheckpointError(f"a specialist {name!r} is there already, or has no name: give another one")
        described, weights = checkpoints.read(checkpoint)
        ours, theirs = ({k: (v.shape, v.dtype) for k, v in it.items()} for it in (self._tensors, weights))
        if other := sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k)):
            raise CheckpointError(
                f"{checkpoint}: cannot share a network with the foundation, since {', '.join(other[:3])} "
                "differ in shape (other elements or heads?); load it on its own"
            )
        self.use()
        changes = {}
        for tensor, values in weights.items():
            index = checkpoints.changed(self._tensors[tensor], values).nonzero().flatten()
            if len(index):
                before = self._tensors[tensor].reshape(-1)[index]
                changes[tensor] = (index, before, values.reshape(-1)[index])
        self._known[name] = _Specialist(
            weights=changes,
            heads=described["architecture"]["heads"],
            level_of_theory=described["level_of_theory"],
            provenance=described["provenance"],
        )

    def __len__(self) -> int:
        """How many there are, without the foundation."""
        return len(self._known) - 1

    @property
    def names(self) -> list[str]:
        """What they are called, in the order in which they were added."""
        return list(self._known)[1:]

    @property
    def bytes(self) -> int:
        """Memory of all specialists beside the network."""
        kept = (parts for one in self._known.values() for parts in one.weights.values())
        return sum(part.nbytes for parts in kept for part in parts)

    def use(self, name: str = "") -> Potential:
        """The specialist of this name, or the foundation; raises KeyError where there is none.

        What an earlier call returned has this one's weights now: use one at a time.
        """
        if name not in self._known:
            raise KeyError(f"no specialist {name!r}; there are {', '.join(self.names) or 'none'}")
        before, now = self._known[self._current], self._known[name]
        for tensor, (index, original, _) in before.weights.items():
            self._tensors[tensor].view(-1)[index] = original
        for tensor, (index, _, values) in now.weights.items():
            self._tensors[tensor].view(-1)[index] = values
        self._current = name
        self._network.heads = list(now.heads)
        return Potential(
            network=self._network, level_of_theory=now.level_of_theory, provenance=now.provenance
        )


class SpecialistCalculator(PotentialCalculator):
    """A calculator of ASE for specialists that share a network; `use` goes over to another one."""

    def __init__(self, specialists: Specialists, name: str = "", head: str | None = None) -> None:
        # Not traced, as `PotentialCalculator` does it: what is written down has its weights for good.
        super(PotentialCalculator, self).__init__()
        self._specialists = specialists
        self._head = head
        self._name = name

    def use(self, name: str) -> None:
        """Go over to another specialist; what was computed with the last one is forgotten."""
        self._name = name
        self.reset()

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        """Fill `results`; calculators may share the specialists, so each makes sure of its own."""
        self._potential = self._specialists.use(self._name)
        super().calculate(*args, **kwargs)
