"""What a person's word does to acceptances; that the person is really asked is tested with the flows."""

from collections.abc import Callable
from typing import Any

import pytest

from db import aliases
from models.campaign import Campaign
from tasks import approval
from tasks.approval import approve
from tasks.promotion import override, promote
from tasks.records import read
from tasks.reporting import conclude


class Person:
    """Who is asked, and says always the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, promotes: bool) -> None:
        self.word = {"promote": promotes, "by": "Ada", "reason": "the drift"}
        self.pages: list[str] = []
        monkeypatch.setattr(approval, "_ask", self.decide)

    def decide(self, page: str) -> dict[str, Any]:
        self.pages.append(page)
        return self.word


@pytest.fixture
def careful(campaign: Campaign) -> Campaign:
    """A campaign that asks a person."""
    return campaign.model_copy(update={"approval": "person"})


@pytest.fixture
def acceptances(recorded_json: Callable[..., str]) -> Callable[..., dict[str, str]]:
    """Acceptances of a champion and of its engine, which passed or not."""

    def made(champion: bool = True, engine: bool = True) -> dict[str, str]:
        verdict = {"check": "force MAE", "value": 30.0, "unit": "meV/Å", "at_least": False, "threshold": 50.0}
        common = {"campaign": "salt", "forbidden_licences": [], "override": None}
        return {
            role: recorded_json(
                {
                    **common,
                    "role": role,
                    "passed": passed,
                    "checkpoint": recorded_json({"weights": role}, "checkpoint"),
                    "verdicts": [{**verdict, "passed": passed, "interval": None, "evidence": ""}],
                },
                "acceptance",
            )
            for role, passed in {"champion": champion, "engine": engine}.items()
        }

    return made


def report() -> str:
    return "/reports/salt.html"


def test_nobody_is_asked_by_the_gate_or_about_what_did_not_pass(
    campaign: Campaign, careful: Campaign, acceptances: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = Person(monkeypatch, promotes=True)
    passed, failed = acceptances(), acceptances(champion=False)
    assert approve(campaign, passed, report) == passed
    assert approve(careful, failed, report) == failed
    assert person.pages == []


def test_what_a_person_approves_is_promoted_in_that_name(
    careful: Campaign, acceptances: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = Person(monkeypatch, promotes=True)
    given = acceptances(engine=False)
    decided = approve(careful, given, report)
    (page,) = person.pages
    assert "/reports/salt.html" in page
    assert "- ✓ force MAE: **30 meV/Å** (≤ 50 meV/Å)" in page
    assert "**salt@engine** did not pass the gate, and will not be promoted" in page
    assert decided["engine"] == given["engine"], "what did not pass needs nobody's word"
    assert read(decided["champion"]) == {**read(given["champion"]), "approval": person.word}
    assert promote.fn("champion", decided["champion"])
    assert aliases.history("salt@champion")[0].reason.startswith("Ada approves: the drift")


def test_what_a_person_decides_against_is_not_promoted_unless_overridden(
    careful: Campaign, acceptances: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = Person(monkeypatch, promotes=False)
    decided = approve(careful, acceptances(), report)
    assert not promote.fn("champion", decided["champion"])
    assert aliases.all() == []
    verdict = conclude.fn(careful, "naive", decided, {"champion": False, "engine": False})
    assert verdict["summary"] == ("naive passed the gate, and Ada decided against it; nothing was promoted.")
    assert verdict["refused"] == list(decided.values())
    assert verdict["reasons"][0] == "champion: Ada decided against it: the drift"
    assert approve(careful, acceptances(), report) == decided
    assert len(person.pages) == 1, "the same person was asked the same thing twice"
    override(decided["champion"], "Grace", "the drift is small")
    assert aliases.resolve("salt@champion").id == read(decided["champion"])["checkpoint"]


def test_what_waits_for_a_person_says_so(careful: Campaign, acceptances: Any) -> None:
    verdict = conclude.fn(careful, "naive", acceptances(), {"champion": False, "engine": False})
    assert verdict["summary"] == (
        "naive passed the gate and waits for a person to decide; nothing was promoted."
    )
    assert verdict["refused"] == []
