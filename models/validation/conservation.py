"""Conservation of energy at constant energy (NVE): drift, and how the error falls with the time step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from models.dynamics.md import VelocityVerlet, run
from models.dynamics.trajectories import Trajectory
from models.potentials import Potential


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Total energy over runs at one time step.

    `drift` is the mean over replicas of |slope| of a straight line through the total energy,
    meV/atom/ps, and `slopes` are the signed ones; `fluctuation` the root mean square about the line,
    meV/atom.
    """

    time_step: float
    duration_fs: float
    n_replicas: int
    drift: float
    slopes: Sequence[float]
    fluctuation: float


@dataclass(frozen=True, kw_only=True)
class Conservation:
    """Drift at two time steps, the shorter first.

    `order` is the power of the time step by which the fluctuation of the total energy grows. Velocity
    Verlet on a conservative, smooth force gives 2; a force that is no gradient, or a precision too low
    for the step, gives less.
    """

    short: Drift
    long: Drift
    order: float


def drift(trajectories: Sequence[Trajectory], time_step: float) -> Drift:
    """The drift of constant-energy trajectories that were made with `time_step`, fs.

    Raises ValueError on a failed replica (name and reason) or fewer than three frames.
    """
    if not trajectories:
        raise ValueError("no trajectories to take a drift from")
    slopes, residuals = [], []
    for k, trajectory in enumerate(trajectories):
        if trajectory.failure is not None:
            raise ValueError(
                f"replica {k} failed after {trajectory.failure.time_fs} fs: {trajectory.failure.reason}"
            )
        if len(trajectory.times_fs) < 3:
            raise ValueError(f"replica {k} has {len(trajectory.times_fs)} frames; a drift needs three")
        total = trajectory.potential_energy + trajectory.kinetic_energy
        per_atom = 1e3 * (total - total[0]) / len(trajectory.numbers)
        line = np.polyfit(1e-3 * trajectory.times_fs, per_atom, 1)
        slopes.append(float(line[0]))
        residuals.append(per_atom - np.polyval(line, 1e-3 * trajectory.times_fs))
    return Drift(
        time_step=time_step,
        duration_fs=float(trajectories[0].times_fs[-1]),
        n_replicas=len(trajectories),
        drift=float(np.mean(np.abs(slopes))),
        slopes=slopes,
        fluctuation=float(np.sqrt(np.mean(np.concatenate(residuals) ** 2))),
    )


def conservation(
    potential: Potential,
    starts: Sequence[Atoms],
    *,
    temperature: float,
    time_step: float,
    duration_fs: float,
    seed: int,
    samples: int = 100,
) -> Conservation:
    """Run every start at constant energy for `duration_fs` with `time_step` and with half of it.

    The same velocities, drawn at `temperature` (K), and the same times of sampling in both. Raises
    ValueError where a replica fails.
    """
    steps = round(duration_fs / time_step)
    every = max(1, steps // samples)
    drifts = [
        drift(
            run(
                potential,
                starts,
                VelocityVerlet(time_step=time_step / finer),
                steps=steps * finer,
                seed=seed,
                save_every=every * finer,
                velocities_from_temperature=temperature,
            ),
            time_step / finer,
        )
        for finer in (2, 1)
    ]
    short, long = drifts
    return Conservation(short=short, long=long, order=float(np.log2(long.fluctuation / short.fluctuation)))
