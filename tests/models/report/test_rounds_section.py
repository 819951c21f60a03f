import json
import re
from dataclasses import replace

import pytest

from models.report import CampaignPart, Promotion, ReportData, from_json, render, to_json
from models.report_rounds import ArmPoint, Gain, Round, Rounds
from models.validation.base import Line, Plot

EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def rounds() -> Rounds:
    """A start and two rounds, with a control arm."""
    return Rounds(
        rows=[
            Round(number=0, labels=10, forces=81.2, forces_interval=(75.0, 88.0), passed=False),
            Round(
                number=1,
                labels=27,
                new=18,
                failed=2,
                doubtful=1,
                forces=58.0,
                forces_interval=(54.0, 63.0),
                passed=False,
                coverage=0.874,
                cpu_hours=0.0125,
            ),
            Round(
                number=2,
                labels=47,
                new=20,
                forces=44.4,
                passed=True,
                coverage=0.91,
                cpu_hours=0.02,
            ),
        ],
        stopped="the gate holds",
        gain=Gain(ratio=1.31, interval=(1.12, 1.5)),
        arms=[
            ArmPoint(name="selected labels only", labels=18, forces=60.0, forces_interval=(56.0, 65.0)),
            ArmPoint(name="random labels only", labels=18, forces=78.6, forces_interval=(72.0, 86.0)),
        ],
        asked=50.0,
        stated=0.9,
        plots=[
            Plot(
                title="Uncertainty against error",
                x_label="uncertainty, eV/Å",
                y_label="error, eV/Å",
                kind="parity",
                lines=[Line(x=[0.1, 0.2, 0.3], y=[0.08, 0.3, 0.2])],
            )
        ],
    )


def report(rounds: Rounds | None) -> ReportData:
    verdict = Promotion(promoted=True, summary="It is promoted.")
    return ReportData(title="salt", campaign=CampaignPart(verdict=verdict, rounds=rounds))


def section(html: str) -> str:
    return html[html.index('<section id="rounds">') :].partition("</section>")[0]


def words(text: str) -> str:
    text = re.sub(r"<svg.*?</svg>", " ", text, flags=re.DOTALL).replace("&nbsp;", " ")
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)).replace(" .", ".").replace(" :", ":")


def test_the_rounds_are_told_in_words_and_numbers(rounds, parsed):
    html = render(report(rounds))
    page = parsed(html)
    assert page.open == []
    assert "rounds" in page.links <= set(page.ids)
    text = words(section(html))
    for wanted in (
        "It stopped after 2 rounds and 38 new labels: the gate holds.",
        "force error is 1.31 [1.12, 1.50] times as large: the selection was worth it.",
        "start 10 81.2 [75.0, 88.0] ✗ missed – – – – –",
        "1 27 58.0 [54.0, 63.0] ✗ missed 18 2 1 87 % 0.013",
        "2 47 44.4 ✓ met 20 0 0 91 % 0.020",
        "which was to hold for 90 % of them",
        "● all labels",
        "● selected labels only",
        "● random labels only",
        "asked for by the gate",
    ):
        assert wanted in text


def test_the_learning_curve_shows_the_arms_beside_the_rounds(rounds):
    panels = re.findall(r"<svg.*?</svg>", section(render(report(rounds))), re.DOTALL)
    assert len(panels) == 2
    curve, reliability = panels
    assert "force MAE, meV/Å against labels" in curve
    assert "error, eV/Å against uncertainty, eV/Å" in reliability
    for colour in ("var(--series-0)", "var(--series-1)", "var(--series-2)"):
        assert len(re.findall(rf"<use [^>]*fill: {re.escape(colour)}", curve)) == (3 if "-0" in colour else 1)
    without = replace(rounds, arms=(), asked=None, plots=())
    (alone,) = re.findall(r"<svg.*?</svg>", section(render(report(without))), re.DOTALL)
    assert "var(--series-1)" not in alone


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (Gain(ratio=1.2, interval=(0.9, 1.6)), "that may be chance"),
        (Gain(ratio=1.2), "that may be chance"),
        (Gain(ratio=0.8, interval=(0.7, 0.9)), "chance would have been better than the selection"),
        (Gain(ratio=1.2, interval=(1.1, 1.3)), "the selection was worth it"),
    ],
)
def test_a_gain_is_claimed_only_where_its_interval_says_so(gain, said, rounds):
    assert said in words(section(render(report(replace(rounds, gain=gain)))))


def test_what_the_rounds_have_not_is_left_out(rounds, parsed):
    bare = Rounds(rows=[Round(number=0, labels=10), Round(number=1, labels=10)], stopped="none was new")
    html = render(report(bare))
    assert parsed(html).open == []
    text = words(section(html))
    assert "It stopped after 1 round and 0 new labels: none was new." in text
    assert "times as large" not in text
    assert "Within its uncertainty”" not in text
    page = parsed(render(report(None)))
    assert "rounds" not in page.ids


def test_json_holds_the_rounds(rounds):
    data = report(rounds)
    read = json.loads(to_json(data))
    assert read["campaign"]["rounds"]["rows"][1]["failed"] == 2
    assert json.loads(to_json(from_json(read))) == read
    assert render(from_json(read)) == render(data)


def test_words_of_others_are_escaped(rounds):
    html = render(report(replace(rounds, stopped=EVIL)))
    assert EVIL not in html
    assert "&lt;script&gt;" in section(html)
