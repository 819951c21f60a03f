import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import bulk, molecule

from models.e0s import E0Fit
from models.report import (
    CampaignPart,
    Candidate,
    Dataset,
    LearningCurve,
    Promotion,
    ReportData,
    from_json,
    number,
    render,
    to_json,
)
from models.report_card import model_card
from models.report_checks import Acceptance, LeftOut, Measured, Override
from models.validation.base import Figure, Finding, Line, Plot, Quantity, Table, shown
from models.validation.gate import Verdict

EVIL = "<script>alert('x')</script>|\"&$_$"
SECTIONS = ["gate", "candidates", "check-accuracy", "check-holes", "learning", "e0s", "data", "provenance"]
NO_BROWSER = "there is no Chromium to be driven by playwright"


def accuracy(noise: float) -> Measured:
    """Parity plots, bars and curves with a reference, as the checks make them."""
    generator = np.random.default_rng(0)
    reference = generator.normal(size=400)
    predicted = reference + generator.normal(scale=noise, size=400)
    r = np.linspace(0.5, 6.0, 40)
    curve = np.exp(-((r - 2.5) ** 2))
    return Measured(
        kind="accuracy",
        title="Errors on the target",
        explanation="On test structures.",
        quantities={
            "forces": Quantity(words="force MAE", unit="meV/Å", better="lower"),
            "stress": Quantity(words="stress MAE", unit="meV/Å³", better="lower"),
            "never": Quantity(words="what never applies", unit="", better="higher"),
        },
        finding=Finding(
            figures={
                "forces": Figure(value=1e3 * noise, interval=(900 * noise, 1200 * noise)),
                "stress": Figure(value=None),
            },
            plots=[
                Plot(
                    title="Forces",
                    x_label="reference, eV/Å",
                    y_label="predicted, eV/Å",
                    kind="parity",
                    lines=[Line(x=reference.tolist(), y=predicted.tolist())],
                ),
                Plot(
                    title="By element",
                    x_label="",
                    y_label="MAE, meV/Å",
                    kind="bars",
                    lines=[Line(x=["Na", "Cl"], y=[1e3 * noise, None])],
                ),
                Plot(
                    title="Na–Cl",
                    x_label="r, Å",
                    y_label="g(r)",
                    lines=[
                        Line(x=r.tolist(), y=(curve * (1 + noise)).tolist(), error=[0.1] * 40),
                        Line(x=r.tolist(), y=curve.tolist(), name="reference"),
                    ],
                ),
            ],
            tables=[
                Table(
                    title="Errors", columns=["", "MAE, meV/Å", "values"], rows=[["forces", 1e3 * noise, 1200]]
                )
            ],
            notes=["60 structures of 6 trajectories."],
        ),
    )


def holes(found: float) -> Measured:
    """Points with a line of its own, and structures to look at."""
    return Measured(
        kind="holes",
        title="Holes",
        explanation="Minima that no matter has.",
        quantities={"share": Quantity(words="holes", unit="%", better="lower", paired=True)},
        finding=Finding(
            figures={"share": Figure(value=found, samples={"NaCl/0": (found, 1.0)})},
            plots=[
                Plot(
                    title="NaCl",
                    x_label="volume",
                    y_label="energy",
                    kind="points",
                    log="x",
                    lines=[
                        Line(x=[0.5, 1.0, 2.0], y=[0.0, 1.0, 2.0]),
                        Line(x=[0.1], y=[-found], name="holes"),
                    ],
                )
            ],
            structures=[
                shown(bulk("NaCl", "rocksalt", a=5.6), "NaCl at 50 GPa", "0.4 of the covalent radii"),
                shown(molecule("H2O"), "Water", "came apart"),
            ],
        ),
    )


def verdict(figure: str, value: float | None, threshold: float, passed: bool) -> Verdict:
    return Verdict(
        figure=figure,
        check=f"what {figure} means",
        value=value,
        interval=None if value is None else (0.9 * value, 1.1 * value),
        threshold=threshold,
        unit="%",
        at_least=False,
        relative_to=None,
        evidence="could not be measured" if value is None else "6 samples",
        passed=passed,
    )


@pytest.fixture(scope="module")
def data() -> ReportData:
    epochs = [0, 1, 2, 3]
    return ReportData(
        title="nacl",
        description="Salt water",
        acceptances=[
            Acceptance(
                name="champion",
                subject="naive 3f9a3f9a3f",
                passed=True,
                verdicts=[verdict("accuracy.forces", 30.5, 70.0, True)],
                checks=[accuracy(0.03), holes(0.0)],
                left_out=[LeftOut(kind="crystals", why="there is nothing for crystals")],
            ),
            Acceptance(
                name="engine",
                passed=False,
                verdicts=[
                    verdict("holes.share", 12.5, 5.0, False),
                    verdict("conservation.drift", None, 5.0, False),
                ],
                checks=[accuracy(0.05), holes(12.5)],
            ),
            Acceptance(name="foundation", checks=[accuracy(0.09)]),
        ],
        campaign=CampaignPart(
            verdict=Promotion(promoted=True, summary="naive is nacl@champion."),
            candidates=[
                Candidate(name="foundation", role="foundation", forces=90.0),
                Candidate(
                    name="naive", role="champion", forces=30.5, forces_interval=(28.0, 33.0), seconds=171.0
                ),
                Candidate(name="small", role="student", forces=50.8, trainable_parameters=7504),
            ],
            learning_curves=[
                LearningCurve(
                    name="naive", epoch=epochs, loss=[2.0, 1.0, 0.5, 0.4], forces=[90.0, 50.0, 40.0, 31.0]
                )
            ],
            e0s=E0Fit(
                policy="estimated",
                e0s={1: -10.7, 8: -102.5},
                shifts={1: 0.213, 8: -0.871},
                rank=1,
                n_elements=2,
                condition=12.4,
                null_space=["+1 O −2 H"],
                residual_before=412.0,
                residual_after=9.1,
            ),
        ),
        datasets=[
            Dataset(
                name="labels",
                level_of_theory="GFN2-xTB",
                licence="CC-BY-4.0",
                frames={"train": 1480, "test": 120},
                trajectories={"train": 24},
                hash="3f9a" * 16,
            )
        ],
        provenance="nacl@engine\n└─ small",
        software={"torch": "2.13.0"},
        seeds={"split": 0},
        licences=["CC-BY-4.0"],
        bibtex="@misc{temper, note = {cite me}}",
        notes=["One seed."],
    )


class Page(HTMLParser):
    """What a browser would make of the page: ids, tags left open, text, and what it would load or link to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: set[str] = set()
        self.loaded: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.text += " "
        self.ids += [found["id"]] if "id" in found else []
        addresses = [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.links |= {v[1:] for v in addresses if v[0] == "#"}
        self.loaded += [v for v in addresses if v[0] != "#"]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text += text


@pytest.fixture(scope="module")
def html(data) -> str:
    return render(data)


def test_every_section_is_there_and_nothing_is_loaded(html):
    page = Page(html)
    assert page.open == []
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS
    assert page.links <= set(page.ids)
    assert page.loaded
    assert all(link.startswith("data:image/png;base64,") for link in page.loaded)
    assert page.tags.count("svg") == 4 + 2  # panels of the two checks, and of the learning curves
    assert page.tags.count("canvas") == 4


def test_verdicts_figures_and_notes_are_on_the_page(html):
    text = re.sub(r"\s+", " ", Page(html).text)
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


def test_a_line_with_a_name_is_drawn_once_where_all_models_agree(data):
    panels = re.findall(r"<svg.*?</svg>", render(replace(data, campaign=None)), re.DOTALL)
    curves, clouds = (next(p for p in panels if f'aria-label="{title}' in p) for title in ("Na–Cl", "NaCl:"))

    def strokes(panel: str) -> list[str]:
        long = re.findall(r'<path d="[^"]{200,}" clip-path="[^"]*" style="([^"]*)"', panel)
        return [match[1] for style in long if (match := re.search(r"stroke: (var\(--[\w-]+\))", style))]

    assert sorted(strokes(curves)) == [
        "var(--ink)",
        "var(--quiet)",
        "var(--series-0)",
        "var(--series-1)",
    ]
    assert "var(--ink)" not in re.sub(r"<text.*?</text>", "", clouds)


def test_words_along_an_axis_stand_at_one_place_for_all_models():
    def path(*names: str) -> Measured:
        line = Line(x=list(names), y=[float(len(names))] * len(names))
        plots = [Plot(title="band", x_label="", y_label="THz", lines=[line], kind="points")]
        return replace(accuracy(0.1), finding=Finding(figures={}, plots=plots))

    acceptances = [
        Acceptance(name="one", passed=True, checks=[path("Γ", "X")]),
        Acceptance(name="two", passed=True, checks=[path("X", "L", "Γ")]),
    ]
    (panel,) = re.findall(r"<svg.*?</svg>", render(ReportData(title="x", acceptances=acceptances)), re.DOTALL)
    assert re.findall(r"<text[^>]*>([ΓXL])</text>", panel) == ["Γ", "X", "L"]
    places = re.findall(r'x="([\d.]+)" y="[\d.]+" style="fill: var\(--series', panel)
    assert len(places) == 5
    assert len(set(places)) == 3


def test_what_is_not_finite_is_drawn_as_missing(data):
    broken = accuracy(0.03)
    nothing = Line(x=[0.0, 1.0], y=[None, 1e200])
    plots = [
        Plot(title=kind, x_label="", y_label="", kind=kind, log="xy", lines=[nothing])
        for kind in ("line", "points", "bars", "parity")
    ]
    atoms = molecule("H2O")
    atoms.positions[1] = np.nan
    finding = Finding(
        figures={"forces": Figure(value=None)}, plots=plots, structures=[shown(atoms, "gone", "not finite")]
    )
    acceptance = Acceptance(name="x", passed=False, checks=[replace(broken, finding=finding)])
    page = render(from_json(json.loads(to_json(ReportData(title="x", acceptances=[acceptance])))))
    assert page.count(">no values<") == 3
    assert "null,null,null" in page
    assert "NaN" not in page


def test_the_same_data_give_the_same_bytes(data, html):
    assert render(from_json(json.loads(to_json(data)))) == html


def test_what_is_missing_is_left_out_and_the_rest_stays(data):
    data = replace(data, acceptances=(), campaign=replace(data.campaign, learning_curves=None))
    everything = {"candidates", "e0s", "data", "provenance"}
    for section, without in {
        "candidates": replace(data, campaign=replace(data.campaign, candidates=())),
        "e0s": replace(data, campaign=replace(data.campaign, e0s=None)),
        "data": replace(data, datasets=None),
    }.items():
        page = Page(render(without))
        assert page.open == []
        assert page.links <= set(page.ids)
        assert {i for i in page.ids if i in SECTIONS} == everything - {section}


def test_a_model_without_a_campaign_has_the_same_report(data):
    alone = replace(data, campaign=None, acceptances=data.acceptances[1:])
    page = Page(render(alone))
    assert [i for i in page.ids if i in SECTIONS] == [
        s for s in SECTIONS if s not in ("candidates", "learning", "e0s")
    ]
    assert "validation of a model" in page.text
    assert "✗ engine" in page.text


def test_an_override_says_who_and_why(data):
    champion = replace(
        data.acceptances[1], passed=True, overridden=Override(by="Ada", reason="holes are far")
    )
    text = Page(render(replace(data, acceptances=[champion]))).text
    assert "Let through by Ada: holes are far" in text
    assert "Let through by Ada: holes are far" in model_card(data, champion)


def test_a_candidate_that_gave_nothing_finite_is_listed(data):
    broken = Candidate(name="broken", role="champion", forces=None)
    for candidates in ([broken], [replace(broken, role="foundation"), data.campaign.candidates[1]]):
        campaign = replace(data.campaign, candidates=candidates, learning_curves=None)
        text = Page(render(replace(data, acceptances=(), campaign=campaign))).text
        assert "broken" in text
        assert "below the foundation" not in text


def test_a_report_of_nothing_renders():
    page = Page(render(ReportData(title="nothing")))
    assert page.open == []
    assert [i for i in page.ids if i in SECTIONS] == ["provenance"]
    assert "script" not in page.tags


def test_text_is_escaped(data):
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
    page = Page(render(evil))
    assert page.open == []
    assert page.tags.count("script") == 2  # the elements of the viewer, and the viewer
    assert page.text.count("alert('x')") > 20
    card = model_card(evil, acceptance)
    assert "<script" not in card
    assert all(
        line.count("|") - line.count("\\|") == 5 for line in card.splitlines() if line.startswith("| ")
    )


def test_a_card_says_what_a_user_of_the_model_has_to_know(data):
    card = model_card(data, data.acceptances[1])
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "cc-by-4.0"
    assert head["library_name"] == "mace-torch"
    assert head["model_name"] == "nacl-engine"
    for wanted in (
        "# nacl: engine",
        'MACECalculator(model_paths="nacl-engine.model"',
        "| labels | GFN2-xTB | train 1480, test 120 | CC-BY-4.0 | `3f9a3f9a3f9a` |",
        "| what holes.share means | 12.5 % [11.2, 13.8] | ≤ 5 % | **missed** |",
        "| Errors on the target | force MAE, meV/Å | 50.0 | 45.0 to 60.0 |",
        "- Missed: what conservation.drift means, – where ≤ 5 % was asked for (could not be measured).",
        "- Could not be measured: stress MAE (Errors on the target).",
        "- torch: 2.13.0",
        "- seed of split: 0",
        "@misc{temper, note = {cite me}}",
    ):
        assert wanted in card
    several = model_card(replace(data, licences=["MIT", "ASL (academic)"]), data.acceptances[0])
    assert yaml.safe_load(several.split("---\n")[1])["license_name"] == "MIT and ASL (academic)"
    assert "- Not checked: crystals (there is nothing for crystals)." in several


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


def test_the_viewer_turns_structures_in_a_browser(html, tmp_path: Path):
    playwright = pytest.importorskip("playwright.sync_api", reason=NO_BROWSER)
    page_file = tmp_path / "report.html"
    page_file.write_text(html, encoding="utf-8")
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        path = Path(shutil.which("chromium") or driver.chromium.executable_path)
        if not path.exists():
            pytest.skip(NO_BROWSER)
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 375, "height": 700})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        canvas = page.locator("canvas").first
        canvas.scroll_into_view_if_needed()
        shown_at = [canvas.evaluate("c => c.toDataURL()")]
        canvas.focus()
        for key in ("ArrowLeft", "+"):
            page.keyboard.press(key)
            shown_at.append(canvas.evaluate("c => c.toDataURL()"))
        page.keyboard.press("0")
        assert canvas.evaluate("c => c.toDataURL()") == shown_at[0]
        box = canvas.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 100, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + 160, box["y"] + 120)
        page.mouse.up()
        shown_at.append(canvas.evaluate("c => c.toDataURL()"))
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as XYZ").first.click()
        saved = download.value.path().read_text(encoding="utf-8")
        browser.close()
    assert complaints == []
    assert len(set(shown_at)) == 4
    assert saved.startswith(
        '2\nLattice="0 2.8 2.8 2.8 0 2.8 2.8 2.8 0" pbc="T T T" Properties=species:S:1:pos:R:3\n'
    )
    assert saved.splitlines()[2] == "Na 0 0 0"
