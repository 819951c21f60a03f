"""Conformal calibration, on spreads and errors whose distribution is known."""

import numpy as np
import pytest
from ase import Atoms

from models.datasets import DataError
from models.uncertainty.calibration import HeldOut, calibrate, examine
from models.uncertainty.groups import Groups, grouped


def drawn(seed: int, structures: int, atoms: int = 10) -> HeldOut:
    """Errors from a normal distribution, three times as wide as the spread says."""
    rng = np.random.default_rng(seed)
    spreads = [rng.uniform(0.01, 0.2, atoms) for _ in range(structures)]
    return HeldOut(spreads=spreads, errors=[np.abs(rng.normal(scale=3.0 * s)) for s in spreads])


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95])
def test_new_atoms_are_within_their_bound_as_often_as_promised(coverage):
    calibration = calibrate(drawn(0, 200), coverage)
    new = drawn(1, 200)
    inside = [e <= calibration.bounds(s) for s, e in zip(new.spreads, new.errors, strict=True)]
    assert np.mean(inside) == pytest.approx(coverage, abs=0.02)


def test_the_factor_is_the_score_of_that_rank():
    errors = np.array([0.3, 0.1, 0.2, 0.9, 0.5, 0.4, 0.8, 0.6, 0.7])
    held_out = HeldOut(spreads=[np.full(9, 0.5)], errors=[errors])
    assert calibrate(held_out, 0.9).quantile == pytest.approx(0.9 / 0.5)  # the ninth of nine
    assert calibrate(held_out, 0.5).quantile == pytest.approx(0.5 / 0.5)
    assert calibrate(held_out, 0.9).typical == pytest.approx(0.9)
    with pytest.raises(DataError, match=r"9 held-out atoms .* coverage of 0\.95: it takes 19"):
        calibrate(held_out, 0.95)


def test_an_atom_on_which_members_agree_by_chance_is_not_certain():
    held_out = drawn(0, 10)
    held_out.spreads[0][:3] = 0.0
    calibration = calibrate(held_out, 0.9)
    assert 0.0 < calibration.bounds(np.zeros(1))[0] < 0.1 * calibration.typical
    assert np.isfinite(calibration.quantile)
    silent = HeldOut(spreads=[np.zeros(20)], errors=[np.ones(20)])
    with pytest.raises(DataError, match="members of the ensemble agree"):
        calibrate(silent, 0.9)


def test_the_observed_coverage_is_of_groups_that_did_not_calibrate():
    groups = Groups(numbers=np.repeat(np.arange(10), 10), by="trajectory")
    held_out = drawn(0, 100)
    found = examine(calibrate(held_out, 0.9), held_out, groups)
    assert found["observed"] == pytest.approx(0.9, abs=0.03)
    assert found["correlation"] > 0.4
    (line,) = found["plot"]["lines"]
    assert len(line["x"]) == 12
    np.testing.assert_allclose(line["y"], line["x"], rtol=0.35)

    # One half of the trajectories is ten times as wrong: within its own bounds, but not within the other's.
    half = np.repeat([1.0, 10.0], 50)
    worse = HeldOut(
        spreads=held_out.spreads, errors=[f * e for f, e in zip(half, held_out.errors, strict=True)]
    )
    two = Groups(numbers=np.repeat([0, 1], 50), by="trajectory")
    assert examine(calibrate(worse, 0.9), worse, two)["observed"] < 0.75


def test_without_two_halves_no_coverage_is_observed():
    held_out = drawn(0, 1, atoms=12)
    found = examine(calibrate(held_out, 0.9), held_out, Groups(numbers=np.zeros(1, int), by="structure"))
    assert found["observed"] is None
    assert found["n_atoms"] == 12
    assert len(found["plot"]["lines"][0]["x"]) == 1


def test_frames_are_grouped_by_where_they_come_from():
    def frames(*infos, symbols="H2"):
        return [Atoms(symbols, positions=[(0, 0, 0), (0, 0, 1)], info=info) for info in infos]

    mixed = frames({"trajectory": "a"}, {"trajectory": "a", "walker": "w"}, {"trajectory": "a"})
    assert (grouped(mixed).numbers.tolist(), grouped(mixed).by) == ([0, 1, 0], "trajectory")
    formulas = [*frames({}, {}), *frames({}, symbols="OH")]
    assert (grouped(formulas).numbers.tolist(), grouped(formulas).by) == ([0, 0, 1], "formula")
    alone = frames({"trajectory": "a"}, {"trajectory": "a"})
    assert (grouped(alone).numbers.tolist(), grouped(alone).by) == ([0, 1], "structure")
