"""Magnetic moments of a potential: prepare a network to learn them, and relax those of a structure.

Convention: collinear moments are signed along one axis, z; reversing all of them is the same state. What is
predicted of a moment is its magnitude; signs and directions are those that are given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from scipy.optimize import minimize

from models.graphs import graphs, moments, predict
from models.potentials import Network, Potential, building

_LEAST = 0.1  # of the largest element's moment: what the moments of elements that have none are measured in
_STEP = 0.1  # μB: what the search is scaled by, so that its first step does not leave the valley
_REACH = 1.5  # times what was trained on, beyond which a moment is not relaxed


def learn_moments(network: Network, frames: Sequence[Atoms], seed: int) -> None:
    """Give a MACE, in place, a part for moments that starts at the elements' mean magnitudes in `frames`.

    The energy stays as it is, as the new part's starts at zero, and all that is new can be trained. A network
    that has such a part keeps it. Raises ValueError on a network that is no MACE.
    """
    if hasattr(network, "magnetism"):
        return
    if not hasattr(network, "products"):
        raise ValueError(f"{type(network).__name__} cannot learn magnetic moments: only a MACE can")
    from models.magnetic_mace import give_moments

    found: dict[int, list[float]] = {int(z): [] for z in network.atomic_numbers}
    for atoms in frames:
        label, _ = moments(atoms)
        if label is not None:
            for z, magnitude in zip(atoms.numbers, np.linalg.norm(label, axis=1), strict=True):
                found[int(z)].append(float(magnitude))
    with torch.random.fork_rng(devices=[]), building(next(network.parameters()).dtype):
        torch.manual_seed(seed)
        give_moments(network)
    largest = {z: float(np.max(values, initial=0.0)) for z, values in found.items()}
    top = max(largest.values()) or 1.0
    network.magnetism.start_at(
        [float(np.mean(values)) if values else 0.0 for values in found.values()],
        [max(value, _LEAST * top) for value in largest.values()],
    )


@dataclass(frozen=True, kw_only=True)
class RelaxedMoments:
    """Where the moments of a structure ended.

    Attributes:
        atoms: the structure with them as ASE's initial moments, in the shape in which they were given.
        energy: eV.
        force: the largest component left of the magnetic forces that can still act, eV/μB.
        converged: whether it is below what was asked for, and no moment has run to the bound.
    """

    atoms: Atoms
    energy: float
    force: float
    converged: bool


def relax_moments(
    potential: Potential,
    atoms: Atoms,
    *,
    of: Literal["magnitudes", "vectors"] = "magnitudes",
    fmax: float = 1e-3,
    steps: int = 200,
) -> RelaxedMoments:
    """Relax the given moments of a structure at fixed positions, to the next minimum of the energy.

    `magnitudes` keeps directions and so the magnetic order; `vectors` lets moments turn. A moment of zero has
    no direction and stays, and from collinear moments none turns away: to see whether an order is stable,
    begin with one that is slightly tilted. Moments end at 1.5 times the largest of their element in training,
    beyond which nothing is known of the energy.

    Raises ValueError where the potential has no moments, or the structure.
    """
    if not potential.magnetic:
        raise ValueError("the potential has no magnetic moments: fine-tune it on labels with REF_magmoms")
    _, given = moments(atoms)
    lengths = np.linalg.norm(given, axis=1)
    if not lengths.any():
        raise ValueError("no moments to start from: set_initial_magnetic_moments, one for each atom")
    active = lengths > 0.0
    directions = given[active] / lengths[active, None]
    (item,) = graphs([atoms], potential)
    bound = _REACH * potential.network.magnetism.scale.double().cpu().numpy()[item.species][active]

    def vectors(x: np.ndarray) -> np.ndarray:
        full = np.zeros_like(given)
        full[active] = x[:, None] * directions if of == "magnitudes" else x.reshape(-1, 3)
        return full

    def value(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        x = _STEP * scaled
        (found,) = predict(potential, [replace(item, spins=torch.tensor(vectors(x)))])
        assert found.magnetic_forces is not None
        slope = -_STEP * found.magnetic_forces[active]
        return found.energy, (slope * directions).sum(axis=1) if of == "magnitudes" else slope.ravel()

    start = (lengths[active] if of == "magnitudes" else given[active].ravel()) / _STEP
    limits = np.repeat(bound, 1 if of == "magnitudes" else 3) / _STEP
    ends = list(zip(0.0 * limits if of == "magnitudes" else -limits, limits, strict=True))
    options = {"maxiter": steps, "gtol": fmax * _STEP, "ftol": 0.0}
    found = minimize(value, start, jac=True, method="L-BFGS-B", bounds=ends, options=options)
    energy, slope = value(found.x)
    at_bound = np.abs(found.x) >= limits * (1.0 - 1e-9)
    if of == "magnitudes":
        slope = np.where(found.x <= 0.0, np.minimum(slope, 0.0), slope)  # none is less than zero
    left = float(np.abs(slope).max()) / _STEP
    ended = vectors(_STEP * found.x)
    relaxed = atoms.copy()
    relaxed.arrays.pop("initial_magmoms", None)
    flat = not given[:, :2].any() and of == "magnitudes"
    relaxed.set_initial_magnetic_moments(ended[:, 2] if flat else ended)
    return RelaxedMoments(
        atoms=relaxed, energy=energy, force=left, converged=left <= fmax and not at_bound.any()
    )
