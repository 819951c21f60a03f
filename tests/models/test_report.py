import json
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from ase import Atoms

from models.dynamics.limits import Failure, Reason
from models.dynamics.speed import SpeedComparison
from models.e0s import E0Fit
from models.graphs import Prediction
from models.report import (
    Candidate,
    Check,
    Dataset,
    LearningCurve,
    ReportData,
    Student,
    Verdict,
    from_json,
    render,
)
from models.validation.bonds import Bonds
from models.validation.conservation import Conservation, Drift
from models.validation.errors import Errors, Parity, errors, parity
from models.validation.rdf import RdfComparison, compare
from models.validation.stability import Stability

OPTIONAL = [
    "checks",
    "learning_curves",
    "errors",
    "parity",
    "rdfs",
    "stability",
    "bonds",
    "conservation",
    "student",
    "e0s",
    "datasets",
    "provenance",
]
SECTIONS = [
    "candidates",
    "checks",
    "learning",
    "errors",
    "structure",
    "dynamics",
    "student",
    "e0s",
    "data",
    "provenance",
]


def droplets(n: int, seed: int, bond: float = 0.96) -> list[Atoms]:
    """Frames of Na, Cl and five waters, placed at random with the shells of a solution."""
    generator = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        positions = [[0.0, 0.0, 0.0], [0.0, 0.0, generator.normal(2.7, 0.2)]]
        for _ in range(5):
            oxygen = generator.normal(size=3)
            oxygen *= generator.normal(2.5, 0.15) / np.linalg.norm(oxygen)
            positions.append(list(oxygen))
            positions += [list(oxygen + bond * v / np.linalg.norm(v)) for v in generator.normal(size=(2, 3))]
        frames.append(Atoms("NaCl" + "OH2" * 5, positions))
    return frames


def judged(noise: float, seed: int) -> tuple[Errors, Parity]:
    generator = np.random.default_rng(seed)
    structures, predictions = [], []
    for k, atoms in enumerate(droplets(40, 5)):
        atoms.arrays["REF_forces"] = generator.normal(scale=0.9, size=(len(atoms), 3))
        atoms.info |= {
            "REF_energy": -724.0 + generator.normal(scale=0.4),
            "trajectory": str(k // 5),
            "family": "x",
        }
        wrong = generator.normal(scale=noise, size=(len(atoms), 3)) * (
            1 + (atoms.numbers == 8)[:, None].astype(float)
        )
        structures.append(atoms)
        predictions.append(
            Prediction(
                energy=atoms.info["REF_energy"] + generator.normal(scale=noise),
                forces=atoms.arrays["REF_forces"] + wrong,
            )
        )
    return errors(predictions, structures), parity(predictions, structures)


def conserved(time_step: float) -> Drift:
    return Drift(
        time_step=time_step,
        duration_fs=500.0,
        n_replicas=4,
        drift=0.012 * time_step,
        slopes=[0.01 * time_step, -0.014 * time_step],
        fluctuation=0.03 * time_step**2,
    )


@pytest.fixture(scope="module")
def rdfs() -> dict[str, RdfComparison]:
    reference = [droplets(60, k) for k in range(4)]
    return {
        "pseudolabel replay": compare(reference, [droplets(60, k) for k in range(10, 14)]),
        "student": compare(reference, [droplets(60, k, bond=1.02) for k in range(20, 24)]),
    }


@pytest.fixture(scope="module")
def data(rdfs) -> ReportData:
    before, before_points = judged(0.21, 1)
    after, after_points = judged(0.055, 2)
    distilled, points = judged(0.08, 3)
    epochs = list(range(24))
    fading = np.exp(-np.array(epochs) / 6)
    hot = Failure(
        reason=Reason.TEMPERATURE, time_fs=412.0, value=3.1, limit=3.0, detail="930 K where 300 K was set"
    )
    return ReportData(
        campaign="nacl",
        description="Sodium chloride in water droplets, from GFN1-xTB to GFN2-xTB",
        verdict=Verdict(
            promoted=True,
            summary="pseudolabel replay is nacl@champion and its student nacl@engine: all 7 checks passed.",
            reasons=[
                "naive has a lower force error, but forgot more than the gate allows on replay structures"
            ],
        ),
        candidates=[
            Candidate(
                name="temper-gfn1",
                role="foundation",
                forces=202.4,
                forces_interval=(189.0, 214.0),
                energy=11.2,
                replay_forces=0.0,
            ),
            Candidate(
                name="naive",
                role="candidate",
                forces=53.1,
                forces_interval=(49.7, 57.2),
                energy=1.9,
                replay_forces=161.0,
                trainable_parameters=412_345,
                seconds=96.0,
            ),
            Candidate(
                name="pseudolabel replay",
                role="champion",
                forces=58.6,
                forces_interval=(54.0, 63.0),
                energy=2.3,
                replay_forces=31.5,
                trainable_parameters=412_345,
                seconds=171.0,
            ),
        ],
        checks=[
            Check(
                subject="pseudolabel replay",
                name="force MAE",
                value=58.6,
                threshold=141.7,
                sense="at most",
                unit="meV/Å",
                passed=True,
            ),
            Check(
                subject="student",
                name="speed against the teacher",
                value=2.7,
                threshold=3.0,
                sense="at least",
                unit="",
                passed=False,
            ),
        ],
        learning_curves=[
            LearningCurve(
                name="naive",
                epoch=epochs,
                loss=list(1.9 * fading + 0.1),
                forces=list(150 * fading + 52),
                kept=23,
            ),
            LearningCurve(
                name="pseudolabel replay",
                epoch=epochs,
                loss=list(2.2 * fading + 0.2),
                forces=list(140 * fading + 57),
                kept=20,
            ),
        ],
        errors={"temper-gfn1": before, "pseudolabel replay": after, "student": distilled},
        parity={"temper-gfn1": before_points, "pseudolabel replay": after_points, "student": points},
        rdfs=rdfs,
        stability={
            name: Stability(
                n_replicas=8,
                n_finished=8 - len(failed),
                fraction_finished=1 - len(failed) / 8,
                first_failure_fs=412.0 if failed else None,
                simulated_fs=8000.0,
                mean_temperature=303.0,
                reasons={"temperature too high": 1} if failed else {},
                failures=[*failed, *[None] * (8 - len(failed))],
            )
            for name, failed in {"pseudolabel replay": [], "student": [hot]}.items()
        },
        bonds={
            "pseudolabel replay": Bonds(
                n_bonds=80, n_replicas=8, fraction_whole=1.0, first_break_fs=None, breaks=[None] * 8
            ),
            "student": Bonds(
                n_bonds=80,
                n_replicas=8,
                fraction_whole=0.875,
                first_break_fs=300.0,
                breaks=["O3–H4 after 300 fs", *[None] * 7],
            ),
        },
        conservation={
            "pseudolabel replay": Conservation(short=conserved(0.25), long=conserved(0.5), order=2.01)
        },
        conservation_failures={"student": "replica 1 failed after 30.0 fs: energy not finite"},
        student=Student(
            name="small MACE",
            teacher="pseudolabel replay",
            parameters=31_072,
            teacher_parameters=412_345,
            speeds=[
                SpeedComparison(
                    n_replicas=1,
                    n_atoms=35,
                    steps=20,
                    seconds_per_step_a=0.0341,
                    seconds_per_step_b=0.0088,
                    ratio=3.9,
                    rounds=[(0.034, 0.009)],
                )
            ],
            against_reference=distilled,
            against_teacher=after,
            seconds=143.0,
        ),
        e0s=E0Fit(
            policy="estimated",
            e0s={1: -10.707, 8: -102.57, 11: -4.54, 17: -121.96},
            shifts={1: 0.213, 8: -0.871, 11: 0.044, 17: 0.044},
            rank=3,
            n_elements=4,
            condition=12.4,
            null_space=["+1 Na −1 Cl"],
            residual_before=412.0,
            residual_after=9.1,
        ),
        datasets=[
            Dataset(
                name="nacl-gfn2",
                level_of_theory="GFN2-xTB",
                licence="CC-BY-4.0",
                frames={"train": 480, "valid": 90, "test": 120},
                trajectories={"train": 24, "valid": 5, "test": 6},
                hash="3f9a" * 16,
            )
        ],
        provenance="nacl@engine\n└─ small MACE\n   └─ pseudolabel replay\n      └─ temper-gfn1",
        software={"torch": "2.13.0", "mace-torch": "0.3.16"},
        seeds={"split": 0, "training": 3},
        notes=["Timings were taken on a busy machine."],
    )


class Page(HTMLParser):
    """What a browser would make of the page: ids, tags left open, text, and what it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.loaded += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v[0] != "#"]
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
    assert page.loaded
    assert all(link.startswith("data:image/png;base64,") for link in page.loaded)
    assert "<script" not in html
    assert 'class="absent"' not in html
    assert html.count("<svg") == 4
    assert len(html.encode()) < 1_500_000


def test_the_numbers_are_on_the_page(html, rdfs):
    text = Page(html).text
    for wanted in ("Promoted", "58.6", "[54.0, 63.0]", "−71 %", "3.9× faster", "412\u202f345", "2.9 min"):
        assert wanted in text
    for wanted in (
        "temperature too high (1)",
        "✗ failed",
        "≥ 3.00",
        "+1 Na −1 Cl",
        "−0.8710",
        "3f9a3f9a3f9a",
        "replica 1 failed after 30.0 fs: energy not finite",
    ):
        assert wanted in text
    assert " · ".join(f"{c.emd['H-O']:.3f}" for c in rdfs.values()) in text
    assert "Timings were taken on a busy machine." in text


def test_the_same_data_give_the_same_bytes(data, html):
    assert render(data) == html


def test_a_missing_section_is_one_line_that_its_data_replace(data):
    bare = replace(data, conservation_failures={}, **dict.fromkeys(OPTIONAL))
    nothing = render(bare)
    assert nothing.count('class="absent"') == len(OPTIONAL)
    assert "<svg" not in nothing
    for section in OPTIONAL:
        page = render(replace(bare, **{section: getattr(data, section)}))
        assert page.count('class="absent"') == len(OPTIONAL) - 1, section
        assert len(page) > len(nothing)
        assert Page(page).open == []


def test_a_campaign_that_failed_early_has_a_report(data):
    bare = ReportData(
        campaign="nacl",
        description="",
        verdict=Verdict(
            promoted=False, summary="No candidate passed.", reasons=["force MAE 150 > 120 meV/Å"]
        ),
        candidates=data.candidates[:1],
    )
    page = Page(render(bare))
    assert "Not promoted" in page.text
    assert "force MAE 150 > 120 meV/Å" in page.text
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS


def test_text_is_escaped(data):
    evil = "<script>alert(1)</script>&"
    html = render(
        replace(
            data,
            campaign=evil,
            provenance=evil,
            verdict=Verdict(promoted=False, summary=evil, reasons=[evil]),
            parity={evil: data.parity["temper-gfn1"]},
            software={evil: evil},
        )
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 7


def test_data_survive_json(data):
    assert from_json(json.loads(json.dumps(asdict(data)))) == data
