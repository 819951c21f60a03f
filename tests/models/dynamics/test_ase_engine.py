import numpy as np
import pytest

from models.dynamics import ase_engine, md
from models.dynamics.limits import Limits, Reason
from models.dynamics.md import Isobaric, Langevin, VelocityVerlet
from models.graphs import graphs, predict
from models.potentials import export_mace


def agree(ours, theirs, tolerance: float) -> None:
    """The same trajectories, step for step."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.failure == other.failure
        assert np.ptp(one.positions, axis=0).max() > 1e3 * tolerance
        np.testing.assert_array_equal(one.times_fs, other.times_fs)
        np.testing.assert_allclose(one.positions, other.positions, atol=tolerance)
        np.testing.assert_allclose(one.potential_energy, other.potential_energy, atol=tolerance)
        np.testing.assert_allclose(one.kinetic_energy, other.kinetic_energy, atol=tolerance)
        np.testing.assert_allclose(one.temperature, other.temperature, rtol=1e-6)


@pytest.mark.parametrize(
    "integrator",
    [VelocityVerlet(time_step=1.0), Langevin(time_step=1.0, temperature=100.0, friction=0.05, ramp_to=500.0)],
)
def test_batched_and_ase_go_the_same_way(tiny_potential, salt_water, salt_crystal, integrator):
    settings = {"steps": 20, "seed": 4, "save_every": 5, "velocities_from_temperature": 300.0}
    starts = [salt_water, salt_crystal[:24]]
    ours = md.run(tiny_potential, starts, integrator, **settings)
    agree(ours, ase_engine.run(tiny_potential, starts, integrator, **settings), 1e-9)


def test_maces_own_calculator_goes_the_same_way(tiny_potential, salt_water, salt_crystal, tmp_path):
    from mace.calculators import MACECalculator

    export_mace(tiny_potential, tmp_path / "tiny.model")
    calculator = MACECalculator(str(tmp_path / "tiny.model"), device="cpu", default_dtype="float64")
    settings = {"steps": 20, "seed": 4, "save_every": 5, "velocities_from_temperature": 300.0}
    starts = [salt_water, salt_crystal[:24]]
    ours = md.run(tiny_potential, starts, VelocityVerlet(time_step=1.0), **settings)
    theirs = ase_engine.run(
        tiny_potential, starts, VelocityVerlet(time_step=1.0), calculator=calculator, **settings
    )
    agree(ours, theirs, 1e-8)


def test_at_constant_pressure_both_give_way_to_it(tiny_potential, salt_crystal):
    integrator = Isobaric(time_step=2.0, temperature=300.0, friction=0.02, pressure=10.0, barostat_time=400.0)
    settings = {"steps": 20, "seed": 0, "save_every": 10, "velocities_from_temperature": 300.0}
    for engine in (md, ase_engine):
        (found,) = engine.run(tiny_potential, [salt_crystal], integrator, **settings)
        volumes = np.linalg.det(found.cell)
        assert volumes[0] > volumes[1] > volumes[2]
        fresh = predict(tiny_potential, graphs(found.to_atoms(), tiny_potential))
        np.testing.assert_allclose(found.potential_energy, [p.energy for p in fresh], atol=1e-9)


def test_ase_stops_where_the_batched_loop_does(tiny_potential, salt_water):
    settings = {
        "steps": 40,
        "seed": 0,
        "save_every": 10,
        "velocities_from_temperature": 3000.0,
        "stop_on": Limits(temperature_ratio=0.5, temperature_window=5.0),
    }
    reports = []
    (ours,) = md.run(tiny_potential, [salt_water], VelocityVerlet(time_step=0.5), **settings)
    (theirs,) = ase_engine.run(
        tiny_potential,
        [salt_water],
        VelocityVerlet(time_step=0.5),
        report=lambda step, running: reports.append((step, running)),
        **settings,
    )
    assert ours.failure is not None
    assert ours.failure.reason is Reason.TEMPERATURE
    assert ours.failure == theirs.failure
    assert reports[0] == (0, 1)


def test_the_reference_takes_no_watch(tiny_potential, salt_water):
    class Watch:
        every = 1

        def look(self, step, running):
            raise AssertionError("nothing is looked at")

    with pytest.raises(ValueError, match=r"use md\.run with a watch"):
        ase_engine.run(
            tiny_potential,
            [salt_water],
            VelocityVerlet(time_step=1.0),
            steps=1,
            seed=0,
            save_every=1,
            watch=Watch(),
        )
