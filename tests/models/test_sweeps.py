"""Sweeps: what settings expand to, what mistakes are told, and what a sweep costs."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from models.strategies import STRATEGY, AnyStrategy, Lora
from models.sweeps import Grid, Sweep, Trial

LORA = {
    "strategy": {"kind": "lora"},
    "settings": {"rank": [4, 16], "optimisation.learning_rate": [1e-3, "1e-2"]},
}
KINDS = [kind.model_fields["kind"].default for kind in get_args(get_args(AnyStrategy)[0])]


def sweep(*candidates: dict[str, Any], **more: Any) -> Sweep:
    return Sweep.model_validate({"candidates": candidates, **more})


def naive(epochs: int, **optimisation: Any) -> dict[str, Any]:
    return {
        "strategy": {"kind": "naive", "optimisation": {"epochs": epochs, **optimisation}},
        "settings": {"optimisation.learning_rate": [0.001, 0.002, 0.003, 0.004]},
    }


def message(error: pytest.ExceptionInfo[ValidationError]) -> str:
    (mistake,) = error.value.errors()
    return ".".join(map(str, mistake["loc"])) + ": " + mistake["msg"]


def test_settings_are_combined_each_with_each_and_leave_the_rest_as_it_is() -> None:
    trials = Grid.model_validate(LORA).trials()
    assert [trial.name for trial in trials] == [
        "lora-rank-4-learning-rate-1e-3",
        "lora-rank-4-learning-rate-1e-2",
        "lora-rank-16-learning-rate-1e-3",
        "lora-rank-16-learning-rate-1e-2",
    ]
    last = trials[-1].strategy
    assert isinstance(last, Lora)
    assert (last.rank, last.optimisation.learning_rate) == (16, 0.01)
    assert last.optimisation.clip_gradient == Lora().optimisation.clip_gradient, "its own default, kept"
    assert trials[1].settings == {"rank": 4, "optimisation.learning_rate": 0.01}


@pytest.mark.parametrize("kind", KINDS)
def test_any_strategy_can_be_varied(kind: str) -> None:
    grid = Grid.model_validate({"strategy": {"kind": kind}, "settings": {"weights.forces": [1.0, 20.0]}})
    assert [trial.strategy.weights.forces for trial in grid.trials()] == [1.0, 20.0]
    assert {trial.strategy.kind for trial in grid.trials()} == {kind}


def test_without_settings_a_strategy_is_a_trial_as_it_is() -> None:
    (trial,) = Grid.model_validate({"strategy": {"kind": "lora", "rank": 8}}).trials()
    assert trial == Trial(settings={}, strategy=STRATEGY.validate_python({"kind": "lora", "rank": 8}))


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"low": 4, "high": 64, "n": 3}, [4, 16, 64]),
        ({"low": 1, "high": 3, "n": 5}, [1, 2, 3]),
        ({"low": 2, "high": 10, "n": 3, "spacing": "linear"}, [2, 6, 10]),
    ],
)
def test_a_range_of_whole_numbers_is_one(given: dict[str, Any], values: list[int]) -> None:
    trials = Grid.model_validate({"strategy": {"kind": "lora"}, "settings": {"rank": given}}).trials()
    assert [trial.settings["rank"] for trial in trials] == values


def test_a_range_of_rates_has_equal_ratios() -> None:
    rates = {"optimisation.learning_rate": {"low": 1e-4, "high": 1e-2, "n": 3}}
    trials = Grid.model_validate({"strategy": {"kind": "naive"}, "settings": rates}).trials()
    assert [trial.strategy.optimisation.learning_rate for trial in trials] == [1e-4, 1e-3, 1e-2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rnk": [4]}, "settings.rnk: lora has no such setting; it has alpha, elements, optimisation.best"),
        ({"optimisation.rate": [4]}, "settings.optimisation.rate: lora has no such setting"),
        ({"rank.up": [4]}, "settings.rank.up: lora has no such setting"),
        ({"rank": [4, 0]}, "settings.rank = 0: Input should be greater than or equal to 1"),
        ({"weights": [{"forces": -1}]}, 'settings.weights = {"forces": -1}: Input should be greater'),
        ({"rank": 4}, "settings.rank.list: Value error, give a list of values, as [4, 16, 64], or a range"),
        ({"rank": []}, "settings.rank.list: Value error, give a list of values"),
        ({"rank": {"low": 4, "high": 2, "n": 2}}, "settings.rank.range: Value error, low has to be below"),
        ({"rank": {"low": 0, "high": 2, "n": 2}}, "low has to be above zero for equal ratios"),
        ({"rank": {"low": 4, "high": 64}}, "settings.rank.range.n: Field required"),
        ({"optimisation.seed": [1]}, "settings.optimisation.seed: is not varied: seeds are given"),
        ({"kind": ["naive"]}, "settings.kind: is not varied: list another candidate"),
        ({"rank": list(range(1, 200))}, "settings: make 199 trials; take fewer values, at most 100"),
    ],
)
def test_a_mistake_in_the_settings_names_the_setting(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        Grid.model_validate({"strategy": {"kind": "lora"}, "settings": settings})
    assert said in message(error)


@pytest.mark.parametrize(
    ("candidates", "more", "said"),
    [
        ([{"strategy": {"kind": "naive"}}], {}, "candidates: make 1 trials; a sweep compares 2 to 100"),
        (
            [naive(9), naive(9)],
            {},
            "two trials are called naive-learning-rate-1e-3; remove one, or say 'called'",
        ),
        (
            [naive(3)],
            {},
            "naive-learning-rate-1e-3 has 3 epochs, which 3 rungs by 2 cannot share out; give it 4",
        ),
        ([naive(9)], {"seeds": [1, 1]}, "seeds: one stands there twice"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(candidates: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        sweep(*candidates, **more)
    assert said in message(error)


def test_each_rung_halves_the_trials_and_doubles_the_epochs() -> None:
    plan = sweep(naive(10, decay="cosine"), seeds=[5, 6])
    trial = plan.trials()[0]
    assert [(rung.trials, rung.epochs(trial), rung.seeds) for rung in plan.schedule()] == [
        (4, 3, (5,)),
        (2, 5, (5,)),
        (1, 10, (5, 6)),
    ]
    assert plan.budget() == [12, 10, 20], "a cosine decay starts anew"
    assert "at most 42 epochs; all trials to their end would take 80" in plan.told()
    last = plan.schedule()[-1].strategy(trial, 5)
    assert last == trial.strategy.seeded(5), "the last rung trains what a campaign would"


def test_a_constant_rate_goes_on_where_the_rung_before_stopped() -> None:
    assert sweep(naive(8), seeds=[0]).budget() == [8, 4, 4]
    assert sweep(naive(8, evaluate_every=3.0), seeds=[0]).budget() == [8, 8, 8], "evaluations out of turn"


def test_other_seeds_are_as_many() -> None:
    assert sweep(naive(8)).seeded(7).seeds == (7, 8, 9)
