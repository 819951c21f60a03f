import json
import re
from dataclasses import replace

import pytest
from ase.build import molecule

from models.report import Candidate, ReportData, from_json, number, render, to_json
from models.report_card import model_card
from models.report_checks import Acceptance, Approval, LeftOut, Override
from models.validation.base import Figure, Finding, Line, Plot, Table, shown

EVIL = "<script>alert('x')</script>|\"&$_$"
SECTIONS = ["gate", "candidates", "check-accuracy", "check-holes", "learning", "e0s", "data", "provenance"]


def test_every_section_is_there_and_nothing_is_loaded(html, parsed):
    page = parsed(html)
    assert page.open == []
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS
    assert page.links <= set(page.ids)
    assert page.loaded
    assert all(link.startswith("data:image/png;base64,") for link in page.loaded)
    assert page.tags.count("svg") == 4 + 2  # panels of the two checks, and of the learning curves
    assert page.tags.count("canvas") == 4


def test_verdicts_figures_and_notes_are_on_the_page(html, parsed):
    text = re.sub(r"\s+", " ", parsed(html).text)
    for wanted in (
        "naive is nacl@champion. The champion’s force error is 30.5 meV/Å, 66 % below the foundation’s 90.0.",
        "✗ engine 2 of 2 thresholds missed: what holes.share means: 12.5 % [11.2, 13.8], ≤ 5 % was asked for",
        "what conservation.drift means: could not be measured, ≤ 5 % was asked for",
        "Not checked of champion: crystals (there is nothing for crystals).",
        "force MAE, meV/Å ↓ ✓ 30.0 [27.0, 36.0] 50.0 [45.0, 60.0] 90.0 [81.0, 108]",
        "stress MAE, meV/Å³ ↓ – – –",
        "forces 30 1 200",
        "engine: 0.4 of the covalent radii NaCl",
        "+1 O −2 H",
        "2.9 min",
        "3f9a3f9a3f9a",
    ):
        assert wanted in text
    assert "what never applies" not in text
    assert text.count("60 structures of 6 trajectories.") == 1


def test_the_same_data_give_the_same_bytes(data, html):
    assert render(from_json(json.loads(to_json(data)))) == html


def test_what_is_missing_is_left_out_and_the_rest_stays(data, parsed):
    data = replace(data, acceptances=(), campaign=replace(data.campaign, learning_curves=None))
    everything = {"candidates", "e0s", "data", "provenance"}
    for section, without in {
        "candidates": replace(data, campaign=replace(data.campaign, candidates=())),
        "e0s": replace(data, campaign=replace(data.campaign, e0s=None)),
        "data": replace(data, datasets=None),
    }.items():
        page = parsed(render(without))
        assert page.open == []
        assert page.links <= set(page.ids)
        assert {i for i in page.ids if i in SECTIONS} == everything - {section}


def test_a_model_without_a_campaign_has_the_same_report(data, parsed):
    alone = replace(data, campaign=None, acceptances=data.acceptances[1:])
    page = parsed(render(alone))
    assert [i for i in page.ids if i in SECTIONS] == [
        s for s in SECTIONS if s not in ("candidates", "learning", "e0s")
    ]
    assert "validation of a model" in page.text
    assert "✗ engine" in page.text


def test_an_override_says_who_and_why(data, parsed):
    champion = replace(
        data.acceptances[1], passed=True, overridden=Override(by="Ada", reason="holes are far")
    )
    text = parsed(render(replace(data, acceptances=[champion]))).text
    assert "Let through by Ada: holes are far" in text
    assert "Let through by Ada: holes are far" in model_card(data, champion)


def test_a_decision_says_who_and_why(data, parsed):
    for promote, line in ((True, "Promoted by Ada: firm"), (False, "Not promoted by Ada: firm")):
        decided = Approval(promote=promote, by="Ada", reason="firm")
        champion = replace(data.acceptances[1], passed=True, approval=decided)
        assert line in parsed(render(replace(data, acceptances=[champion]))).text
        assert line in model_card(data, champion)


def test_a_candidate_that_gave_nothing_finite_is_listed(data, parsed):
    broken = Candidate(name="broken", role="champion", forces=None)
    for candidates in ([broken], [replace(broken, role="foundation"), data.campaign.candidates[1]]):
        campaign = replace(data.campaign, candidates=candidates, learning_curves=None)
        text = parsed(render(replace(data, acceptances=(), campaign=campaign))).text
        assert "broken" in text
        assert "below the foundation" not in text


@pytest.mark.parametrize(
    ("forces", "said"),
    [
        (45.0, "45.0 meV/Å, 50 % below the foundation’s 90.0."),
        (99.0, "99.0 meV/Å, 10 % above the foundation’s 90.0."),
        (90.1, "90.1 meV/Å, as large as the foundation’s 90.0."),
    ],
)
def test_a_champion_is_compared_with_the_foundation(data, parsed, forces, said):
    candidates = [replace(c, forces=forces) if c.role == "champion" else c for c in data.campaign.candidates]
    page = parsed(render(replace(data, campaign=replace(data.campaign, candidates=candidates))))
    assert said in re.sub(r"\s+", " ", page.text)


def test_a_report_of_nothing_renders(parsed):
    page = parsed(render(ReportData(title="nothing")))
    assert page.open == []
    assert [i for i in page.ids if i in SECTIONS] == ["provenance"]
    assert "script" not in page.tags


def test_text_is_escaped(data, holes, verdict, parsed):
    check = replace(
        holes(1.0),
        title=EVIL,
        explanation=EVIL,
        finding=Finding(
            figures={"share": Figure(value=1.0)},
            plots=[
                Plot(
                    title=EVIL,
                    x_label=EVIL,
                    y_label=EVIL,
                    lines=[Line(x=[EVIL], y=[1.0], name=EVIL)],
                    kind=kind,
                )
                for kind in ("bars", "line")
            ],
            tables=[Table(title=EVIL, columns=[EVIL], rows=[[EVIL]])],
            structures=[shown(molecule("H2O"), EVIL, EVIL)],
            notes=[EVIL],
        ),
    )
    wrong = replace(verdict("holes.share", 1.0, 0.0, False), check=EVIL, evidence=EVIL)
    acceptance = Acceptance(
        name=EVIL,
        subject=EVIL,
        passed=False,
        verdicts=[wrong],
        checks=[check],
        left_out=[LeftOut(kind=EVIL, why=EVIL)],
    )
    evil = replace(
        data,
        title=EVIL,
        datasets=None,
        acceptances=[acceptance],
        provenance=EVIL,
        software={EVIL: EVIL},
        notes=[EVIL],
    )
    page = parsed(render(evil))
    assert page.open == []
    assert page.tags.count("script") == 2  # the elements of the viewer, and the viewer
    assert page.text.count("alert('x')") > 20
    card = model_card(evil, acceptance)
    assert "<script" not in card
    assert all(
        line.count("|") - line.count("\\|") == 5 for line in card.splitlines() if line.startswith("| ")
    )


def test_json_holds_everything(data):
    read = json.loads(to_json(data))
    assert read["acceptances"][1]["checks"][1]["finding"]["figures"]["share"]["samples"] == {
        "NaCl/0": [12.5, 1.0]
    }
    assert read["acceptances"][1]["verdicts"][0]["passed"] is False
    assert json.loads(to_json(from_json(read))) == read


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0"),
        (-0.00157, "−0.00157"),
        (30.528, "30.5"),
        (252448.0, "252\u202f448"),
        (3.2e-9, "3.20·10⁻⁹"),
        (4e21, "4.00·10²¹"),
    ],
)
def test_numbers_have_three_digits(value, words):
    assert number(value) == words
