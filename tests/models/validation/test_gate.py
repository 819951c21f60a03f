import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from models.validation.base import Quantity, bootstrap, compare_in_pairs
from models.validation.gate import Threshold, judge

QUANTITIES = {
    "accuracy": {"forces": Quantity(words="force MAE", unit="meV/Å", better="lower", paired=True)},
    "holes": {"share": Quantity(words="holes", unit="%", better="lower", paired=True)},
}


def findings(kind: str, name: str, value: float | None, samples: dict[str, float] | None = None) -> Any:
    pairs = {key: [sample, 1.0] for key, sample in (samples or {}).items()}
    return {kind: {"figures": {name: {"value": value, "interval": None, "samples": pairs}}}}


def forces(value: float | None, samples: dict[str, float] | None = None) -> Any:
    return findings("accuracy", "forces", value, samples)


@pytest.mark.parametrize(
    ("limit", "value", "passed"),
    [
        ({"at_most": 50.0}, 50.0, True),
        ({"at_most": 50.0}, 50.1, False),
        ({"at_least": 50.0}, 50.0, True),
        ({"at_least": 50.0}, 49.9, False),
        ({"at_most": 50.0}, None, False),
        ({"at_most": 0.0}, 0.0, True),
        ({"at_most": 50.0}, math.nan, False),
        ({"at_least": 50.0}, math.nan, False),
    ],
)
def test_an_absolute_limit_holds_on_its_side_only(limit, value, passed):
    (verdict,) = judge(
        [Threshold(figure="accuracy.forces", **limit)], "champion", forces(value), {}, QUANTITIES
    )
    assert verdict.passed == passed
    assert verdict.check == "force MAE"


@pytest.mark.parametrize("limits", [{}, {"at_least": 1.0, "at_most": 2.0}])
def test_a_threshold_has_one_limit(limits):
    with pytest.raises(ValidationError, match="give either at_least or at_most"):
        Threshold(figure="accuracy.forces", **limits)


def test_a_relative_limit_asks_for_the_worse_end_of_the_interval():
    # Half the error on every sample but one, where it is equal: better for sure, by 30 % perhaps.
    theirs = {f"t{k}": 10.0 * (k + 1) for k in range(8)}
    ours = {name: (1.0 if name == "t7" else 0.5) * value for name, value in theirs.items()}
    value, interval = compare_in_pairs(
        {k: (v, 1.0) for k, v in ours.items()}, {k: (v, 1.0) for k, v in theirs.items()}, difference=False
    )
    assert interval is not None
    assert interval[0] < value < interval[1]
    others = {"foundation": forces(45.0, theirs)}

    def passes(limit: float) -> bool:
        threshold = Threshold(figure="accuracy.forces", relative_to="foundation", at_most=limit)
        (verdict,) = judge([threshold], "champion", forces(27.5, ours), others, QUANTITIES)
        assert verdict.value == pytest.approx(value)
        assert verdict.evidence == "compared in pairs on 8 samples"
        return verdict.passed

    assert passes(interval[1] + 0.001)
    assert not passes(interval[1] - 0.001)
    assert not passes(0.5 * (value + interval[1])), "the value alone would have passed"


def test_two_models_equally_hard_pressed_by_the_same_samples_do_not_differ():
    # Unpaired, errors from 1 to 100 would leave the ratio open between 0.3 and 3.
    theirs = {f"t{k}": (float(10 ** (k / 4)), 1.0) for k in range(9)}
    ours = {name: (1.02 * value, weight) for name, (value, weight) in theirs.items()}
    value, interval = compare_in_pairs(ours, theirs, difference=False)
    assert interval == pytest.approx((1.02, 1.02))
    assert value == pytest.approx(1.02)


def test_shares_are_compared_by_their_difference():
    ours = {f"s{k}": 100.0 * (k < 3) for k in range(10)}
    theirs = dict.fromkeys(ours, 0.0)
    threshold = Threshold(figure="holes.share", relative_to="teacher", at_most=50.0)
    others = {"teacher": findings("holes", "share", 0.0, theirs)}
    (verdict,) = judge([threshold], "engine", findings("holes", "share", 30.0, ours), others, QUANTITIES)
    assert (verdict.value, verdict.unit) == (30.0, "points")
    assert verdict.check == "holes minus its teacher's"
    assert verdict.interval is not None
    assert verdict.passed == (verdict.interval[1] <= 50.0)


def test_nothing_promoted_yet_is_no_obstacle_but_other_samples_are():
    threshold = Threshold(figure="accuracy.forces", relative_to="current", at_most=1.0)
    mine = forces(30.0, {"t0": 30.0})
    (first,) = judge([threshold], "champion", mine, {"current": None}, QUANTITIES)
    assert first.passed
    assert first.evidence == "nothing else is promoted to be compared with"
    elsewhere = {"current": forces(40.0, {"other": 40.0})}
    (other,) = judge([threshold], "champion", mine, elsewhere, QUANTITIES)
    assert not other.passed
    assert other.evidence == "the two were measured on different samples"
    same = {"current": forces(40.0, {"t0": 40.0})}
    (lone,) = judge([threshold], "champion", mine, same, QUANTITIES)
    assert (lone.value, lone.interval, lone.passed) == (0.75, None, True)
    assert lone.evidence == "one sample: no interval"


def test_a_line_for_one_role_is_not_asked_of_the_other_and_what_was_left_out_has_no_verdict():
    gate = [
        Threshold(figure="accuracy.forces", at_most=10.0, of="engine"),
        Threshold(figure="holes.share", at_most=10.0),
    ]
    assert judge(gate, "champion", forces(30.0), {}, QUANTITIES) == []
    (verdict,) = judge(gate, "engine", forces(30.0), {}, QUANTITIES)
    assert not verdict.passed


def test_the_bootstrap_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = bootstrap({f"t{k:02d}": (x, 1.0) for k, x in enumerate(rng.normal(5.0, 1.0, 30))})
        hits += low <= 5.0 <= high
    assert 180 <= hits <= 199  # 95 % of 200, a little fewer with 30 samples
    assert bootstrap({"t0": (1.0, 1.0)}) is None
