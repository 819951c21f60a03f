"""The dynamics of `md.run` with ASE's integrators, one start after another: the reference for `md`."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet as AseVelocityVerlet

from models.calculator import PotentialCalculator
from models.dynamics.integrators import Isobaric, Langevin, VelocityVerlet
from models.dynamics.limits import Limits
from models.dynamics.md import Report
from models.dynamics.replicas import Course, Replica, Watch, replicas
from models.dynamics.trajectories import Trajectory
from models.graphs import Prediction
from models.potentials import Potential


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
    calculator: Calculator | None = None,
) -> list[Trajectory]:
    """As `md.run`: the same starts and first velocities, limits, frames and failures.

    At constant pressure the cell has a mass (Langevin–Hoover) and oscillates with a period of
    `barostat_time`. Energies and forces are those of `calculator`; without one, of `potential` itself. Raises
    ValueError on a watch, which looks at all replicas at once.
    """
    if watch is not None:
        raise ValueError("the reference engine moves one replica after another: use md.run with a watch")
    course = Course(
        integrator=integrator,
        steps=steps,
        seed=seed,
        save_every=save_every,
        velocities_from_temperature=velocities_from_temperature,
        stop_on=stop_on,
    )
    everyone = replicas(potential, starts, course, head)
    calculator = calculator or PotentialCalculator(potential, head)
    for k, replica in enumerate(everyone):
        atoms = replica.snapshot()
        atoms.set_masses(replica.masses[:, 0])
        atoms.set_velocities(replica.velocities)
        atoms.calc = calculator
        dynamics = _dynamics(atoms, integrator, replica)
        for step, _ in enumerate(dynamics.irun(steps)):
            _follow(replica, atoms, integrator.moves_cell)
            replica.observe(step)
            if report is not None and step % save_every == 0:
                report(step, len(everyone) - k)
            if replica.failure is not None:
                break
            if isinstance(dynamics, LangevinBAOAB):
                dynamics.set_temperature(course.target(min(step + 1, steps)))
    return [replica.trajectory() for replica in everyone]


def _dynamics(
    atoms: Atoms, integrator: VelocityVerlet | Langevin | Isobaric, replica: Replica
) -> MolecularDynamics:
    step = integrator.time_step * units.fs
    if isinstance(integrator, VelocityVerlet):
        return AseVelocityVerlet(atoms, timestep=step)
    settings = {
        "temperature_K": integrator.temperature,
        "T_tau": units.fs / integrator.friction,
        "rng": replica.generator,
    }
    if isinstance(integrator, Isobaric):
        period = integrator.barostat_time * units.fs
        modulus = units.GPa / integrator.compressibility
        settings |= {
            "externalstress": -integrator.pressure * units.GPa,
            "hydrostatic": True,
            "P_tau": period,
            "P_mass": 9.0 * replica.volume * modulus * (period / (2.0 * np.pi)) ** 2,
        }
    return LangevinBAOAB(atoms, timestep=step, **settings)


def _follow(replica: Replica, atoms: Atoms, stress: bool) -> None:
    """Take over what ASE has done."""
    replica.positions, replica.velocities = atoms.positions.copy(), atoms.get_velocities()
    replica.cell = np.array(atoms.cell.array)
    replica.current_graph()
    replica.take(
        Prediction(
            energy=atoms.get_potential_energy(),
            forces=atoms.get_forces(),
            stress=atoms.get_stress(voigt=False) if stress else None,
        )
    )
