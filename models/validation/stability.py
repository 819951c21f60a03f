"""How well molecular dynamics with a potential survives."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.dynamics.limits import Failure
from models.dynamics.trajectories import Trajectory


@dataclass(frozen=True, kw_only=True)
class Stability:
    """What became of a set of replicas.

    `simulated_fs` is the time all replicas together have run; `mean_temperature` (K) is over all saved
    frames but the start. `failures` has an entry per replica, in order, None for one that finished.
    """

    n_replicas: int
    n_finished: int
    fraction_finished: float
    first_failure_fs: float | None
    simulated_fs: float
    mean_temperature: float | None
    reasons: dict[str, int]
    failures: Sequence[Failure | None]


def assess(trajectories: Sequence[Trajectory]) -> Stability:
    """Count who finished and why the others did not. Raises ValueError without trajectories."""
    if not trajectories:
        raise ValueError("no trajectories to assess")
    failures = [t.failure for t in trajectories]
    failed = [f for f in failures if f is not None]
    temperatures = np.concatenate([t.temperature[1:] for t in trajectories])
    ends = [t.times_fs[-1] if t.failure is None else t.failure.time_fs for t in trajectories]
    return Stability(
        n_replicas=len(trajectories),
        n_finished=len(trajectories) - len(failed),
        fraction_finished=1.0 - len(failed) / len(trajectories),
        first_failure_fs=min((f.time_fs for f in failed), default=None),
        simulated_fs=float(sum(ends)),
        mean_temperature=float(temperatures.mean()) if len(temperatures) else None,
        reasons=dict(sorted(Counter(str(f.reason) for f in failed).items())),
        failures=failures,
    )
