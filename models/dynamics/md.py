"""Molecular dynamics of many replicas at once, with one batched force evaluation per step.

The replicas may differ in size and composition. Positions and velocities are float64; the network runs
in the floating-point type of the potential (float32 is meant).
"""

from collections.abc import Callable, Sequence

from ase import Atoms, units

from models.dynamics.forces import Forces
from models.dynamics.integrators import Integrator, Isobaric, Langevin, VelocityVerlet
from models.dynamics.limits import Limits
from models.dynamics.replicas import Course, Watch, replicas
from models.dynamics.trajectories import Trajectory
from models.potentials import Potential

__all__ = ["Integrator", "Isobaric", "Langevin", "Report", "VelocityVerlet", "Watch", "run"]

Report = Callable[[int, int], None]
"""Called at every saved step with the step and the number of replicas still running."""


def run(
    potential: Potential,
    starts: Sequence[Atoms],
    integrator: VelocityVerlet | Langevin | Isobaric,
    *,
    steps: int,
    seed: int,
    save_every: int,
    velocities_from_temperature: float | None = None,
    stop_on: Limits | None = None,
    head: str | None = None,
    report: Report | None = None,
    watch: Watch | None = None,
) -> list[Trajectory]:
    """Run every start for `steps` steps; one trajectory each, in the same order.

    `velocities_from_temperature` (K) draws the first velocities; without it those of the starts are
    used. The centre of mass is at rest at the start. Replica k draws from a generator of its own, seeded
    with (`seed`, k), so that it does not depend on the others, and the same call gives the same bits on
    one thread. A replica that passes a limit of `stop_on` (without it: whose energy, forces or stress are
    not finite) stops there with its failure on record, and the others go on. A `watch` looks at those that
    are still sound, from the start on: it may stop them too, or push them. `ase_engine.run` does the same,
    without a watch, with ASE's integrators.

    Raises ValueError on an unknown element, on `steps` or `save_every` below one, and on a constant pressure
    where a start is not periodic in three directions.
    """
    course = Course(
        integrator=integrator,
        steps=steps,
        seed=seed,
        save_every=save_every,
        velocities_from_temperature=velocities_from_temperature,
        stop_on=stop_on,
    )
    everyone = replicas(potential, starts, course, head)
    half = 0.5 * integrator.time_step * units.fs
    forces = Forces(potential, stress=integrator.moves_cell)
    running = list(everyone)
    forces.update(running)
    for step in range(steps + 1):
        if step:
            for replica in running:
                replica.velocities += half * replica.forces / replica.masses
                integrator.move(replica, step / steps)
            forces.update(running)
            for replica in running:
                replica.velocities += half * replica.forces / replica.masses
        for replica in running:
            replica.observe(step)
        running = [r for r in running if r.failure is None]
        if watch is not None and step % watch.every == 0:
            watch.look(step, running)
            running = [r for r in running if r.failure is None]
        if report is not None and step % save_every == 0:
            report(step, len(running))
        if not running:
            break
    return [replica.trajectory() for replica in everyone]
