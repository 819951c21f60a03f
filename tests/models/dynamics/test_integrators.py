from dataclasses import dataclass, field

import numpy as np
import pytest
from ase import units

from models.dynamics.integrators import LARGEST_STRAIN, Isobaric


@dataclass
class Gas:
    """Atoms that feel nothing, in a cubic cell."""

    positions: np.ndarray
    velocities: np.ndarray
    masses: np.ndarray
    cell: np.ndarray
    stress: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    @property
    def kinetic_energy(self) -> float:
        return float(0.5 * (self.masses * self.velocities**2).sum())


def gas(n_atoms: int) -> Gas:
    return Gas(
        positions=np.zeros((n_atoms, 3)),
        velocities=np.zeros((n_atoms, 3)),
        masses=np.full((n_atoms, 1), 40.0),
        cell=7.0 * np.eye(3),
    )


def test_an_ideal_gas_has_the_volumes_of_the_isobaric_ensemble():
    # p(V) ∝ V^N exp(-PV/kT): the mean is (N + 1) kT/P, the standard deviation its 1/sqrt(N + 1) part.
    n_atoms, temperature = 100, 300.0
    integrator = Isobaric(
        time_step=1.0,
        temperature=temperature,
        friction=0.1,
        pressure=1.0,
        barostat_time=50.0,
        compressibility=1.0,
    )
    system = gas(n_atoms)
    volumes = []
    for _ in range(20_000):
        integrator.move(system, 0.0)
        volumes.append(np.linalg.det(system.cell))
    expected = (n_atoms + 1) * units.kB * temperature / units.GPa
    settled = np.array(volumes[1000:])
    assert settled.mean() == pytest.approx(expected, rel=0.03)
    assert settled.std() == pytest.approx(expected / np.sqrt(n_atoms + 1), rel=0.2)


def test_positions_go_with_the_cell_and_velocities_against_it():
    system = gas(2)
    system.positions += [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    system.velocities += 0.01
    before = system.positions.copy()
    Isobaric(time_step=1.0, temperature=1e-6, friction=0.1, pressure=30.0).rescale(system, 1e-6)
    factor = system.cell[0, 0] / 7.0
    assert factor < 0.999
    np.testing.assert_allclose(system.positions, factor * before)
    np.testing.assert_allclose(system.velocities, 0.01 / factor)
    np.testing.assert_allclose(system.cell, 7.0 * factor * np.eye(3))


@pytest.mark.parametrize(("pull", "change"), [(1e9, -LARGEST_STRAIN), (-1e9, LARGEST_STRAIN)])
def test_a_senseless_stress_changes_the_volume_by_little_in_one_step(pull, change):
    # A positive stress is a tension, which pulls the cell together.
    system = gas(2)
    system.stress = pull * np.eye(3)
    Isobaric(time_step=1.0, temperature=300.0, friction=0.1).rescale(system, 300.0)
    assert np.log(np.linalg.det(system.cell) / 343.0) == pytest.approx(change)
