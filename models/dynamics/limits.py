"""When a replica of molecular dynamics has failed: the criteria, and the record of a failure."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from ase.data import chemical_symbols
from pydantic import BaseModel, ConfigDict, PositiveFloat
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform


class Reason(StrEnum):
    """Why a replica stopped."""

    NOT_FINITE = "energy or force is not finite"
    FORCE = "force too large"
    TEMPERATURE = "temperature too high"
    CONTACT = "atoms too close"
    VOLUME = "volume changed too much"
    EVAPORATED = "evaporated"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What stopped a replica, when (fs), and the `value` that passed its `limit`."""

    reason: Reason
    time_fs: float
    value: float
    limit: float
    detail: str


class Limits(BaseModel):
    """What molecular dynamics may not pass.

    `force`: largest |F| on an atom, eV/Å. `temperature_ratio`: running mean of T over the target of the
    moment. `temperature_window`: time constant of that mean, fs; it starts at 1. The instantaneous T
    of N atoms fluctuates by sqrt(2/3N) (37 % for five atoms), so that a small system passes any fixed
    ratio sooner or later; a mean over 100 fs, some tens of steps and several vibrations, passes three
    times the target only when energy is really gained. `contact`: shortest distance over the sum of the
    two covalent radii. `volume_change`: largest |V/V₀ - 1|. `separation`: where given, a cluster has
    evaporated once it falls into groups further apart than this, Å.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    force: PositiveFloat = 100.0
    temperature_ratio: PositiveFloat = 3.0
    temperature_window: PositiveFloat = 100.0
    contact: PositiveFloat = 0.5
    volume_change: PositiveFloat = 0.5
    separation: PositiveFloat | None = None


def not_finite(
    energy: float, forces: np.ndarray, stress: np.ndarray | None, time_fs: float
) -> Failure | None:
    """A failure where the energy, any force (N, 3) or the stress is NaN or infinite."""
    finite = np.isfinite(energy) and np.isfinite(forces).all()
    if finite and (stress is None or np.isfinite(stress).all()):
        return None
    # The value is left at 0: JSON has no NaN, and the reason already says what it was.
    return Failure(
        reason=Reason.NOT_FINITE,
        time_fs=time_fs,
        value=0.0,
        limit=0.0,
        detail="the potential has no value here",
    )


def large_force(forces: np.ndarray, numbers: np.ndarray, limits: Limits, time_fs: float) -> Failure | None:
    """A failure where a force (N, 3) is longer than `limits.force`, eV/Å."""
    lengths = np.linalg.norm(forces, axis=1)
    worst = int(lengths.argmax())
    if lengths[worst] <= limits.force:
        return None
    return Failure(
        reason=Reason.FORCE,
        time_fs=time_fs,
        value=float(lengths[worst]),
        limit=limits.force,
        detail=f"{_atom(numbers, worst)} feels {lengths[worst]:.0f} eV/Å",
    )


def close_contact(
    pairs: np.ndarray,
    distances: np.ndarray,
    radii: np.ndarray,
    numbers: np.ndarray,
    limits: Limits,
    time_fs: float,
) -> Failure | None:
    """A failure where two atoms come closer than `limits.contact` times their `radii` sum.

    `pairs` (2, E) are indices of atoms, `distances` (E,) and `radii` (E,) Å.
    """
    if not len(distances):
        return None
    ratios = distances / radii
    worst = int(ratios.argmin())
    if ratios[worst] >= limits.contact:
        return None
    i, j = pairs[:, worst]
    return Failure(
        reason=Reason.CONTACT,
        time_fs=time_fs,
        value=float(ratios[worst]),
        limit=limits.contact,
        detail=f"{_atom(numbers, i)} and {_atom(numbers, j)} at {distances[worst]:.2f} Å",
    )


def overheated(ratio: float, target: float, limits: Limits, time_fs: float) -> Failure | None:
    """A failure where the running mean of the temperature over its target, K, is too high."""
    if ratio <= limits.temperature_ratio:
        return None
    return Failure(
        reason=Reason.TEMPERATURE,
        time_fs=time_fs,
        value=ratio,
        limit=limits.temperature_ratio,
        detail=f"{ratio * target:.0f} K where {target:.0f} K was set",
    )


def volume_changed(volume: float, start: float, limits: Limits, time_fs: float) -> Failure | None:
    """A failure where a volume, Å³, is too far from that of the start."""
    change = volume / start - 1.0 if start > 0.0 else 0.0
    if abs(change) <= limits.volume_change:
        return None
    return Failure(
        reason=Reason.VOLUME,
        time_fs=time_fs,
        value=abs(change),
        limit=limits.volume_change,
        detail=f"from {start:.0f} to {volume:.0f} Å³",
    )


def evaporated(positions: np.ndarray, limits: Limits, time_fs: float) -> Failure | None:
    """A failure where a cluster (N, 3) falls into groups further apart than `limits.separation`."""
    if limits.separation is None or len(positions) < 2:
        return None
    distances = squareform(pdist(positions))
    groups, label = connected_components(distances <= limits.separation, directed=False)
    if groups == 1:
        return None
    largest = label == np.bincount(label).argmax()
    gap = float(distances[largest][:, ~largest].min())
    return Failure(
        reason=Reason.EVAPORATED,
        time_fs=time_fs,
        value=gap,
        limit=limits.separation,
        detail=f"{int((~largest).sum())} of {len(positions)} atoms left, {gap:.1f} Å away",
    )


def _atom(numbers: np.ndarray, index: int) -> str:
    return f"{chemical_symbols[numbers[index]]}{index}"
