from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pytest
from ase.build import bulk, molecule

from models.e0s import E0Fit
from models.report import (
    CampaignPart,
    Candidate,
    Dataset,
    LearningCurve,
    Promotion,
    ReportData,
    render,
)
from models.report_checks import Acceptance, LeftOut, Measured
from models.validation.base import Figure, Finding, Line, Plot, Quantity, Table, shown
from models.validation.gate import Verdict


@pytest.fixture(scope="session")
def accuracy() -> Callable[..., Measured]:
    """Makes parity plots, bars and curves with a reference, as the checks do."""

    def make(noise: float) -> Measured:
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
                        title="Errors",
                        columns=["", "MAE, meV/Å", "values"],
                        rows=[["forces", 1e3 * noise, 1200]],
                    )
                ],
                notes=["60 structures of 6 trajectories."],
            ),
        )

    return make


@pytest.fixture(scope="session")
def holes() -> Callable[..., Measured]:
    """Makes points with a line of their own, and structures to look at."""

    def make(found: float) -> Measured:
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

    return make


@pytest.fixture(scope="session")
def verdict() -> Callable[..., Verdict]:
    """Makes a line of a gate."""

    def make(figure: str, value: float | None, threshold: float, passed: bool) -> Verdict:
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

    return make


@pytest.fixture(scope="session")
def data(accuracy, holes, verdict) -> ReportData:
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


@pytest.fixture(scope="session")
def html(data) -> str:
    return render(data)


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


@pytest.fixture(scope="session")
def parsed() -> Callable[[str], Page]:
    """Reads a page as a browser would."""
    return Page
