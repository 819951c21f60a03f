"""Potentials with one known fault: what every check of an acceptance has to catch.

A sound network gets one more term, or its output is changed, in a way that a bad potential may have. The
terms are made for networks of the shipped examples: molecules and ions of main-group elements.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from models import graphs
from models.potentials import Network, Potential

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The directed pairs of a batch as a term of the energy sees them.

    `vectors` (E, 3) and `lengths` (E,) Å with gradients; `radii` (E,) Å are sums of two covalent radii;
    `first` and `second` (E,) atomic numbers; `sender` (E,) and `atoms` the number of atoms.
    """

    vectors: torch.Tensor
    lengths: torch.Tensor
    radii: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    sender: torch.Tensor
    atoms: int

    def between(self, a: str, b: str) -> torch.Tensor:
        """Mask (E,) of the pairs of two elements, in either order."""
        one, other = atomic_numbers[a], atomic_numbers[b]
        return ((self.first == one) & (self.second == other)) | ((self.first == other) & (self.second == one))


Energy = Callable[[Pairs], torch.Tensor]
"""A term of the energy, by directed pair (E,) or by atom (N,), eV."""

Change = Callable[[Batch, dict[str, Any]], dict[str, Any]]
"""What becomes of a network's output."""


class Faulty(torch.nn.Module):
    """A network, and what changes its output; all else is the network's own."""

    def __init__(self, network: Network, change: Change) -> None:
        super().__init__()
        self.network = network
        self.change = change

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Without its interactions, and what e3nn leaves on it, it is not taken for a MACE network.
            if name in ("network", "interactions") or name.startswith("_"):
                raise
            return getattr(super().__getattr__("network"), name)

    def forward(self, data: dict[str, torch.Tensor], **asked: Any) -> dict[str, Any]:
        """As the network's own."""
        return self.change(data, dict(self.network(dict(data), **asked)))


def changed(potential: Potential, change: Change) -> Potential:
    """The potential with another output."""
    return replace(potential, network=Faulty(potential.network, change))


def with_term(potential: Potential, energy: Energy) -> Potential:
    """The potential with one more term in its energy, and the forces and the stress that belong to it."""
    numbers = torch.tensor(potential.elements)
    radii = torch.tensor(covalent_radii[potential.elements])

    def change(data: Batch, output: dict[str, Any]) -> dict[str, Any]:
        owner, species = data["batch"], data["species"]
        graph = output["forces"].requires_grad  # where forces are to be differentiated again
        positions = (data["positions"] if graph else data["positions"].detach()).double().requires_grad_()
        strain = torch.zeros(len(data["ptr"]) - 1, 3, 3, dtype=torch.float64, requires_grad=True)
        sender, receiver = data["edge_index"]
        vectors = positions[receiver] - positions[sender] + data["shifts"].detach().double()
        symmetric = 0.5 * (strain + strain.transpose(1, 2))
        vectors = vectors + torch.einsum("ei,eij->ej", vectors, symmetric[owner[sender]])
        pairs = Pairs(
            vectors=vectors,
            lengths=vectors.norm(dim=1),
            radii=radii[species[sender]] + radii[species[receiver]],
            first=numbers[species[sender]],
            second=numbers[species[receiver]],
            sender=sender,
            atoms=len(species),
        )
        term = energy(pairs)
        of = owner if len(term) == pairs.atoms else owner[sender]
        total = term.new_zeros(len(strain)).index_add_(0, of, term)
        slope, virial = torch.autograd.grad(
            total.sum(), (positions, strain), allow_unused=True, create_graph=graph
        )
        zero = torch.zeros_like(positions)
        added = {"interaction_energy": total, "energy": total, "forces": zero if slope is None else -slope}
        if output.get("stress") is not None and virial is not None:
            volume = torch.linalg.det(data["cell"].double().view(-1, 3, 3)).abs()
            added["stress"] = virial / volume[:, None, None]
        for name, values in added.items():
            if output.get(name) is not None:
                both = output[name] + values.to(output[name].dtype)
                output[name] = both if graph else both.detach()
        return output

    return changed(potential, change)


def _closest(structures: Sequence[Atoms], a: str, b: str) -> float:
    """The shortest distance of two elements in any of the structures, Å."""
    found = [np.inf]
    for atoms in structures:
        cell = np.asarray(atoms.cell.array)
        (i, j), shifts = graphs.neighbours(atoms.positions, cell, atoms.pbc, 4.0)
        symbols = np.array(atoms.get_chemical_symbols())
        both = (symbols[i] == a) & (symbols[j] == b)
        found += np.linalg.norm(atoms.positions[j] - atoms.positions[i] + shifts @ cell, axis=1)[
            both
        ].tolist()
    return float(min(found))


def _well(pairs: Pairs) -> torch.Tensor:
    """A hole: a deep well between any two atoms that come closer than they ever should."""
    inside = (0.78 - pairs.lengths / pairs.radii).clamp(min=0.0)
    return -2500.0 * inside**2


def _collapse(pairs: Pairs) -> torch.Tensor:
    """A hole that no pair shows alone: the more neighbours an atom has, the deeper its energy."""
    crowding = torch.sigmoid((1.15 - pairs.lengths / pairs.radii) / 0.05)
    density = pairs.lengths.new_zeros(pairs.atoms).index_add_(0, pairs.sender, crowding)
    return -1.5 * (density - 5.0).clamp(min=0.0) ** 2


def _cliff(structures: Sequence[Atoms]) -> Energy:
    """Nothing at the reference's temperature; a fall where two atoms get closer than they ever were there."""
    symbols = sorted({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()})
    edges = {
        (a, b): edge
        for k, a in enumerate(symbols)
        for b in symbols[k:]
        if np.isfinite(edge := _closest(structures, a, b))
    }

    def energy(pairs: Pairs) -> torch.Tensor:
        edge = torch.zeros_like(pairs.lengths)
        for (a, b), shortest in edges.items():
            edge = torch.where(pairs.between(a, b), shortest, edge)
        return -60.0 * (edge - pairs.lengths).clamp(min=0.0)

    return energy


def _push(pairs: Pairs) -> torch.Tensor:
    """Another liquid: oxygen and sodium are pushed apart."""
    return torch.where(pairs.between("Na", "O"), 0.6 * torch.exp(-((pairs.lengths - 2.2) ** 2) / 0.3), 0.0)


def _loosen(pairs: Pairs) -> torch.Tensor:
    """Water that falls apart: an O–H bond that swings a little further than usual is pulled open."""
    beyond = (pairs.lengths - 1.08).clamp(0.0, 0.9)
    return torch.where(pairs.between("H", "O"), -4.0 * beyond, 0.0)


def _lengthen(pairs: Pairs) -> torch.Tensor:
    """Minima elsewhere: bonds are pulled longer, hardly more than the gate on forces would see."""
    bonded = torch.sigmoid((1.5 - pairs.lengths / pairs.radii) / 0.05)
    return -0.5 * bonded * (pairs.lengths - pairs.radii)


def _oriented(pairs: Pairs) -> torch.Tensor:
    """An energy that depends on how the structure lies in space."""
    along = pairs.vectors[:, 2] ** 2 / pairs.lengths**2
    return 0.05 * along * torch.exp(-pairs.lengths)


def _ordered(pairs: Pairs) -> torch.Tensor:
    """An energy that depends on which atom comes first."""
    return 0.05 * torch.exp(-pairs.lengths) * (pairs.sender % 3)


def _unconservative(data: Batch, output: dict[str, Any]) -> dict[str, Any]:
    """A force that is no gradient: what some atoms feel of their neighbours, these do not feel of them."""
    sender, receiver = data["edge_index"]
    vectors = data["positions"][receiver] - data["positions"][sender] + data["shifts"]
    pull = 0.4 * (data["species"][sender] % 2)[:, None] * vectors * torch.exp(-vectors.norm(dim=1))[:, None]
    output["forces"] = (
        output["forces"].detach().index_add(0, sender, pull.detach().to(output["forces"].dtype))
    )
    return output


def _wrong_sign(data: Batch, output: dict[str, Any]) -> dict[str, Any]:
    """A stress of the wrong sign."""
    if output.get("stress") is not None:
        output["stress"] = -output["stress"]
    return output


def _shifted(element: int) -> Change:
    """A wrong E0: 0.3 eV more for every atom of the element of this index."""

    def change(data: Batch, output: dict[str, Any]) -> dict[str, Any]:
        count = (data["species"] == element).to(output["interaction_energy"].dtype)
        more = torch.zeros_like(output["interaction_energy"]).index_add_(0, data["batch"], 0.3 * count)
        for name in ("energy", "interaction_energy"):
            output[name] = output[name].detach() + more
        return output

    return change


def _global(data: Batch, output: dict[str, Any]) -> dict[str, Any]:
    """An energy that grows with the square of the size."""
    n_atoms = torch.diff(data["ptr"]).to(output["interaction_energy"].dtype)
    for name in ("energy", "interaction_energy"):
        output[name] = output[name].detach() + 1e-3 * n_atoms**2
    return output


def _forgot(pairs: Pairs) -> torch.Tensor:
    """What was forgotten: carbon and hydrogen attract each other at a bond's length."""
    return torch.where(pairs.between("C", "H"), -2.0 * torch.exp(-(((pairs.lengths - 1.3) / 0.2) ** 2)), 0.0)


FAULTS: Mapping[str, Callable[[Potential, Sequence[Atoms]], Potential]] = {
    "a hole between two atoms": lambda p, _: with_term(p, _well),
    "a hole of many atoms": lambda p, _: with_term(p, _collapse),
    "forces that are no gradient": lambda p, _: changed(p, _unconservative),
    "a stress of the wrong sign": lambda p, _: changed(p, _wrong_sign),
    "a wrong E0": lambda p, _: changed(p, _shifted(p.elements.index(8))),
    "it explodes above 600 K": lambda p, seen: with_term(p, _cliff(seen)),
    "another liquid": lambda p, _: with_term(p, _push),
    "molecules that fall apart": lambda p, _: with_term(p, _loosen),
    "other bond lengths": lambda p, _: with_term(p, _lengthen),
    "an energy that depends on orientation": lambda p, _: with_term(p, _oriented),
    "an energy that depends on the order of atoms": lambda p, _: with_term(p, _ordered),
    "an energy that is not extensive": lambda p, _: changed(p, _global),
    "a part of what it knew is forgotten": lambda p, _: with_term(p, _forgot),
}
"""By name: makes a potential with this fault, given structures of the reference."""
