"""Conservation of energy at constant energy (NVE): drift, and how the error falls with the time step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from ase import Atoms
from pydantic import Field

from models.dynamics.md import VelocityVerlet, run
from models.dynamics.trajectories import Trajectory
from models.potentials import Potential
from models.validation.base import Check, Figure, Finding, Quantity, Role, Subject, Table, figure


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


class EnergyConservation(Check):
    """Drift of the total energy at constant energy (NVE), at two time steps."""

    title: ClassVar = "Conservation of energy"
    explanation: ClassVar = (
        "Dynamics at constant energy, with a time step and with half of it. A force that is the gradient "
        "of an energy keeps the total energy, and its fluctuation falls with the square of the time step; "
        "a drift that stays shows a force that is none."
    )
    needs: ClassVar[tuple[Role, ...]] = ("test",)
    uses: ClassVar[tuple[Role, ...]] = ("reference",)
    quantities: ClassVar = {
        "drift": Quantity(
            words="energy drift at constant energy", unit="meV/atom/ps", better="lower", paired=True
        ),
        "order": Quantity(words="power of the time step in the fluctuation", unit="", better="higher"),
    }

    kind: Literal["conservation"] = "conservation"
    temperature: float = Field(330.0, gt=0, description="K, of the first velocities")
    time_step: float = Field(0.5, gt=0, description="fs; a second run takes half of it")
    duration: float = Field(250.0, gt=0, description="fs")
    replicas: int = Field(2, ge=1)
    seed: int = 0

    def measure(self, subject: Subject) -> Finding:
        """The drift is that of the shorter time step."""
        try:
            found = conservation(
                subject.fast,
                subject.starts(self.replicas),
                temperature=self.temperature,
                time_step=self.time_step,
                duration_fs=self.duration,
                seed=self.seed,
            )
        except ValueError as failure:
            return self.unmeasured(f"No drift could be measured: {failure}.")
        samples = {f"replica {k}": (abs(slope), 1.0) for k, slope in enumerate(found.short.slopes)}
        return Finding(
            figures={
                "drift": figure(samples),
                "order": Figure(value=found.order),
            },
            tables=[
                Table(
                    title="Time steps",
                    columns=["time step, fs", "drift, meV/atom/ps", "fluctuation, meV/atom"],
                    rows=[[d.time_step, d.drift, d.fluctuation] for d in (found.short, found.long)],
                )
            ],
            notes=[f"{self.replicas} replicas of {self.duration:g} fs from {self.temperature:g} K."],
        )
