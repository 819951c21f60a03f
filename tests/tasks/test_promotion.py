"""The gate, from measurements on record to aliases."""

from collections.abc import Callable
from typing import Any

import pytest

from db import aliases
from db.errors import ForbiddenLicence, Retracted
from db.retractions import retract
from models.campaign import Campaign
from tasks.promotion import admit, judge, promote
from tasks.records import read
from tasks.reporting import conclude


@pytest.fixture
def measured(recorded_json: Callable[..., str]) -> Callable[..., dict[str, str]]:
    """Inputs of a verdict: a checkpoint with a force MAE (meV/Å) and a drift (None: not measurable)."""

    def inputs(forces: float, drift: float | None = 1.0, ratio: float = 4.0) -> dict[str, str]:
        def errors(mae: float) -> dict[str, Any]:
            return {"errors": {"test": {"forces": {"mae": mae}, "energy": {"mae": 1.0}}}}

        dynamics = {
            "stability": {"fraction_finished": 1.0},
            "bonds": {"fraction_whole": 1.0},
            "rdf": {"mean_emd": 0.05, "shortest": {"O-O": 1.0}},
            "conservation": None if drift is None else {"short": {"drift": drift}},
        }
        return {
            "checkpoint": recorded_json({"weights": forces}, "checkpoint"),
            "foundation_errors": recorded_json(errors(100.0)),
            "errors": recorded_json(errors(forces)),
            "dynamics": recorded_json(dynamics),
            "speed": recorded_json({"batch": {"ratio": ratio}}, "measurement"),
        }

    return inputs


def test_behind_the_gate_a_checkpoint_gets_its_name(
    campaign: Campaign, measured: Callable[..., dict[str, str]]
) -> None:
    inputs = measured(forces=40.0)
    accepted = judge.fn(campaign, "champion", inputs)
    assert promote.fn(campaign, "champion", accepted)
    champion = aliases.resolve("salt@champion")
    assert champion.id == inputs["checkpoint"]
    assert aliases.resolve("salt@champion-acceptance").id == accepted
    (alias, _) = aliases.all()
    assert "fall of the force MAE below the foundation's 60 %" in alias.reason
    assert read(accepted)["measured"]["force MAE, meV/Å"] == 40.0


@pytest.mark.parametrize(
    ("role", "values", "reason"),
    [
        ("champion", {"forces": 90.0}, "is 10 %, at least 30 % was asked for"),
        ("champion", {"forces": 40.0, "drift": 6.0}, "is 6 meV/atom/ps, at most 5 meV/atom/ps was asked for"),
        ("champion", {"forces": 40.0, "drift": None}, "could not be measured"),
        (
            "engine",
            {"forces": 40.0, "ratio": 2.0},
            "all replicas at once is 2 ×, at least 3 × was asked for",
        ),
    ],
)
def test_before_a_closed_gate_nothing_is_promoted_and_the_reason_is_said(
    role: str,
    values: dict[str, Any],
    reason: str,
    campaign: Campaign,
    measured: Callable[..., dict[str, str]],
) -> None:
    refused = judge.fn(campaign, role, measured(**values))
    assert not promote.fn(campaign, role, refused)
    assert aliases.all() == []
    verdict = conclude.fn(campaign, "naive", {role: refused}, {"champion": False, "engine": False})
    assert verdict["summary"] == "naive did not pass the gate; nothing was promoted."
    (said,) = verdict["reasons"]
    assert said.startswith(f"{role}: ")
    assert reason in said


def test_a_champion_without_an_engine_is_said(
    campaign: Campaign, measured: Callable[..., dict[str, str]]
) -> None:
    accepted = judge.fn(campaign, "champion", measured(forces=40.0))
    verdict = conclude.fn(campaign, "naive", {"champion": accepted}, {"champion": True, "engine": False})
    assert verdict["promoted"]
    assert verdict["summary"] == "naive is salt@champion; its student did not pass the gate."


def test_what_comes_under_a_forbidden_licence_is_refused_before_and_behind_the_gate(
    campaign: Campaign, measured: Callable[..., dict[str, str]], recorded_json: Callable[..., str]
) -> None:
    strict = campaign.model_copy(update={"forbidden_licences": ("ASL",)})
    inputs = measured(forces=40.0)
    inputs["checkpoint"] = recorded_json({"weights": 1}, "checkpoint", licence="ASL; MIT")
    accepted = judge.fn(strict, "champion", inputs)
    with pytest.raises(ForbiddenLicence, match="'ASL' by checkpoint"):
        promote.fn(strict, "champion", accepted)
    assert aliases.all() == []
    with pytest.raises(ForbiddenLicence, match="'ASL' by checkpoint"):
        admit.fn(strict, [inputs["errors"], inputs["checkpoint"]])
    admit.fn(campaign, [inputs["checkpoint"]])
    assert promote.fn(campaign, "champion", accepted)


def test_nothing_starts_from_or_rests_on_what_is_retracted(
    campaign: Campaign, measured: Callable[..., dict[str, str]]
) -> None:
    inputs = measured(forces=40.0)
    accepted = judge.fn(campaign, "champion", inputs)
    retract(inputs["errors"], "measured in other units")
    with pytest.raises(Retracted, match=r"retracted on .* measured in other units"):
        admit.fn(campaign, [inputs["errors"]])
    with pytest.raises(Retracted, match="measured in other units"):
        promote.fn(campaign, "champion", accepted)
    assert aliases.all() == []
