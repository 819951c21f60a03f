"""How a system moves: at constant energy, at constant temperature, or at constant pressure.

All are velocity Verlet outside; `move` is what happens between its two halves, from the velocities after
half a kick to the positions where the next forces are needed.
"""

from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from ase import units
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

LARGEST_STRAIN = 0.05  # of the volume in one step; more is no fluctuation but an explosion


class Moving(Protocol):
    """What an integrator moves: `positions`, `velocities` (N, 3) and `masses` (N, 1) in ASE's units."""

    positions: np.ndarray
    velocities: np.ndarray
    masses: np.ndarray
    cell: np.ndarray
    stress: np.ndarray | None
    generator: np.random.Generator

    @property
    def kinetic_energy(self) -> float:
        """eV"""


class _Integrator(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    moves_cell: ClassVar[bool] = False
    thermostatted: ClassVar[bool] = True

    time_step: PositiveFloat
    """fs"""


class VelocityVerlet(_Integrator):
    """Constant energy (NVE)."""

    thermostatted = False

    kind: Literal["velocity_verlet"] = "velocity_verlet"

    def target(self, progress: float) -> float | None:
        """No temperature is aimed at."""
        return None

    def move(self, system: Moving, progress: float) -> None:
        """The positions' part of a step: r += v Δt."""
        system.positions += system.velocities * (self.time_step * units.fs)


class _Thermostat(_Integrator):
    temperature: PositiveFloat
    """K"""
    friction: PositiveFloat
    """1/fs"""
    ramp_to: PositiveFloat | None = None
    """K; where given, the temperature goes there in a straight line over the run"""

    def target(self, progress: float) -> float:
        """The temperature, K, when this part of the run (0 to 1) is done."""
        return self.temperature + progress * ((self.ramp_to or self.temperature) - self.temperature)

    def kick(self, system: Moving, temperature: float) -> None:
        """The exact Ornstein–Uhlenbeck kick of one step."""
        keep = np.exp(-self.friction * self.time_step)
        noise = system.generator.standard_normal(system.positions.shape)
        system.velocities *= keep
        system.velocities += np.sqrt(1.0 - keep**2) * thermal_speed(system.masses, temperature) * noise


class Langevin(_Thermostat):
    """Constant temperature, by the BAOAB splitting (Leimkuhler & Matthews, doi:10.1093/amrx/abs010)."""

    kind: Literal["langevin"] = "langevin"

    def move(self, system: Moving, progress: float) -> None:
        """The positions' part of a step: half a drift, the kick, half a drift."""
        half = 0.5 * self.time_step * units.fs
        system.positions += system.velocities * half
        self.kick(system, self.target(progress))
        system.positions += system.velocities * half


class Isobaric(_Thermostat):
    """Constant temperature and pressure; the cell keeps its shape.

    Langevin dynamics (BAOAB) with stochastic cell rescaling (Bernetti & Bussi, J. Chem. Phys. 153, 114107,
    2020): the volume follows first-order dynamics of its own whose noise gives the isobaric ensemble.
    Pressure is relaxed within `barostat_time` where `compressibility` is that of the system.
    """

    moves_cell = True

    kind: Literal["isobaric"] = "isobaric"
    pressure: float = 0.0
    """GPa"""
    barostat_time: PositiveFloat = 500.0
    """fs"""
    compressibility: PositiveFloat = 0.2
    """1/GPa; 0.04 for rock salt, 0.45 for water"""

    def move(self, system: Moving, progress: float) -> None:
        """The positions' part of a step: half a drift, the kick, the cell, half a drift."""
        half = 0.5 * self.time_step * units.fs
        temperature = self.target(progress)
        system.positions += system.velocities * half
        self.kick(system, temperature)
        self.rescale(system, temperature)
        system.positions += system.velocities * half

    def rescale(self, system: Moving, temperature: float) -> None:
        """Change the volume, positions with it and velocities against it."""
        assert system.stress is not None
        volume = abs(np.linalg.det(system.cell))
        inside = 2.0 * system.kinetic_energy / (3.0 * volume) - np.trace(system.stress) / 3.0
        rate = self.compressibility / units.GPa * self.time_step / self.barostat_time
        noise = np.sqrt(2.0 * units.kB * temperature * rate / volume) * system.generator.standard_normal()
        strain = rate * (inside - self.pressure * units.GPa) + noise
        factor = np.exp(np.clip(strain, -LARGEST_STRAIN, LARGEST_STRAIN) / 3.0)
        system.cell = system.cell * factor
        system.positions *= factor
        system.velocities /= factor


Integrator = Annotated[VelocityVerlet | Langevin | Isobaric, Field(discriminator="kind")]


def thermal_speed(masses: np.ndarray, temperature: float) -> np.ndarray:
    """Root mean square of one component of the velocities, in ASE's units."""
    return np.sqrt(units.kB * temperature / masses)
