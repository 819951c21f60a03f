"""Successive halving on recorded curves, ties, and the Pareto front."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from models import report
from models.halving import Baseline, SweepError, Training, conclude, pareto_front, survivors
from models.report import ReportData
from models.sweeps import Sweep

RATES = {0.001: "a", 0.002: "b", 0.003: "c", 0.004: "d"}
CURVES = {  # meV/Å after 1, 2 and 4 epochs: b learns late, c begins best
    "a": (60.0, 50.0, 45.0),
    "b": (62.0, 45.0, 33.0),
    "c": (55.0, 46.0, 40.0),
    "d": (90.0, 85.0, 80.0),
}
BEFORE = Baseline(error=90.0, retention=50.0)


def plan(**more: Any) -> Sweep:
    candidates = [
        {
            "strategy": {
                "kind": "naive",
                "called": name,
                "optimisation": {"epochs": 4, "learning_rate": rate},
            },
        }
        for rate, name in RATES.items()
    ]
    return Sweep.model_validate({"candidates": candidates, "seeds": [0, 1], **more})


def trained(name: str, rung: int, seed: int = 0, **more: Any) -> Training:
    said = {"error": CURVES[name][rung - 1] + 0.5 * seed, "retention": 100.0, "cpu_seconds": 3.0 * 2**rung}
    return Training(
        trial=name,
        rung=rung,
        epochs=2 ** (rung - 1),
        seed=seed,
        **{**said, "parameters": 1000, "checkpoint": f"{name}{rung}{seed}", **more},
    )


def climbed(sweep: Sweep, **more: dict[str, Any]) -> list[Training]:
    """All trainings of a sweep on the recorded curves; `more` is by name of trial."""
    trainings: list[Training] = []
    left = list(CURVES)
    for rung in sweep.schedule():
        trainings += [trained(n, rung.number, s, **more.get(n, {})) for n in left for s in rung.seeds]
        left = survivors(sweep, rung, trainings)
    return trainings


def ended(**more: dict[str, Any]) -> list[Training]:
    """All trials to their end with both seeds, in the only rung; `more` is by name of trial."""
    return [replace(trained(n, 3, s, **more.get(n, {})), rung=1) for n in CURVES for s in (0, 1)]


def test_the_better_half_goes_on_at_every_rung() -> None:
    sweep = plan()
    trainings = climbed(sweep)
    assert [{t.trial for t in trainings if t.rung == k} for k in (1, 2, 3)] == [set("abcd"), set("ac"), {"c"}]
    found = conclude(sweep, trainings, BEFORE)
    assert found.chosen == "c"
    assert found.strategy["optimisation"]["learning_rate"] == 0.003
    assert found.checkpoint == "c30"
    assert [s.name for s in found.standings] == ["c", "a", "b", "d"]
    assert found.standings[0].error == pytest.approx(40.25)
    assert found.standings[0].error_spread == pytest.approx(0.5 / 2**0.5)
    assert found.standings[0].curve == [(1.0, 55.0), (2.0, 46.0), (4.0, 40.25)]
    assert found.epochs == 4 + 2 * 2 + 2 * 4
    assert found.full == 4 * 4 * 2


def test_a_late_learner_is_kept_with_fewer_rungs() -> None:
    assert conclude(plan(rungs=1), ended(), BEFORE).chosen == "b"


def test_what_was_left_out_by_little_is_told() -> None:
    close = {"b": {"error": 60.3}}
    (note,) = conclude(plan(), climbed(plan(), **close), BEFORE).notes[:1]
    assert "Left out after rung 1, within 2% of the last that went on (a, 60.0 meV/Å)" in note
    assert note.endswith("b (60.3).")


def test_a_failed_trial_is_last_with_its_reason_and_does_not_go_on() -> None:
    failed = {"error": None, "retention": None, "failure": "Diverged: the loss is nan"}
    found = conclude(plan(), climbed(plan(), c=failed), BEFORE)
    assert found.chosen == "b"
    assert [s.name for s in found.standings if s.rung > 1] == ["b", "a"]
    assert found.standings[-1].failure == "seed 0: Diverged: the loss is nan"
    assert not found.standings[-1].on_front


def test_a_trial_that_fails_with_one_seed_is_not_recommended() -> None:
    runs = [
        replace(t, error=None, failure="Diverged") if (t.trial, t.seed) == ("b", 1) else t for t in ended()
    ]
    found = conclude(plan(rungs=1), runs, BEFORE)
    assert found.chosen == "c"
    assert next(s for s in found.standings if s.name == "b").failure == "seed 1: Diverged"


def test_where_every_trial_failed_the_first_reason_is_told() -> None:
    sweep = plan()
    trainings = [trained(n, 1, failure="Diverged: too fast") for n in CURVES]
    with pytest.raises(SweepError, match="all trials failed in rung 1; a: Diverged: too fast"):
        survivors(sweep, sweep.schedule()[0], trainings)


@pytest.mark.parametrize(
    ("errors", "tied"),
    [
        ({"a": (40.0, 40.0), "b": (40.7, 40.7)}, "ab"),  # within 2 %
        ({"a": (40.0, 40.0), "b": (41.0, 41.0)}, "a"),
        (
            {"a": (40.0, 44.0), "b": (41.0, 45.0)},
            "a",
        ),  # always 1 more: what the seed does to both is no noise
        ({"a": (40.0, 44.0), "b": (44.0, 42.0)}, "ab"),  # 1 more, and 3 of noise
    ],
)
def test_ties_are_within_the_tolerance_or_the_noise_of_the_difference(
    errors: dict[str, tuple[float, float]], tied: str
) -> None:
    kept = {"b": 90.0}
    runs = [
        replace(t, error=errors.get(t.trial, (90.0, 90.0))[t.seed], retention=kept.get(t.trial, 99.0))
        for t in ended()
    ]
    found = conclude(plan(rungs=1), runs, BEFORE)
    assert {s.name for s in found.standings if s.tied} == set(tied)
    assert found.chosen == tied[-1], "of what is as good, b forgets less"


@pytest.mark.parametrize(
    ("prefer", "chosen"), [("retention", "a"), ("parameters", "b"), ("cpu_seconds", "c")]
)
def test_of_what_is_as_good_the_preferred_one_is_recommended(prefer: str, chosen: str) -> None:
    same = {name: {"error": 40.0} for name in CURVES}
    same["a"] |= {"retention": 60.0}
    same["b"] |= {"parameters": 10}
    same["c"] |= {"cpu_seconds": 1.0}
    found = conclude(plan(rungs=1, prefer=prefer), ended(**same), BEFORE)
    assert found.chosen == chosen
    assert any(f"Of these, {chosen}" in reason for reason in found.reasons)


def test_what_nothing_tells_apart_is_told() -> None:
    found = conclude(plan(rungs=1), ended(**{name: {"error": 40.0} for name in CURVES}), BEFORE)
    assert found.chosen == "a"
    assert found.reasons[-1].startswith("Nothing tells a and b and c and d apart")


def test_epochs_that_were_gone_on_from_count_once() -> None:
    trainings = [replace(t, goes_on=t.rung > 1 and t.seed == 0) for t in climbed(plan())]
    found = conclude(plan(), trainings, BEFORE)
    assert found.epochs == 4 * 1 + 2 * 1 + (2 + 4)
    assert found.cpu_seconds == pytest.approx(4 * 6.0 + 2 * 6.0 + (12.0 + 24.0))


def test_the_front_holds_what_nothing_else_beats() -> None:
    points = {"cheap": (3.0, 1.0), "exact": (1.0, 3.0), "worse": (3.0, 2.0), "unknown": (None, 0.5)}
    assert pareto_front(points) == {"cheap", "exact", "unknown"}
    assert pareto_front({"a": (1.0, 1.0), "b": (1.0, 1.0)}) == {"a", "b"}, "a tie beats nothing"


def test_the_report_shows_every_trial_and_needs_nothing_else() -> None:
    failed = {"error": None, "retention": None, "failure": "Diverged: <nan>"}
    result = conclude(plan(), climbed(plan(), d=failed), BEFORE)
    data = report.from_json(json.loads(json.dumps(asdict(ReportData(title="salt, a sweep", sweep=result)))))
    assert data.sweep == result
    page = report.render(data)
    assert page == report.render(data)
    assert "Recommended: c" in page
    assert page.count("<svg") == 3
    assert all(f"<td>{name}" in page for name in CURVES)
    assert "Diverged: &lt;nan&gt;" in page
    assert "src=" not in page
