from dataclasses import replace

import numpy as np
import pytest

from models.dynamics.limits import Failure, Reason
from models.dynamics.md import VelocityVerlet, run
from models.validation.conservation import conservation, drift


@pytest.fixture
def trajectory(tiny_potential, salt_water):
    return run(
        tiny_potential,
        [salt_water],
        VelocityVerlet(time_step=0.25),
        steps=20,
        seed=0,
        save_every=2,
        velocities_from_temperature=300.0,
    )[0]


def test_a_conservative_force_gives_second_order(tiny_potential, salt_water):
    found = conservation(
        tiny_potential, [salt_water] * 2, temperature=300.0, time_step=0.5, duration_fs=30.0, seed=0
    )
    assert found.order == pytest.approx(2.0, abs=0.15)
    assert found.short.time_step == 0.25
    assert found.long.time_step == 0.5
    assert found.short.duration_fs == found.long.duration_fs == 30.0
    assert found.short.fluctuation < found.long.fluctuation < 0.1


def test_a_force_that_is_no_gradient_is_found_out(trajectory):
    # A constant power of 1 meV/ps per atom put into the kinetic energy, as a wrong force would.
    n_atoms = len(trajectory.numbers)
    gained = 1e-3 * n_atoms * 1e-3 * trajectory.times_fs
    before = drift([trajectory], 0.25)
    after = drift([replace(trajectory, kinetic_energy=trajectory.kinetic_energy + gained)], 0.25)
    assert after.slopes[0] - before.slopes[0] == pytest.approx(1.0)
    assert after.fluctuation == pytest.approx(before.fluctuation)


def test_drift_is_the_mean_size_of_the_slopes(trajectory):
    time = 1e-3 * trajectory.times_fs
    n_atoms = len(trajectory.numbers)
    flat = np.zeros_like(time)
    up = replace(trajectory, potential_energy=flat + 2e-3 * n_atoms * time, kinetic_energy=flat)
    down = replace(trajectory, potential_energy=flat - 4e-3 * n_atoms * time, kinetic_energy=flat)
    found = drift([up, down], 0.25)
    assert found.slopes == pytest.approx([2.0, -4.0])
    assert found.drift == pytest.approx(3.0)
    assert found.fluctuation == pytest.approx(0.0, abs=1e-9)


def test_a_failed_replica_has_no_drift(trajectory):
    failure = Failure(reason=Reason.FORCE, time_fs=2.0, value=200.0, limit=100.0, detail="Na0")
    with pytest.raises(ValueError, match=r"replica 1 failed after 2\.0 fs: force too large"):
        drift([trajectory, replace(trajectory, failure=failure)], 0.25)


def test_two_frames_are_too_few(trajectory):
    short = replace(
        trajectory,
        times_fs=trajectory.times_fs[:2],
        potential_energy=trajectory.potential_energy[:2],
        kinetic_energy=trajectory.kinetic_energy[:2],
    )
    with pytest.raises(ValueError, match="a drift needs three"):
        drift([short], 0.25)
