"""One system on its way through molecular dynamics: its state, its frames, and what stopped it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from ase import Atoms, units

from models import graphs
from models.dynamics import limits as failures
from models.dynamics.integrators import Isobaric, Langevin, VelocityVerlet, thermal_speed
from models.dynamics.limits import Failure, Limits
from models.dynamics.neighbours import Neighbours, VerletList
from models.dynamics.trajectories import Trajectory
from models.graphs import Graph, Prediction
from models.potentials import Potential

SKIN = 0.6  # Å; a liquid at room temperature then needs a new list every 20 to 40 steps


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is to be done with every replica of a run; see `md.run`."""

    integrator: VelocityVerlet | Langevin | Isobaric
    steps: int
    seed: int
    save_every: int
    velocities_from_temperature: float | None
    stop_on: Limits | None

    def target(self, step: int) -> float | None:
        """The temperature aimed at, K; at constant energy that of the first velocities."""
        return self.integrator.target(step / self.steps) or self.velocities_from_temperature


class Replica:
    """The state of one system: `positions`, `velocities`, `forces` (N, 3), `cell` (3, 3) in ASE's units.

    `stress` (3, 3) is there where the cell moves. `number` is its place among the starts. `bias` (N, 3),
    eV/Å, is what a `Watch` adds to the forces from the next step on.
    """

    def __init__(
        self,
        number: int,
        atoms: Atoms,
        graph: Graph,
        cutoff: float,
        margin: float,
        generator: np.random.Generator,
        course: Course,
    ) -> None:
        self.number = number
        self.graph = graph
        self.numbers = atoms.numbers.copy()
        self.masses = atoms.get_masses()[:, None]
        self.cell = np.array(atoms.cell.array)
        self.pbc = atoms.pbc.copy()
        self.positions = atoms.positions.copy()
        self.velocities = atoms.get_velocities().copy()
        self.generator = generator
        self.neighbours = VerletList(self.numbers, self.pbc, cutoff, SKIN, margin)
        self.energy = np.nan
        self.forces = np.zeros_like(self.positions)
        self.stress: np.ndarray | None = None
        self.bias: np.ndarray | None = None
        self.failure: Failure | None = None
        self._course = course
        self._heat = 1.0
        self._volume = self.volume
        self._box = graph.cell.numpy()  # with normals where it is not periodic
        self._frames: list[tuple[float, np.ndarray, np.ndarray, float, float, float]] = []
        if course.velocities_from_temperature is not None:
            noise = generator.standard_normal(self.positions.shape)
            self.velocities = thermal_speed(self.masses, course.velocities_from_temperature) * noise
        self.velocities -= (self.masses * self.velocities).sum(axis=0) / self.masses.sum()

    @property
    def kinetic_energy(self) -> float:
        """eV"""
        return float(0.5 * (self.masses * self.velocities**2).sum())

    @property
    def temperature(self) -> float:
        """K"""
        # At constant energy the centre of mass stays at rest; a thermostat warms it like all the rest.
        freedoms = 3 * len(self.masses) - (0 if self._course.integrator.thermostatted else 3)
        return 2.0 * self.kinetic_energy / (max(freedoms, 1) * units.kB)

    @property
    def volume(self) -> float:
        """Å³; of a system that is not periodic whatever its cell says."""
        return abs(float(np.linalg.det(self.cell)))

    def near(self) -> Neighbours:
        """The neighbours at the present positions; the very same object while nothing of it has changed."""
        self._near = self.neighbours.within(self.positions, self._cell)
        return self._near

    @property
    def _cell(self) -> np.ndarray:
        return self.cell if self._course.integrator.moves_cell else self._box

    def current_graph(self) -> Graph:
        """The graph at the present positions."""
        near = self.near()
        return replace(
            self.graph,
            positions=torch.tensor(self.positions),
            edge_index=torch.as_tensor(near.pairs),
            unit_shifts=torch.as_tensor(near.shifts),
            cell=torch.as_tensor(self._cell),
        )

    def take(self, prediction: Prediction) -> None:
        """Accept energy, forces and stress at the present positions."""
        self.energy, self.forces, self.stress = prediction.energy, prediction.forces, prediction.stress
        if self.bias is not None:
            self.forces = self.forces + self.bias

    def snapshot(self) -> Atoms:
        """The present positions, cell and velocities, and the moments, which stay as they were."""
        atoms = Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc)
        atoms.set_velocities(self.velocities)
        if bool(self.graph.spins.any()):
            atoms.set_initial_magnetic_moments(self.graph.spins.numpy())
        return atoms

    def observe(self, step: int) -> None:
        """After a step: see whether a limit is passed, and keep a frame where one is due."""
        saved = step % self._course.save_every == 0
        time_fs = step * self._course.integrator.time_step
        self.failure = self._failed(step, time_fs, saved)
        if step == 0 or (saved and self.failure is None):
            self._frames.append(
                (
                    time_fs,
                    self.positions.copy(),
                    self.cell.copy(),
                    self.energy,
                    self.kinetic_energy,
                    self.temperature,
                )
            )

    def _failed(self, step: int, time_fs: float, saved: bool) -> Failure | None:
        found = failures.not_finite(self.energy, self.forces, self.stress, time_fs)
        limits = self._course.stop_on
        if found is not None or limits is None:
            return found
        found = (
            failures.close_contact(
                self._near.pairs,
                self._near.distances(self.positions, self._cell),
                self._near.contacts,
                self.numbers,
                limits,
                time_fs,
            )
            or failures.large_force(self.forces, self.numbers, limits, time_fs)
            or failures.volume_changed(self.volume, self._volume, limits, time_fs)
        )
        target = self._course.target(step)
        if found is None and target is not None:
            weight = min(1.0, self._course.integrator.time_step / limits.temperature_window)
            self._heat += weight * (self.temperature / target - self._heat)
            found = failures.overheated(self._heat, target, limits, time_fs)
        if found is None and saved:
            found = failures.evaporated(self.positions, limits, time_fs)
        return found

    def trajectory(self) -> Trajectory:
        """The frames kept so far."""
        times, positions, cells, potential, kinetic, temperature = zip(*self._frames, strict=True)
        return Trajectory(
            numbers=self.numbers,
            cell=np.stack(cells),
            pbc=self.pbc,
            times_fs=np.array(times),
            positions=np.stack(positions),
            potential_energy=np.array(potential),
            kinetic_energy=np.array(kinetic),
            temperature=np.array(temperature),
            failure=self.failure,
        )


class Watch(Protocol):
    """What looks at the replicas of a run every few steps, and may act on them."""

    @property
    def every(self) -> int:
        """steps"""

    def look(self, step: int, running: Sequence[Replica]) -> None:
        """See the replicas that no limit has stopped; may set the `failure` of one, or its `bias`."""


def replicas(
    potential: Potential, starts: Sequence[Atoms], course: Course, head: str | None
) -> list[Replica]:
    """One replica of every start, its first velocities drawn; raises ValueError as `md.run` says."""
    if course.steps < 1 or course.save_every < 1:
        raise ValueError(f"steps ({course.steps}) and save_every ({course.save_every}) must be at least 1")
    limits = course.stop_on
    if limits is not None and limits.separation is not None and any(a.pbc.any() for a in starts):
        raise ValueError("limits.separation is for clusters: leave it out for periodic systems")
    if course.integrator.moves_cell and not all(a.pbc.all() for a in starts):
        raise ValueError("constant pressure needs structures that are periodic in three directions")
    margin = getattr(potential.network, "margin", 0.0)
    return [
        Replica(k, atoms, graph, potential.cutoff, margin, np.random.default_rng([course.seed, k]), course)
        for k, (atoms, graph) in enumerate(zip(starts, graphs.graphs(starts, potential, head), strict=True))
    ]
