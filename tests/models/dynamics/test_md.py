from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units

from models.dynamics import trajectories
from models.dynamics.limits import Failure, Limits, Reason
from models.dynamics.md import Isobaric, Langevin, VelocityVerlet, run
from models.dynamics.replicas import Replica
from models.dynamics.speed import compare_speed
from models.graphs import graphs, predict


def total_energy(trajectory: trajectories.Trajectory) -> np.ndarray:
    return trajectory.potential_energy + trajectory.kinetic_energy


def test_forces_of_the_run_are_the_slope_of_its_energy(tiny_potential, salt_water):
    step = 1e-4
    moved = []
    for sign in (1, -1):
        start = salt_water.copy()
        start.positions[3, 1] += sign * step
        moved.append(start)
    at_rest = [
        t.potential_energy[0]
        for t in run(tiny_potential, moved, VelocityVerlet(time_step=0.1), steps=1, seed=0, save_every=1)
    ]
    slope = (at_rest[0] - at_rest[1]) / (2 * step)
    # From rest, the first step moves every atom by F Δt² / 2m; the centre of mass stays.
    first = run(tiny_potential, [salt_water], VelocityVerlet(time_step=0.1), steps=1, seed=0, save_every=1)[0]
    moved_by = first.positions[1] - first.positions[0]
    forces = 2 * salt_water.get_masses()[:, None] * moved_by / (0.1 * units.fs) ** 2
    assert forces[3, 1] == pytest.approx(-slope, abs=1e-5)


def test_total_energy_is_kept_and_better_with_a_shorter_step(tiny_potential, salt_crystal):
    spread = []
    for time_step in (2.0, 1.0):
        trajectory = run(
            tiny_potential,
            [salt_crystal],
            VelocityVerlet(time_step=time_step),
            steps=int(100 / time_step),
            seed=1,
            save_every=int(4 / time_step),
            velocities_from_temperature=300.0,
        )[0]
        spread.append(total_energy(trajectory).std())
        assert np.ptp(trajectory.potential_energy) > 1000 * spread[-1]
    assert spread[0] / spread[1] == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize(
    "integrator", [VelocityVerlet(time_step=0.5), Langevin(time_step=0.5, temperature=300.0, friction=0.02)]
)
def test_a_replica_does_not_depend_on_its_neighbours(tiny_potential, salt_water, salt_crystal, integrator):
    settings = {"steps": 20, "seed": 5, "save_every": 5, "velocities_from_temperature": 300.0}
    alone = run(tiny_potential, [salt_water], integrator, **settings)[0]
    water = salt_water[5:8]
    together = run(tiny_potential, [salt_water, salt_crystal, water], integrator, **settings)
    np.testing.assert_allclose(together[0].positions, alone.positions, atol=1e-9)
    np.testing.assert_allclose(together[0].potential_energy, alone.potential_energy, atol=1e-9)
    assert [len(t.numbers) for t in together] == [11, 64, 3]


def test_the_same_call_gives_the_same_bits(tiny_potential, salt_water, tmp_path):
    def once(seed: int, name: str) -> bytes:
        found = run(
            tiny_potential,
            [salt_water] * 3,
            Langevin(time_step=0.5, temperature=300.0, friction=0.02),
            steps=10,
            seed=seed,
            save_every=2,
            velocities_from_temperature=300.0,
        )
        trajectories.save(found, tmp_path / name)
        return (tmp_path / name).read_bytes()

    assert once(1, "a") == once(1, "b")
    assert once(1, "a") != once(2, "c")
    first, second, _ = trajectories.load(tmp_path / "a")
    assert not np.array_equal(first.positions[0], first.positions[-1])
    assert not np.array_equal(first.positions[-1], second.positions[-1])


def test_langevin_reaches_its_temperature(tiny_potential, salt_crystal):
    # 2 × 192 degrees of freedom and some 5 independent snapshots: a standard error of 3 %.
    found = run(
        tiny_potential,
        [salt_crystal] * 2,
        Langevin(time_step=4.0, temperature=400.0, friction=0.02),
        steps=150,
        seed=3,
        save_every=10,
        velocities_from_temperature=100.0,
    )
    settled = np.array([t.temperature[7:] for t in found])
    assert settled.mean() == pytest.approx(400.0, rel=0.08)
    assert np.mean([t.temperature[0] for t in found]) == pytest.approx(100.0, rel=0.15)


def test_the_target_of_a_ramp_goes_in_a_straight_line(tiny_potential, salt_crystal):
    ramp = Langevin(time_step=4.0, temperature=100.0, friction=0.2, ramp_to=900.0)
    assert [ramp.target(progress) for progress in (0.0, 0.25, 1.0)] == [100.0, 300.0, 900.0]
    found = run(
        tiny_potential,
        [salt_crystal] * 2,
        ramp,
        steps=100,
        seed=3,
        save_every=5,
        velocities_from_temperature=100.0,
        stop_on=Limits(temperature_window=40.0),
    )
    # Against a target that stood still at 100 K it would be overheated by far.
    assert [t.failure for t in found] == [None, None]
    means = np.mean([t.temperature for t in found], axis=0)
    halfway, end = means[9:12].mean(), means[-3:].mean()
    assert halfway == pytest.approx(500.0, rel=0.2)
    assert end == pytest.approx(880.0, rel=0.2)


def test_at_constant_pressure_cell_energies_and_neighbours_belong_together(tiny_potential, salt_crystal):
    found = run(
        tiny_potential,
        [salt_crystal],
        Isobaric(time_step=2.0, temperature=300.0, friction=0.02, pressure=10.0, barostat_time=400.0),
        steps=40,
        seed=0,
        save_every=10,
        velocities_from_temperature=300.0,
        stop_on=Limits(volume_change=0.9),
    )[0]
    assert found.failure is None
    frames = found.to_atoms()
    volumes = np.array([atoms.get_volume() for atoms in frames])
    assert (np.diff(volumes) < 0.0).all()
    assert volumes[-1] < 0.95 * volumes[0]
    for atoms, cell in zip(frames, found.cell, strict=True):
        np.testing.assert_array_equal(atoms.cell.array, cell)
    fresh = predict(tiny_potential, graphs(frames, tiny_potential))
    np.testing.assert_allclose(found.potential_energy, [p.energy for p in fresh], atol=1e-9)


def test_a_volume_that_runs_away_is_a_failure(tiny_potential, salt_crystal):
    found = run(
        tiny_potential,
        [salt_crystal],
        Isobaric(time_step=2.0, temperature=300.0, friction=0.02, pressure=-1e6, barostat_time=40.0),
        steps=40,
        seed=0,
        save_every=1,
        velocities_from_temperature=300.0,
        stop_on=Limits(),
    )[0]
    assert found.failure is not None
    assert found.failure.reason is Reason.VOLUME
    assert 0.5 < found.failure.value < 0.6


def test_a_cluster_has_no_cell_to_move(tiny_potential, salt_water):
    with pytest.raises(ValueError, match="periodic in three directions"):
        run(
            tiny_potential,
            [salt_water],
            Isobaric(time_step=1.0, temperature=300.0, friction=0.02),
            steps=1,
            seed=0,
            save_every=1,
        )


def test_the_centre_of_mass_starts_at_rest_and_stays(tiny_potential, salt_water):
    found = run(
        tiny_potential,
        [salt_water],
        VelocityVerlet(time_step=0.5),
        steps=20,
        seed=0,
        save_every=10,
        velocities_from_temperature=500.0,
    )[0]
    centres = [atoms.get_center_of_mass() for atoms in found.to_atoms()]
    np.testing.assert_allclose(centres, [centres[0]] * 3, atol=1e-10)
    assert found.times_fs.tolist() == [0.0, 5.0, 10.0]
    assert found.to_atoms()[2].info["time_fs"] == 10.0


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(force=1e-3), Reason.FORCE),
        (Limits(contact=0.95), Reason.CONTACT),
        (Limits(separation=1.5), Reason.EVAPORATED),
        (Limits(temperature_ratio=0.5, temperature_window=5.0), Reason.TEMPERATURE),
    ],
)
def test_a_replica_past_a_limit_stops_and_the_others_go_on(tiny_potential, salt_water, limits, reason):
    # Na and Cl, 2.5 Å apart, are at 0.93 of the sum of their radii.
    lone_atom = Atoms("H", [(0.0, 0.0, 0.0)])
    reports = []
    failed, lone = run(
        tiny_potential,
        [salt_water, lone_atom],
        VelocityVerlet(time_step=0.5),
        steps=40,
        seed=0,
        save_every=10,
        velocities_from_temperature=3000.0,
        stop_on=limits.model_copy(update={"temperature_ratio": min(limits.temperature_ratio, 20.0)}),
        report=lambda step, running: reports.append((step, running)),
    )
    assert failed.failure is not None
    assert failed.failure.reason == reason
    assert failed.failure.detail
    assert failed.times_fs[0] == 0.0
    assert failed.times_fs[-1] <= failed.failure.time_fs
    if reason is not Reason.TEMPERATURE:
        assert lone.failure is None
        assert lone.times_fs[-1] == 20.0
        assert reports[-1] == (40, 1)


def test_a_network_without_a_value_is_a_failure(tiny_potential):
    # Two nuclei on top of each other: the distance has no direction, so the force is not a number.
    broken = Atoms("NaCl", [(0.0, 0.0, 0.0), (0.0, 0.0, 0.0)])
    found = run(tiny_potential, [broken], VelocityVerlet(time_step=0.5), steps=5, seed=0, save_every=1)[0]
    assert found.failure is not None
    assert found.failure.reason == Reason.NOT_FINITE
    assert len(found.positions) == 1


def test_trajectories_come_back_from_disk(tiny_potential, salt_water, salt_crystal, tmp_path):
    found = run(
        tiny_potential,
        [salt_water, salt_crystal],
        VelocityVerlet(time_step=0.5),
        steps=4,
        seed=0,
        save_every=2,
        stop_on=Limits(separation=None, contact=0.7),
    )
    trajectories.save(found, tmp_path / "md.safetensors")
    back = trajectories.load(tmp_path / "md.safetensors")
    for before, after in zip(found, back, strict=True):
        assert before.failure == after.failure
        np.testing.assert_array_equal(before.positions, after.positions)
        np.testing.assert_array_equal(before.pbc, after.pbc)
        np.testing.assert_array_equal(before.cell, after.cell)


def test_trajectories_from_before_cells_could_move_are_still_read(tiny_potential, salt_crystal, tmp_path):
    found = run(tiny_potential, [salt_crystal], VelocityVerlet(time_step=0.5), steps=2, seed=0, save_every=1)
    assert found[0].cell.shape == (3, 3, 3)
    old = replace(found[0], cell=found[0].cell[0])
    trajectories.save([old], tmp_path / "old.safetensors")
    (back,) = trajectories.load(tmp_path / "old.safetensors")
    np.testing.assert_array_equal(back.cell, found[0].cell)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"save_every": 0}])
def test_counts_below_one_are_refused(tiny_potential, salt_water, wrong):
    settings = {"steps": 1, "seed": 0, "save_every": 1} | wrong
    with pytest.raises(ValueError, match="at least 1"):
        run(tiny_potential, [salt_water], VelocityVerlet(time_step=0.5), **settings)


def test_an_unknown_element_is_named(tiny_potential):
    with pytest.raises(ValueError, match="does not know Fe"):
        run(tiny_potential, [Atoms("Fe")], VelocityVerlet(time_step=0.5), steps=1, seed=0, save_every=1)


def test_a_potential_is_as_fast_as_itself(tiny_potential, salt_water):
    compared = compare_speed(tiny_potential, tiny_potential, [salt_water] * 2, steps=3, rounds=3)
    assert (compared.n_replicas, compared.n_atoms) == (2, 22)
    assert len(compared.rounds) == 3
    assert compared.ratio == sorted(a / b for a, b in compared.rounds)[1]
    assert compared.seconds_per_step_a == sorted(a for a, _ in compared.rounds)[1]


class Noting:
    """A watch that notes what it sees, stops one replica at a step, and pushes another all along."""

    every = 4

    def __init__(self, stops: tuple[int, int] = (-1, -1), pushes: tuple[int, float] = (-1, 0.0)) -> None:
        self.seen: list[tuple[int, list[int]]] = []
        self.snapshots: list[Atoms] = []
        self._stops, self._pushes = stops, pushes

    def look(self, step: int, running: list[Replica]) -> None:
        self.seen.append((step, [replica.number for replica in running]))
        self.snapshots += [replica.snapshot() for replica in running if replica.number == 0]
        for replica in running:
            if (replica.number, step) == self._stops:
                replica.failure = Failure(
                    reason=Reason.UNCERTAIN, time_fs=0.5 * step, value=2.0, limit=1.0, detail="as told"
                )
            if replica.number == self._pushes[0]:
                replica.bias = np.full_like(replica.positions, self._pushes[1])


def test_a_watch_sees_and_stops_and_changes_nothing_else(tiny_potential, salt_water):
    settings = {"steps": 10, "seed": 5, "save_every": 4, "velocities_from_temperature": 300.0}
    integrator = Langevin(time_step=0.5, temperature=300.0, friction=0.02)
    alone = run(tiny_potential, [salt_water] * 2, integrator, **settings)
    watch = Noting()
    watched = run(tiny_potential, [salt_water] * 2, integrator, watch=watch, **settings)
    for a, b in zip(alone, watched, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.potential_energy, b.potential_energy)
    assert watch.seen == [(0, [0, 1]), (4, [0, 1]), (8, [0, 1])]
    np.testing.assert_array_equal([a.positions for a in watch.snapshots], alone[0].positions)
    kinetic = [atoms.get_kinetic_energy() for atoms in watch.snapshots]
    np.testing.assert_allclose(kinetic, alone[0].kinetic_energy, rtol=1e-12)
    watch = Noting(stops=(0, 4))
    stopped, other = run(tiny_potential, [salt_water] * 2, integrator, watch=watch, **settings)
    assert watch.seen == [(0, [0, 1]), (4, [0, 1]), (8, [1])]
    assert stopped.failure is not None
    assert stopped.failure.reason is Reason.UNCERTAIN
    assert stopped.times_fs.tolist() == [0.0, 2.0]
    np.testing.assert_allclose(other.positions, alone[1].positions, atol=1e-9)


def test_a_watch_can_push_a_replica(tiny_potential, salt_water):
    settings = {"steps": 9, "seed": 0, "save_every": 9}
    integrator = VelocityVerlet(time_step=0.5)
    free, pushed = run(
        tiny_potential, [salt_water] * 2, integrator, watch=Noting(pushes=(1, 0.2)), **settings
    )
    # The same push on every atom moves the whole, from the forces of the first step on.
    masses = salt_water.get_masses()
    centre = [(masses[:, None] * (t.positions[-1] - t.positions[0])).sum(axis=0) for t in (free, pushed)]
    step = 0.5 * units.fs
    expected = 0.2 * 11 * step**2 * sum(range(1, 9))
    np.testing.assert_allclose(centre[0], 0.0, atol=1e-9)
    np.testing.assert_allclose(centre[1], expected, rtol=1e-9)
