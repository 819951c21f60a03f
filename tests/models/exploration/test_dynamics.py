from itertools import pairwise

import numpy as np
import pytest
from ase.build import bulk
from pydantic import ValidationError

from models.datasets import DataError
from models.exploration import dynamics
from models.exploration.base import Scene
from models.exploration.dynamics import Dynamics
from models.systems.random_crystals import contact
from models.validation.faults import FAULTS


def scene(potential, starts, work, uncertainty=None, report=None) -> Scene:
    return Scene(
        name="dynamics", potential=potential, starts=starts, uncertainty=uncertainty, seed=(0, 0), work=work,
        report=report,
    )  # fmt: skip


def test_every_temperature_and_pressure_has_its_walkers(tiny_potential, salt_water, tmp_path):
    salt_crystal = bulk("NaCl", "rocksalt", a=5.64)
    salt_water.info["charge"] = 1
    found = Dynamics(
        temperatures=(100.0, 900.0),
        pressures=(0.0, 5.0),
        walkers=2,
        duration=8.0,
        save_every=4,
        watch_every=4,
    ).explore(scene(tiny_potential, [salt_crystal, salt_water], tmp_path))
    by_walker = {}
    for atoms in found:
        by_walker.setdefault(atoms.info["walker"], []).append(atoms)
    assert sorted(by_walker) == [
        f"dynamics-{name}-0" for name in ("100K", "100K-0GPa", "100K-5GPa", "900K", "900K-0GPa", "900K-5GPa")
    ]
    for name, frames in by_walker.items():
        assert [atoms.info["time_fs"] for atoms in frames] == [2.0, 4.0, 6.0, 8.0]
        assert {atoms.info["temperature"] for atoms in frames} == {100.0 if "100K" in name else 900.0}
        periodic = "GPa" in name
        assert {atoms.info.get("pressure") for atoms in frames} == (
            {5.0 if "5GPa" in name else 0.0} if periodic else {None}
        )
        assert {atoms.info.get("charge") for atoms in frames} == {None if periodic else 1}
        assert len({atoms.get_volume() for atoms in frames}) == 4 if periodic else not frames[0].cell.any()
    cold, hot = (
        np.ptp([a.positions for a in by_walker[f"dynamics-{t}K-0"]], axis=0).mean() for t in (100, 900)
    )
    assert hot > cold


def test_in_segments_it_goes_on_where_it_was(tiny_potential, salt_water, tmp_path, monkeypatch):
    explorer = Dynamics(temperatures=(300.0,), walkers=1, duration=20.0, save_every=5, watch_every=5)
    monkeypatch.setattr(dynamics, "SEGMENT", 10)
    found = explorer.explore(scene(tiny_potential, [salt_water], tmp_path))
    assert len(list(tmp_path.glob("*.extxyz"))) == 4
    frames = [atoms for atoms in found if atoms.info["walker"] == "dynamics-300K-0"]
    assert [atoms.info["time_fs"] for atoms in frames] == [2.5 * k for k in range(1, 9)]
    steps = np.array([np.abs(b.positions - a.positions).max() for a, b in pairwise(frames)])
    assert (steps < 3.0 * np.median(steps)).all()
    speeds = np.array([np.abs(atoms.get_velocities()).max() for atoms in frames])
    assert (speeds > 0.2 * speeds.max()).all()


def test_a_walker_that_explodes_leaves_its_frames(foundation, salt_water, tmp_path):
    seen = salt_water.copy()
    seen.positions *= 0.9
    faulty = FAULTS["it explodes above 600 K"](foundation, [seen])
    explorer = Dynamics(temperatures=(600.0,), walkers=2, duration=200.0, save_every=4, watch_every=2)
    found = explorer.explore(scene(faulty, [salt_water], tmp_path))
    assert {atoms.info["walker"] for atoms in found} == {"dynamics-600K-0", "dynamics-600K-1"}
    ended = [atoms for atoms in found if "failure" in atoms.info]
    assert len(ended) == 2
    for last in ended:
        walker = [a for a in found if a.info["walker"] == last.info["walker"]]
        times = [atoms.info["time_fs"] for atoms in walker]
        assert walker[-1] is last
        assert times == sorted(set(times))
        assert times[-1] < 200.0
        assert times[:-1] == [2.0 * k for k in range(1, len(times))]
        assert len(times) > 2
        # The last one is from just before, whether it was due or not.
        after = float(last.info["failure"].partition(" after ")[2].partition(" fs")[0])
        assert 0.0 < after - times[-1] <= 1.0
    assert min(map(contact, found)) >= 0.5


def test_a_start_that_is_broken_leaves_nothing(tiny_potential, salt_water, tmp_path):
    broken = salt_water.copy()
    broken.positions[1] = broken.positions[0]
    assert Dynamics(duration=10.0).explore(scene(tiny_potential, [broken], tmp_path)) == []


def test_it_stops_where_the_potential_does_not_know(foundation, labelled_waters, estimator, tmp_path):
    starts = labelled_waters[4:5]
    (start,) = estimator.estimate(starts)
    explorer = Dynamics(
        temperatures=(300.0,),
        walkers=2,
        duration=100.0,
        save_every=50,
        watch_every=5,
        trust=1.05 * start.largest,
    )
    found = explorer.explore(scene(foundation, starts, tmp_path, estimator))
    stopped = [atoms for atoms in found if "stopped" in atoms.info]
    assert stopped
    for last in stopped:
        assert last.info["uncertainty"] > explorer.trust
        assert last.info["stopped"].startswith("uncertain after ")
        assert last.info["time_fs"] < 100.0
        assert (
            max(a.info["time_fs"] for a in found if a.info["walker"] == last.info["walker"])
            == (last.info["time_fs"])
        )
    for atoms in found:
        assert atoms.info["uncertainty"] == pytest.approx(atoms.arrays["uncertainty"].max())
        assert atoms.info["uncertainty"] <= explorer.trust or "stopped" in atoms.info
        assert "failure" not in atoms.info


def test_what_is_usual_for_held_out_labels_is_trusted(foundation, labelled_waters, estimator, tmp_path):
    explorer = Dynamics(temperatures=(300.0,), walkers=1, duration=20.0, save_every=10, watch_every=5)
    estimator.typical = 1e-6
    (only,) = explorer.explore(scene(foundation, labelled_waters[:1], tmp_path, estimator))
    assert only.info["stopped"].endswith("where 3e-06 is trusted")
    assert only.info["time_fs"] == 0.0


def test_a_bias_leads_to_what_the_potential_does_not_know(foundation, labelled_waters, estimator, tmp_path):
    reached = {}
    for beyond in ("stop", "bias"):
        (tmp_path / beyond).mkdir()
        explorer = Dynamics(
            temperatures=(300.0,), walkers=2, duration=30.0, save_every=10, watch_every=5, trust=1e3,
            beyond=beyond,
        )  # fmt: skip
        found = explorer.explore(scene(foundation, labelled_waters[4:5], tmp_path / beyond, estimator))
        assert len(found) == 12
        said = estimator.estimate(found)
        reached[beyond] = np.array([one.energy_spread for one in said]).reshape(2, -1).max(axis=1)
    # eV; most of a spread is the same wherever it goes.
    assert reached["bias"].mean() > reached["stop"].mean() + 0.03
    assert (reached["bias"] > reached["stop"]).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"save_every": 25, "watch_every": 10},
            r"save_every \(25\) must be a multiple of watch_every \(10\)",
        ),
        ({"temperatures": (300.0, 300.0)}, "temperatures\n.*comes twice"),
        ({"temperatures": ()}, "at least 1 item"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        Dynamics(**wrong)


def test_without_an_uncertainty_there_is_no_bias(tiny_potential, salt_water, tmp_path):
    with pytest.raises(DataError, match="dynamics: beyond: bias needs an uncertainty"):
        Dynamics(beyond="bias").explore(scene(tiny_potential, [salt_water], tmp_path))
