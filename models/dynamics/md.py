"""Molecular dynamics of many replicas at once, with one batched force evaluation per step.

The replicas may differ in size and composition. Positions and velocities are float64; the network runs
in the floating-point type of the potential (float32 is meant).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from ase import Atoms, units
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from models import graphs
from models.dynamics import limits as failures
from models.dynamics.limits import Failure, Limits
from models.dynamics.neighbours import VerletList
from models.dynamics.trajectories import Trajectory
from models.graphs import Graph, Prediction
from models.potentials import Potential, compiled

SKIN = 0.6  # Å; a liquid at room temperature then needs a new list every 20 to 40 steps

Report = Callable[[int, int], None]
"""Called at every saved step with the step and the number of replicas still running."""


class _Integrator(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    time_step: PositiveFloat
    """fs"""


class VelocityVerlet(_Integrator):
    """Constant energy (NVE)."""

    kind: Literal["velocity_verlet"] = "velocity_verlet"

    def move(self, replica: "Replica") -> None:
        """The positions' part of a step: r += v Δt."""
        replica.positions += replica.velocities * (self.time_step * units.fs)


class Langevin(_Integrator):
    """Constant temperature, by the BAOAB splitting (Leimkuhler & Matthews, doi:10.1093/amrx/abs010)."""

    kind: Literal["langevin"] = "langevin"
    temperature: PositiveFloat
    """K"""
    friction: PositiveFloat
    """1/fs"""

    def move(self, replica: "Replica") -> None:
        """The positions' part of a step: half a drift, the exact Ornstein–Uhlenbeck kick, half a drift."""
        half = 0.5 * self.time_step * units.fs
        keep = np.exp(-self.friction * self.time_step)
        noise = replica.generator.standard_normal(replica.positions.shape)
        replica.positions += replica.velocities * half
        replica.velocities *= keep
        replica.velocities += (
            np.sqrt(1.0 - keep**2) * _thermal_speed(replica.masses, self.temperature) * noise
        )
        replica.positions += replica.velocities * half


Integrator = Annotated[Langevin | VelocityVerlet, Field(discriminator="kind")]


class Replica:
    """The state of one system on its way: `positions`, `velocities`, `forces` (N, 3) in ASE's units."""

    def __init__(self, atoms: Atoms, graph: Graph, cutoff: float, generator: np.random.Generator) -> None:
        self.graph = graph
        self.numbers = atoms.numbers.copy()
        self.masses = atoms.get_masses()[:, None]
        self.cell = np.asarray(atoms.cell.array)
        self.pbc = atoms.pbc.copy()
        self.positions = atoms.positions.copy()
        self.velocities = atoms.get_velocities().copy()
        self.generator = generator
        self.neighbours = VerletList(self.numbers, graph.cell.numpy(), self.pbc, cutoff, SKIN)
        self.energy = np.nan
        self.forces = np.zeros_like(self.positions)
        self.failure: Failure | None = None
        self.frames: list[tuple[float, np.ndarray, float, float, float]] = []

    def draw_velocities(self, temperature: float) -> None:
        """Take velocities from the Maxwell–Boltzmann distribution at `temperature`, K."""
        noise = self.generator.standard_normal(self.positions.shape)
        self.velocities = _thermal_speed(self.masses, temperature) * noise

    def remove_momentum(self) -> None:
        """Take away the velocity of the centre of mass."""
        self.velocities -= (self.masses * self.velocities).sum(axis=0) / self.masses.sum()

    @property
    def kinetic_energy(self) -> float:
        """eV"""
        return float(0.5 * (self.masses * self.velocities**2).sum())

    def current_graph(self) -> Graph:
        """The graph at the present positions; also remembers the contacts for `watch`."""
        pairs, shifts, self.distances, self.contacts = self.neighbours.within(self.positions)
        self.pairs = pairs
        return replace(
            self.graph,
            positions=torch.tensor(self.positions),
            edge_index=torch.as_tensor(pairs),
            unit_shifts=torch.as_tensor(shifts),
        )

    def take(self, prediction: Prediction) -> None:
        """Accept energy and forces at the present positions."""
        self.energy, self.forces = prediction.energy, prediction.forces

    def save(self, time_fs: float, temperature: float) -> None:
        """Keep the present state as a frame."""
        self.frames.append((time_fs, self.positions.copy(), self.energy, self.kinetic_energy, temperature))

    def trajectory(self) -> Trajectory:
        """The frames kept so far."""
        times, positions, potential, kinetic, temperature = zip(*self.frames, strict=True)
        return Trajectory(
            numbers=self.numbers,
            cell=self.cell,
            pbc=self.pbc,
            times_fs=np.array(times),
            positions=np.stack(positions),
            potential_energy=np.array(potential),
            kinetic_energy=np.array(kinetic),
            temperature=np.array(temperature),
            failure=self.failure,
        )


def run(
    potential: Potential,
    starts: Sequence[Atoms],
    integrator: Langevin | VelocityVerlet,
    *,
    steps: int,
    seed: int,
    save_every: int,
    velocities_from_temperature: float | None = None,
    stop_on: Limits | None = None,
    head: str | None = None,
    report: Report | None = None,
) -> list[Trajectory]:
    """Run every start for `steps` steps; one trajectory each, in the same order.

    `velocities_from_temperature` (K) draws the first velocities; without it those of the starts are
    used. The centre of mass is at rest at the start. Replica k draws from a generator of its own, seeded
    with (`seed`, k), so that it does not depend on the others, and the same call gives the same bits on
    one thread. A replica that passes a limit of `stop_on` (without it: whose energy or forces are not
    finite) stops there with its failure on record, and the others go on.

    Raises ValueError on an unknown element or on `steps` or `save_every` below one.
    """
    if steps < 1 or save_every < 1:
        raise ValueError(f"steps ({steps}) and save_every ({save_every}) must be at least 1")
    if stop_on is not None and stop_on.separation is not None and any(a.pbc.any() for a in starts):
        raise ValueError("limits.separation is for clusters: leave it out for periodic systems")
    replicas = [
        Replica(atoms, graph, potential.cutoff, np.random.default_rng([seed, k]))
        for k, (atoms, graph) in enumerate(zip(starts, graphs.graphs(starts, potential, head), strict=True))
    ]
    for replica in replicas:
        if velocities_from_temperature is not None:
            replica.draw_velocities(velocities_from_temperature)
        replica.remove_momentum()
    thermostatted = isinstance(integrator, Langevin)
    target = integrator.temperature if isinstance(integrator, Langevin) else velocities_from_temperature
    watches = {id(r): _Watch(stop_on, target, integrator.time_step) for r in replicas}

    half = 0.5 * integrator.time_step * units.fs
    potential = compiled(potential)
    running = list(replicas)
    _evaluate(potential, running)
    for step in range(steps + 1):
        if step:
            for replica in running:
                replica.velocities += half * replica.forces / replica.masses
                integrator.move(replica)
            _evaluate(potential, running)
            for replica in running:
                replica.velocities += half * replica.forces / replica.masses
        saved = step % save_every == 0
        time_fs = step * integrator.time_step
        for replica in running:
            temperature = _temperature(replica, thermostatted)
            replica.failure = watches[id(replica)].failure(replica, temperature, time_fs, saved)
            if step == 0 or (saved and replica.failure is None):
                replica.save(time_fs, temperature)
        running = [r for r in running if r.failure is None]
        if saved and report is not None:
            report(step, len(running))
        if not running:
            break
    return [replica.trajectory() for replica in replicas]


class _Watch:
    """The limits of one replica, and its running mean temperature."""

    def __init__(self, limits: Limits | None, target: float | None, time_step: float) -> None:
        self._limits = limits
        self._target = target
        self._mean = target if target is not None else 0.0
        self._weight = 1.0 if limits is None else min(1.0, time_step / limits.temperature_window)

    def failure(self, replica: Replica, temperature: float, time_fs: float, saved: bool) -> Failure | None:
        found = failures.not_finite(replica.energy, replica.forces, time_fs)
        limits = self._limits
        if found is not None or limits is None:
            return found
        found = failures.close_contact(
            replica.pairs, replica.distances, replica.contacts, replica.numbers, limits, time_fs
        ) or failures.large_force(replica.forces, replica.numbers, limits, time_fs)
        if found is None and self._target is not None:
            self._mean += self._weight * (temperature - self._mean)
            found = failures.overheated(self._mean, self._target, limits, time_fs)
        if found is None and saved:
            found = failures.evaporated(replica.positions, limits, time_fs)
        return found


def _evaluate(potential: Potential, replicas: Sequence[Replica]) -> None:
    predictions = graphs.predict(potential, [replica.current_graph() for replica in replicas])
    for replica, prediction in zip(replicas, predictions, strict=True):
        replica.take(prediction)


def _thermal_speed(masses: np.ndarray, temperature: float) -> np.ndarray:
    return np.sqrt(units.kB * temperature / masses)


def _temperature(replica: Replica, thermostatted: bool) -> float:
    # At constant energy the centre of mass stays at rest; a thermostat warms it like all the rest.
    freedoms = 3 * len(replica.masses) - (0 if thermostatted else 3)
    return 2.0 * replica.kinetic_energy / (max(freedoms, 1) * units.kB)
