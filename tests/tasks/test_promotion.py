"""The gate, from findings on record to aliases."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from db import aliases, artifacts
from db.errors import ForbiddenLicence, Retracted
from db.retractions import reinstate, retract
from models.campaign import Campaign
from models.validation.gate import PromotedAs
from tasks.promotion import MOVED_BACK, NotOverridable, admit, judge, override, promote, promoted
from tasks.records import read
from tasks.reporting import conclude


@dataclass(frozen=True)
class Measured:
    """What a verdict rests on."""

    checkpoint: str
    files: Mapping[str, str]
    findings: Mapping[str, str]
    foundation: Mapping[str, str]

    def judged(self, campaign: Campaign, role: PromotedAs = "champion") -> str:
        others = {"foundation": self.foundation}
        return judge.fn(campaign, role, self.checkpoint, self.files, self.findings, others)


@pytest.fixture
def measured(recorded_json: Callable[..., str]) -> Callable[..., Measured]:
    """A checkpoint with a force MAE (meV/Å), a drift (None: not measurable) and a speed; others hold."""

    def figure(value: float | None, **samples: float) -> dict[str, Any]:
        return {"value": value, "interval": None, "samples": {k: [v, 1.0] for k, v in samples.items()}}

    def accuracy(forces: float) -> dict[str, Any]:
        return {"figures": {"forces": figure(forces, t0=0.9 * forces, t1=1.1 * forces)}}

    def inputs(forces: float, drift: float | None = 1.0, ratio: float = 4.0) -> Measured:
        findings = {
            "accuracy": accuracy(forces),
            "dynamics": {"figures": {"finished": figure(100.0)}},
            "conservation": {"figures": {"drift": figure(drift)}},
            "speed": {"figures": {"ratio": figure(ratio)}},
        }
        return Measured(
            checkpoint=recorded_json({"weights": forces}, "checkpoint"),
            files={"test": recorded_json({"test": 1}, "dataset")},
            findings={kind: recorded_json(content, "finding") for kind, content in findings.items()},
            foundation={"accuracy": recorded_json(accuracy(100.0), "finding")},
        )

    return inputs


def test_behind_the_gate_a_checkpoint_gets_its_name(
    campaign: Campaign, measured: Callable[..., Measured]
) -> None:
    it = measured(forces=40.0)
    assert promoted(campaign, "champion") is None
    accepted = it.judged(campaign)
    assert promote.fn("champion", accepted)
    assert aliases.resolve("salt@champion").id == it.checkpoint == promoted(campaign, "champion")
    assert aliases.resolve("salt@champion-acceptance").id == accepted
    (alias, _) = aliases.all()
    assert "force MAE over the foundation's 0.4 ×" in alias.reason
    content = read(accepted)
    assert content["figures"]["accuracy.forces"] == 40.0
    assert "speed.ratio" not in content["figures"], "a time is not the same every night"
    assert content["night"] == {"move_back": False}
    assert content["left_out"]["retention"] == "there is nothing for replay_test"
    assert content["verdicts"][0]["evidence"] == "compared in pairs on 2 samples"


@pytest.mark.parametrize(
    ("role", "values", "reason"),
    [
        ("champion", {"forces": 90.0}, "is 0.9 × (95 %: 0.9 to 0.9), at most 0.7 × was asked for"),
        ("champion", {"forces": 40.0, "drift": 6.0}, "is 6 meV/atom/ps, at most 5 meV/atom/ps was asked for"),
        ("champion", {"forces": 40.0, "drift": None}, "could not be measured"),
        (
            "engine",
            {"forces": 40.0, "ratio": 1.2},
            "all replicas at once is 1.2 ×, at least 1.5 × was asked for",
        ),
    ],
)
def test_before_a_closed_gate_nothing_is_promoted_and_the_reason_is_said(
    role: PromotedAs,
    values: dict[str, Any],
    reason: str,
    campaign: Campaign,
    measured: Callable[..., Measured],
) -> None:
    refused = measured(**values).judged(campaign, role)
    assert not promote.fn(role, refused)
    assert aliases.all() == []
    verdict = conclude.fn(campaign, "naive", {role: refused}, {"champion": False, "engine": False})
    assert verdict["summary"] == "naive did not pass the gate; nothing was promoted."
    assert verdict["refused"] == [refused]
    (said,) = verdict["reasons"]
    assert said.startswith(f"{role}: ")
    assert reason in said


def test_a_person_may_override_the_gate_with_a_name_and_a_reason(
    campaign: Campaign, measured: Callable[..., Measured]
) -> None:
    it = measured(forces=90.0)
    refused = it.judged(campaign)
    with pytest.raises(NotOverridable, match="say who overrides"):
        override(refused, "Ada", " ")
    with pytest.raises(NotOverridable, match="is no acceptance"):
        override(it.checkpoint, "Ada", "good enough")
    made = override(refused[:10], "Ada", "good enough for a first look")
    assert aliases.resolve("salt@champion").id == it.checkpoint
    assert aliases.resolve("salt@champion-acceptance").id == made
    assert (
        aliases.history("salt@champion")[0].reason == "Ada overrides the gate: good enough for a first look"
    )
    content = read(made)
    assert content["override"] == {"by": "Ada", "reason": "good enough for a first look"}
    assert not content["passed"]
    assert read(refused)["override"] is None
    assert artifacts.get(made).kind == "acceptance"
    with pytest.raises(NotOverridable, match="nothing to override"):
        override(measured(forces=40.0).judged(campaign), "Ada", "good enough")


def test_what_a_night_took_the_name_from_gets_it_back_on_a_persons_word_only(
    campaign: Campaign, measured: Callable[..., Measured]
) -> None:
    good, newer = measured(forces=40.0), measured(forces=35.0)
    accepted = newer.judged(campaign)
    assert promote.fn("champion", good.judged(campaign))
    assert promote.fn("champion", accepted)
    assert promote.fn("champion", good.judged(campaign)), "superseded, and not by a night"
    assert promote.fn("champion", accepted)
    reason = f"{MOVED_BACK} 2026-11-20: forces differ"
    aliases.move({"salt@champion": (newer.checkpoint, good.checkpoint)}, reason=reason)
    assert promote.fn("champion", good.judged(campaign))
    assert not promote.fn("champion", accepted)
    assert aliases.resolve("salt@champion").id == good.checkpoint
    verdict = conclude.fn(campaign, "naive", {"champion": accepted}, {"champion": False, "engine": False})
    assert verdict["summary"] == (
        "naive passed the gate, and the night decided against it; nothing was promoted."
    )
    assert verdict["reasons"] == [f"champion: the night decided against it: {reason}"]
    override(accepted, "Ada", "the disk was at fault")
    assert aliases.resolve("salt@champion").id == newer.checkpoint
    assert promote.fn("champion", accepted), "the night has said nothing since"


def test_a_champion_without_an_engine_is_said(campaign: Campaign, measured: Callable[..., Measured]) -> None:
    accepted = measured(forces=40.0).judged(campaign)
    verdict = conclude.fn(campaign, "naive", {"champion": accepted}, {"champion": True, "engine": False})
    assert verdict["promoted"]
    assert verdict["summary"] == "naive is salt@champion; its student did not pass the gate."


def test_what_comes_under_a_forbidden_licence_is_refused_before_and_behind_the_gate(
    campaign: Campaign, measured: Callable[..., Measured], recorded_json: Callable[..., str]
) -> None:
    strict = campaign.model_copy(update={"forbidden_licences": ("ASL",)})
    it = measured(forces=40.0)
    licensed = recorded_json({"weights": 1}, "checkpoint", licence="ASL; MIT")
    it = Measured(licensed, it.files, it.findings, it.foundation)
    with pytest.raises(ForbiddenLicence, match="'ASL' by checkpoint"):
        promote.fn("champion", it.judged(strict))
    assert aliases.all() == []
    with pytest.raises(ForbiddenLicence, match="'ASL' by checkpoint"):
        admit.fn(strict, [it.files["test"], licensed])
    admit.fn(campaign, [licensed])
    assert promote.fn("champion", it.judged(campaign))


def test_what_is_retracted_is_no_measure_for_another(
    campaign: Campaign, measured: Callable[..., Measured]
) -> None:
    it = measured(forces=40.0)
    assert promote.fn("champion", it.judged(campaign))
    retract(it.checkpoint, "trained on wrong units")
    assert promoted(campaign, "champion") is None
    assert aliases.resolve("salt@champion").id == it.checkpoint, "the name stays, for whoever asks"
    reinstate(it.checkpoint)
    assert promoted(campaign, "champion") == it.checkpoint


def test_nothing_starts_from_or_rests_on_what_is_retracted(
    campaign: Campaign, measured: Callable[..., Measured]
) -> None:
    it = measured(forces=40.0)
    accepted = it.judged(campaign)
    retract(it.findings["accuracy"], "measured in other units")
    with pytest.raises(Retracted, match=r"retracted on .* measured in other units"):
        admit.fn(campaign, [it.findings["accuracy"]])
    with pytest.raises(Retracted, match="measured in other units"):
        promote.fn("champion", accepted)
    assert aliases.all() == []
