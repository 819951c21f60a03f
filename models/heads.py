"""The heads and the element table of a network: give it others, keep some of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from models.potentials import E0S, Network, Potential, architecture, blank, build, irreps_dim, take_weights


def with_heads(
    potential: Potential,
    heads: Mapping[str, Mapping[int, float]],
    elements: Sequence[int] | None = None,
) -> Network:
    """A network whose every head starts as a copy of the potential's only head.

    `heads` maps each new head to its E0s (eV, by atomic number; every element kept must be there).
    The element table is kept whole, or reduced to `elements` without a change of what it says of
    them. Raises ValueError on a missing E0, an unknown element or a multi-head potential.
    """
    description = _description(potential, heads, elements)
    network = blank(description, potential.dtype)
    take_weights(network, potential.network)
    return network


def fresh(
    potential: Potential,
    heads: Mapping[str, Mapping[int, float]],
    elements: Sequence[int] | None = None,
    *,
    seed: int,
    scale: float,
    shifts: Mapping[str, float],
    neighbours: float,
) -> Network:
    """A network of the potential's architecture with random weights, for `heads` as in `with_heads`.

    `scale` (eV/Å) is the typical force and `shifts` (eV/atom, by head) the mean interaction energy,
    which the network's output is measured in; `neighbours` the mean number of neighbours of an atom.
    """
    description = _description(potential, heads, elements) | {
        "atomic_inter_scale": [scale] * len(heads),
        "atomic_inter_shift": [shifts[head] for head in heads],
        "avg_num_neighbors": neighbours,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(description, potential.dtype)


def with_elements(potential: Potential, donors: Mapping[str, str]) -> Potential:
    """The potential with more elements: each new symbol starts as a copy of one that is known.

    Of what it knew it says what it said before. Of a new element it says what it says of the donor, but for
    what mace computes from atomic numbers (screened repulsion, covalent radii): it has to be trained. Raises
    ValueError on a symbol that is none, is known already or has no known donor, and on a network that is no
    MACE.
    """
    check_donors(donors, potential.symbols)
    if not hasattr(potential.network, "products"):
        raise ValueError("only a MACE can be given more elements")
    numbers = {chemical_symbols.index(new): chemical_symbols.index(old) for new, old in donors.items()}
    table = sorted([*potential.elements, *numbers])
    e0s = [potential.e0s(head) for head in potential.heads]
    description = architecture(potential.network) | {
        "num_elements": len(table),
        "atomic_numbers": table,
        "atomic_energies": [[row[numbers.get(z, z)] for z in table] for row in e0s],
    }
    network = blank(description, potential.dtype)
    take_weights(network, potential.network, numbers)
    provenance = {**potential.provenance, "adopted": ", ".join(f"{n} from {o}" for n, o in donors.items())}
    return replace(potential, network=network.eval(), provenance=provenance)


def check_donors(donors: Mapping[str, str], known: Sequence[str]) -> None:
    """Raise ValueError unless every new symbol is an element that is not known, and its donor is known."""
    if wrong := [s for s in donors if s not in chemical_symbols[1:] or s in known]:
        raise ValueError(f"{', '.join(wrong)}: no element, or one that the foundation knows already")
    if wrong := sorted({s for s in donors.values() if s not in known}):
        raise ValueError(f"the foundation does not know {', '.join(wrong)}; it knows {' '.join(known)}")


def _description(
    potential: Potential, heads: Mapping[str, Mapping[int, float]], elements: Sequence[int] | None
) -> dict[str, Any]:
    """The potential's architecture with other heads and, where given, fewer elements."""
    if len(potential.heads) != 1:
        raise ValueError(f"the foundation has heads {potential.heads}: choose one of them first")
    if unknown := [chemical_symbols[z] for z in elements or () if z not in potential.elements]:
        raise ValueError(f"the foundation does not know {', '.join(unknown)}")
    table = [z for z in potential.elements if elements is None or z in elements]
    for head, energies in heads.items():
        if missing := [chemical_symbols[z] for z in table if z not in energies]:
            raise ValueError(f"head {head!r} has no E0 for {', '.join(missing)}")
    description = architecture(potential.network)
    scale, shift = (np.ravel(description[k])[0] for k in ("atomic_inter_scale", "atomic_inter_shift"))
    return description | {
        "heads": list(heads),
        "num_elements": len(table),
        "atomic_numbers": table,
        "atomic_energies": np.array([[energies[z] for z in table] for energies in heads.values()]),
        "atomic_inter_scale": [scale] * len(heads),
        "atomic_inter_shift": [shift] * len(heads),
    }


def select_heads(network: Network, heads: Sequence[str]) -> Network:
    """The network with only `heads` left, in this order; each says exactly what it said before.

    Raises ValueError where there is no such head, or none is asked for.
    """
    before = list(network.heads)
    if unknown := [head for head in heads if head not in before]:
        raise ValueError(f"no head {', '.join(unknown)}: the network has {', '.join(before)}")
    if not heads:
        raise ValueError(f"no head to keep of {', '.join(before)}")
    if before == list(heads):
        return network
    kept = [before.index(head) for head in heads]
    description = architecture(network) | {"heads": list(heads)}
    for key in ("atomic_energies", "atomic_inter_scale", "atomic_inter_shift"):
        description[key] = np.asarray(description[key])[kept].tolist()
    selected = blank(description, next(network.parameters()).dtype)
    width = irreps_dim(description["MLP_irreps"])
    with torch.no_grad():
        old = network.state_dict()
        for name, tensor in selected.state_dict().items():
            if name != E0S and tensor.numel():
                tensor.copy_(_rows(name, old[name], len(before), kept, width).reshape(tensor.shape))
    return selected.eval()


def _rows(name: str, tensor: torch.Tensor, n_heads: int, kept: list[int], width: int) -> torch.Tensor:
    """What the heads `kept` have of a tensor that may hold a part for each of `n_heads`.

    A layer that comes after another of the readout is normalised by the width of all heads together.
    """
    if name.startswith("scale_shift."):
        return tensor[kept]
    if not name.startswith(("readouts.", "embedding_readout.")):
        return tensor
    layer, kind = name.split(".")[-2:]
    fewer = math.sqrt(len(kept) / n_heads)
    if kind == "weight":
        if layer == "linear":
            return tensor.view(-1, n_heads)[:, kept]
        if layer == "linear_1":
            return tensor.view(-1, n_heads, width)[:, kept]
        if layer == "linear_mid":
            return fewer * tensor.view(n_heads, width, n_heads, width)[kept][:, :, kept]
        return fewer * tensor.view(n_heads, width, n_heads)[kept][:, :, kept]
    return tensor.view(n_heads, -1)[kept]


def select_head(network: Network, head: str) -> Network:
    """The network with only `head` left (see `select_heads`)."""
    return select_heads(network, [head])
