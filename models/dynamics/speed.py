"""What one step of molecular dynamics costs, measured fairly for two potentials."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ase import Atoms

from models.dynamics.md import VelocityVerlet, run
from models.potentials import Potential
from models.tracing import CALLS, traced

_WARM_UP = CALLS + 10  # steps; after them the operations are written down


@dataclass(frozen=True, kw_only=True)
class SpeedComparison:
    """Seconds per step of all replicas together with potentials a and b.

    `n_atoms` of all `n_replicas` together. `ratio` is the median over the rounds of a's time over b's
    in the same round: above one, b is the faster. `rounds` are the pairs of seconds per step, in the
    order measured.
    """

    n_replicas: int
    n_atoms: int
    steps: int
    seconds_per_step_a: float
    seconds_per_step_b: float
    ratio: float
    rounds: Sequence[tuple[float, float]]


def seconds_per_step(potential: Potential, starts: Sequence[Atoms], steps: int) -> float:
    """Wall time of one step of all replicas at constant energy from 300 K, s."""
    began = time.perf_counter()
    run(
        potential,
        starts,
        VelocityVerlet(time_step=0.5),
        steps=steps,
        seed=0,
        save_every=steps,
        velocities_from_temperature=300.0,
    )
    return (time.perf_counter() - began) / (steps + 1)


def compare_speed(
    a: Potential, b: Potential, starts: Sequence[Atoms], *, steps: int = 30, rounds: int = 7
) -> SpeedComparison:
    """Time `steps` steps from `starts` with a, b, a, b, …, so that a busy machine slows both alike."""
    a, b = traced(a), traced(b)
    for potential in (a, b):
        seconds_per_step(potential, starts, _WARM_UP)
    times = [(seconds_per_step(a, starts, steps), seconds_per_step(b, starts, steps)) for _ in range(rounds)]
    return SpeedComparison(
        n_replicas=len(starts),
        n_atoms=sum(map(len, starts)),
        steps=steps,
        seconds_per_step_a=median(t for t, _ in times),
        seconds_per_step_b=median(t for _, t in times),
        ratio=median(t_a / t_b for t_a, t_b in times),
        rounds=times,
    )
