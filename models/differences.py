"""What is different between two checkpoints: weights by layer, E0s, heads and elements."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from models import checkpoints
from models.checkpoints import CheckpointError, Tensors
from models.potentials import E0S, Network, Potential, blank, description, state


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One tensor of trained weights.

    Attributes:
        weights, changed: how many there are, and how many of them have other bits.
        largest: |change|.
        relative: norm of the change over the norm of what was there before; None where that is zero.
        stored_anew: it is new, or has another shape, so that there is nothing to compare with.
    """

    name: str
    weights: int
    changed: int
    largest: float | None = None
    relative: float | None = None
    stored_anew: bool = False


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two checkpoints side by side.

    Attributes:
        layers: of the second one, in the order of its network.
        constants: changed tensors that are not trained, such as scale and shift; without the E0s.
        e0s: by head of the second one and element, how far its E0 has moved, eV.
        heads, elements, level_of_theory: of the first and of the second.
    """

    layers: tuple[Layer, ...]
    constants: tuple[str, ...]
    e0s: Mapping[str, Mapping[str, float]]
    heads: tuple[tuple[str, ...], tuple[str, ...]]
    elements: tuple[tuple[str, ...], tuple[str, ...]]
    level_of_theory: tuple[Mapping[str, str], Mapping[str, str]]

    @property
    def weights(self) -> int:
        """How many trained weights the second one has."""
        return sum(layer.weights for layer in self.layers)

    @property
    def changed(self) -> int:
        """How many of them are not the first one's."""
        return sum(layer.changed for layer in self.layers)

    @property
    def share(self) -> float:
        """Of changed weights."""
        return self.changed / self.weights if self.weights else 0.0


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two checkpoints as weights of one architecture, the second one's.

    Attributes:
        described: what their files say of them.
        before, after: all tensors.
        network: of the second one's architecture, with whatever weights.
    """

    described: tuple[Mapping[str, Any], Mapping[str, Any]]
    before: Tensors
    after: Tensors
    network: Network

    @property
    def trained(self) -> list[str]:
        """The names of the trained tensors."""
        return [name for name, _ in self.network.named_parameters() if name in self.after]

    def changed(self) -> dict[str, np.ndarray]:
        """By trained tensor which of its weights (n,) are changed; all, where there is nothing to compare."""
        return {
            name: (
                checkpoints.changed(self.before[name], self.after[name]).numpy()
                if checkpoints.comparable(self.before.get(name), self.after[name])
                else np.ones(self.after[name].numel(), dtype=bool)
            )
            for name in self.trained
        }


def of_files(before: Path, after: Path) -> Pair:
    """Read two checkpoints; raises CheckpointError where that fails, or they have no layer in common."""
    described, weights = checkpoints.read(after)
    found = _pair(before, described, weights, blank(described["architecture"]))
    if not any(checkpoints.comparable(found.before.get(name), found.after[name]) for name in found.trained):
        raise CheckpointError(f"{before} and {after} have no layer in common: they are other networks")
    return found


def of_potential(before: Path, after: Potential) -> Pair:
    """`of_files` for a potential; one without a common layer is changed all over."""
    return _pair(before, description(after), state(after.network), after.network)


def _pair(before: Path, described: Mapping[str, Any], weights: Tensors, network: Network) -> Pair:
    old = checkpoints.read(before)
    return Pair(
        described=(old[0], described),
        before=checkpoints.aligned(*old, described),
        after=weights,
        network=network,
    )


def difference(compared: Pair) -> Difference:
    """What changed from the first to the second."""
    trained = compared.changed()
    constants = [
        name
        for name, tensor in compared.after.items()
        if name not in trained
        and name != E0S
        and not (
            checkpoints.comparable(compared.before.get(name), tensor)
            and not checkpoints.changed(compared.before[name], tensor).any()
        )
    ]
    old, new = (described["architecture"] for described in compared.described)
    return Difference(
        layers=tuple(_layer(name, mask, compared) for name, mask in trained.items() if mask.size),
        constants=tuple(constants),
        e0s=_e0s(compared),
        heads=(tuple(old["heads"]), tuple(new["heads"])),
        elements=(_symbols(old), _symbols(new)),
        level_of_theory=(
            compared.described[0]["level_of_theory"],
            compared.described[1]["level_of_theory"],
        ),
    )


def _layer(name: str, mask: np.ndarray, compared: Pair) -> Layer:
    old, new = compared.before.get(name), compared.after[name]
    n_changed = int(mask.sum())
    if old is None or not checkpoints.comparable(old, new):
        return Layer(name=name, weights=mask.size, changed=n_changed, stored_anew=True)
    change = (new.double() - old.double()).numpy()
    norm = float(np.linalg.norm(old.double().numpy()))
    return Layer(
        name=name,
        weights=mask.size,
        changed=n_changed,
        largest=float(np.abs(change).max()),
        relative=float(np.linalg.norm(change)) / norm if norm else None,
    )


def _e0s(compared: Pair) -> dict[str, dict[str, float]]:
    """Heads of one name are compared; a head of another name with the only one there was."""
    (old, old_heads), (new, new_heads) = (_energies(described) for described in compared.described)
    found = {}
    for head in new_heads:
        other = head if head in old_heads else old_heads[0] if len(old_heads) == 1 else None
        if other is not None:
            energies = old[other]
            found[head] = {z: e - energies[z] for z, e in new[head].items() if z in energies}
    return found


def _energies(described: Mapping[str, Any]) -> tuple[dict[str, dict[str, float]], list[str]]:
    architecture = described["architecture"]
    heads = list(architecture["heads"])
    rows = np.atleast_2d(architecture["atomic_energies"])
    return {
        head: dict(zip(_symbols(architecture), row.tolist(), strict=True))
        for head, row in zip(heads, rows, strict=True)
    }, heads


def _symbols(architecture: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(chemical_symbols[z] for z in architecture["atomic_numbers"])
