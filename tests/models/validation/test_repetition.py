"""What a night makes of figures that are not the same any more."""

import numpy as np
import pytest

from models.validation.repetition import Outcome, compare, lost

SPREAD = [10.0, 40.0, 90.0, 20.0, 70.0, 30.0]


def finding(values, weights=None, name="forces"):
    """A finding as on record, with one figure of samples: value and weight of each."""
    weights = weights or [1.0] * len(values)
    samples = {f"t{k}": [v * w, w] for k, (v, w) in enumerate(zip(values, weights, strict=True))}
    value = float(np.average(values, weights=weights)) if values else None
    return {"figures": {name: {"value": value, "interval": None, "samples": samples}}}


def bare(value, name):
    """A finding with one figure and no samples."""
    return {"figures": {name: {"value": value, "interval": None, "samples": {}}}}


def only(before, after, kind="accuracy", tolerance=0.02):
    """What became of the one figure."""
    (change,) = compare({kind: before}, {kind: after}, tolerance)
    return change


def test_what_comes_out_the_same_is_the_same():
    change = only(finding(SPREAD), finding(SPREAD))
    assert (change.outcome, change.worse) == (Outcome.same, False)


def test_a_small_change_of_every_sample_is_found_beneath_a_spread_ten_times_larger():
    worse = [
        value * 1.05 + jitter for value, jitter in zip(SPREAD, (0.1, -0.1, 0.05, 0, -0.05, 0), strict=True)
    ]
    change = only(finding(SPREAD), finding(worse))
    assert change.outcome == Outcome.changed
    assert change.worse
    low, high = change.interval
    assert 0 < low < change.after - change.before < high
    assert str(change).startswith("force MAE, meV/Å (accuracy): was 43.33, is 45.5 (change +")
    assert str(change).endswith("in pairs on 6 samples)")
    back = only(finding(worse), finding(SPREAD))
    assert (back.outcome, back.worse) == (Outcome.changed, False)


def test_noise_of_the_samples_is_no_change_however_large_it_is():
    noisy = [value + shift for value, shift in zip(SPREAD, (9, -8, 12, -7, 10, -6), strict=True)]
    change = only(finding(SPREAD), finding(noisy))
    assert abs(change.after - change.before) > 0.02 * change.before
    assert change.outcome == Outcome.noise


def test_what_is_certain_and_does_not_matter_is_within_the_tolerance():
    shifted = [value + 0.1 for value in SPREAD]
    assert only(finding(SPREAD), finding(shifted)).outcome == Outcome.small
    assert only(finding(SPREAD), finding(shifted), tolerance=0.001).outcome == Outcome.changed


def test_weights_of_samples_count():
    weights = [1.0, 1.0, 1.0, 1.0, 1.0, 1000.0]
    changed = [*SPREAD[:-1], SPREAD[-1] * 1.1]
    change = only(finding(SPREAD, weights), finding(changed, weights))
    assert change.after - change.before == pytest.approx(3.0, rel=0.01)
    low, high = change.interval
    assert (low + high) / 2 == pytest.approx(change.after - change.before)


def test_without_the_same_samples_only_the_tolerance_counts():
    before, after = bare(2.0, "drift"), bare(2.1, "drift")
    change = only(before, after, "conservation")
    assert (change.outcome, change.interval) == (Outcome.changed, None)
    assert str(change) == "energy drift at constant energy, meV/atom/ps (conservation): was 2, is 2.1"
    assert only(before, bare(2.01, "drift"), "conservation").outcome == Outcome.small
    fewer = only(finding(SPREAD), finding(SPREAD[:-1]))
    assert (fewer.outcome, fewer.interval) == (Outcome.changed, None)


def test_what_cannot_be_measured_any_more_is_worse():
    gone = only(finding(SPREAD), finding([]))
    assert (gone.outcome, gone.worse) == (Outcome.changed, True)
    assert "was 43.33, is not measurable" in str(gone)
    missing = only(bare(100.0, "finished"), {"figures": {}}, "dynamics")
    assert (missing.outcome, missing.worse) == (Outcome.changed, True)
    assert only(bare(None, "drift"), bare(None, "drift"), "conservation").outcome == Outcome.same


def test_the_better_side_is_that_of_the_figure():
    assert only(bare(100.0, "finished"), bare(50.0, "finished"), "dynamics").worse
    assert not only(bare(50.0, "finished"), bare(100.0, "finished"), "dynamics").worse


def test_what_a_clock_has_measured_is_not_compared():
    assert compare({"speed": bare(5.0, "ratio")}, {"speed": bare(2.0, "ratio")}, 0.02) == []


def test_a_night_of_mere_noise_raises_hardly_any_alarm():
    """Two figures of four replicas that only jitter: the bootstrap of a gate sees changes in a third."""
    draw = np.random.default_rng(5)
    alarms = 0
    for _ in range(200):
        base = draw.gamma(4.0, 10.0, (2, 4))
        before, after = (
            {kind: finding(list(row)) for kind, row in zip(("accuracy", "retention"), rows, strict=True)}
            for rows in (base + draw.normal(size=(2, 4)) * 5, base + draw.normal(size=(2, 4)) * 5)
        )
        alarms += any(change.outcome == Outcome.changed for change in compare(before, after, 0.0))
    assert alarms <= 20


def test_a_line_of_the_gate_that_held_and_no_longer_does_is_lost():
    held = {
        "figure": "accuracy.forces",
        "threshold": 50.0,
        "at_least": False,
        "relative_to": None,
        "passed": True,
    }
    verdicts = [held, {**held, "threshold": 1.0, "passed": False}, {**held, "relative_to": "foundation"}]
    theirs = {"accuracy": finding([value * 2 for value in SPREAD])}
    verdicts[2]["threshold"] = 0.7
    assert lost(verdicts, "champion", {"accuracy": finding(SPREAD)}, {"foundation": theirs}) == []
    (first, second) = lost(
        verdicts, "champion", {"accuracy": finding([value * 1.5 for value in SPREAD])}, {"foundation": theirs}
    )
    assert (first.value, first.threshold, first.relative_to) == (pytest.approx(65.0), 50.0, None)
    assert (second.value, second.relative_to) == (pytest.approx(0.75), "foundation")
