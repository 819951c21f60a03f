import json
from dataclasses import asdict

import numpy as np
import pytest

from models.dynamics.limits import Failure, Reason
from models.dynamics.md import Langevin, run
from models.dynamics.trajectories import Trajectory
from models.validation.stability import assess


def trajectory(times_fs: list[float], temperature: float, failure: Failure | None = None) -> Trajectory:
    n = len(times_fs)
    return Trajectory(
        numbers=np.array([11, 17]),
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        times_fs=np.array(times_fs),
        positions=np.zeros((n, 2, 3)),
        potential_energy=np.zeros(n),
        kinetic_energy=np.zeros(n),
        temperature=np.full(n, temperature),
        failure=failure,
    )


def test_failures_are_counted_and_timed():
    hot = Failure(reason=Reason.TEMPERATURE, time_fs=17.0, value=3.2, limit=3.0, detail="960 K")
    near = Failure(reason=Reason.CONTACT, time_fs=12.0, value=0.4, limit=0.5, detail="Na0 and Cl1")
    found = assess(
        [
            trajectory([0.0, 10.0, 20.0], 300.0),
            trajectory([0.0, 10.0], 600.0, hot),
            trajectory([0.0, 10.0], 600.0, near),
            trajectory([0.0, 10.0, 20.0], 300.0),
        ]
    )
    assert found.fraction_finished == 0.5
    assert found.n_finished == 2
    assert found.first_failure_fs == 12.0
    assert found.reasons == {"atoms too close": 1, "temperature too high": 1}
    assert found.failures == [None, hot, near, None]
    assert found.simulated_fs == 20.0 + 17.0 + 12.0 + 20.0
    assert found.mean_temperature == pytest.approx((4 * 300.0 + 2 * 600.0) / 6)
    assert json.loads(json.dumps(asdict(found)))["failures"][2]["reason"] == "atoms too close"


def test_a_real_run_that_finishes_is_stable(tiny_potential, salt_water):
    found = assess(
        run(
            tiny_potential,
            [salt_water] * 2,
            Langevin(time_step=0.5, temperature=300.0, friction=0.02),
            steps=10,
            seed=0,
            save_every=5,
            velocities_from_temperature=300.0,
        )
    )
    assert found.fraction_finished == 1.0
    assert found.first_failure_fs is None
    assert found.simulated_fs == 10.0
    assert found.reasons == {}


def test_nothing_to_assess_is_refused():
    with pytest.raises(ValueError, match="no trajectories"):
        assess([])
