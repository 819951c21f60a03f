"""The report of a campaign: one HTML file that needs nothing else and always has the same bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ase.data import chemical_symbols
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import TypeAdapter

from models import figures
from models.dynamics.speed import SpeedComparison
from models.e0s import E0Fit
from models.validation.bonds import Bonds
from models.validation.conservation import Conservation
from models.validation.errors import Errors, Parity
from models.validation.rdf import RdfComparison
from models.validation.stability import Stability

_TEMPLATE = "report.html.j2"
_THIN_SPACE = "\u202f"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the campaign promoted its champion: one sentence, then the reasons."""

    promoted: bool
    summary: str
    reasons: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One line of the ranking. Errors are MAEs on test structures: meV/Å and meV/atom.

    `replay_forces` is the force MAE against the foundation's own labels on the replay structures, which
    tells what has been forgotten; `replay_left_out` of them have elements that it gave up. `role` marks the
    baseline and the winner.
    """

    name: str
    role: Literal["foundation", "candidate", "champion"]
    forces: float
    forces_interval: tuple[float, float] | None = None
    energy: float | None = None
    replay_forces: float | None = None
    replay_left_out: int = 0
    trainable_parameters: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One gate: `value` must be at most (or at least) `threshold`."""

    subject: str
    name: str
    value: float | None
    threshold: float
    sense: Literal["at most", "at least"]
    unit: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Training loss and force MAE on the validation set (meV/Å) by epoch; `kept` is the epoch chosen."""

    name: str
    epoch: Sequence[int]
    loss: Sequence[float]
    forces: Sequence[float]
    kept: int | None = None


@dataclass(frozen=True, kw_only=True)
class Student:
    """The distilled engine: in `speeds` a is the teacher. Errors against the labels and the teacher."""

    name: str
    teacher: str
    parameters: int
    teacher_parameters: int
    speeds: Sequence[SpeedComparison]
    against_reference: Errors | None
    against_teacher: Errors | None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset: frames and trajectories of each part, its level of theory, licence and hash."""

    name: str
    level_of_theory: str
    licence: str
    frames: Mapping[str, int]
    trajectories: Mapping[str, int]
    hash: str


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything a report shows. A section that is None is left out with a line that says so.

    `errors`, `parity`, `rdfs`, `stability`, `bonds` and `conservation` are by the name of the model, and so
    are `conservation_failures`, why there is none. The RDFs share one reference.
    """

    campaign: str
    description: str
    verdict: Verdict
    candidates: Sequence[Candidate]
    checks: Sequence[Check] | None = None
    learning_curves: Sequence[LearningCurve] | None = None
    errors: Mapping[str, Errors] | None = None
    parity: Mapping[str, Parity] | None = None
    rdfs: Mapping[str, RdfComparison] | None = None
    stability: Mapping[str, Stability] | None = None
    bonds: Mapping[str, Bonds] | None = None
    conservation: Mapping[str, Conservation] | None = None
    conservation_failures: Mapping[str, str] = field(default_factory=dict)
    student: Student | None = None
    e0s: E0Fit | None = None
    datasets: Sequence[Dataset] | None = None
    provenance: str | None = None
    software: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()


def from_json(data: Any) -> ReportData:
    """The data of a report from what `dataclasses.asdict` and JSON made of it."""
    return TypeAdapter(ReportData).validate_python(data)


def render(data: ReportData) -> str:
    """The report as HTML: styles and figures (SVG) inside, no script, no link, no date."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "plain": _plain,
        "percent": _percent,
        "count": _count,
        "duration": _duration,
    }
    foundation = next((c for c in data.candidates if c.role == "foundation"), None)
    champion = next((c for c in data.candidates if c.role == "champion"), None)
    return environment.get_template(_TEMPLATE).render(
        data=data,
        foundation=foundation,
        champion=champion,
        symbols=chemical_symbols,
        style=Markup(figures.colours_css()),
        drawn={name: Markup(svg) for name, svg in _figures(data).items()},
    )


def _figures(data: ReportData) -> dict[str, str]:
    baseline = next((c for c in data.candidates if c.role == "foundation"), None)
    # The champion first: it has the same colour in every report.
    names = [c.name for c in sorted(data.candidates, key=lambda c: c.role != "champion")]
    names += [c.name for c in data.learning_curves or ()]
    for section in (data.errors, data.parity, data.rdfs):
        names += section or {}
    colours = figures.palette(names, baseline.name if baseline else None)
    drawn = {}
    if data.learning_curves:
        curves = {c.name: (c.epoch, c.loss, c.forces, c.kept) for c in data.learning_curves}
        drawn["learning"] = figures.learning(curves, baseline.forces if baseline else None, colours)
    if data.parity:
        drawn["parity"] = figures.parity(data.parity, colours)
    if data.errors:
        by_element = {
            name: {symbol: metric.mae for symbol, metric in errors.forces_by_element.items()}
            for name, errors in data.errors.items()
        }
        drawn["elements"] = figures.by_element(by_element, colours)
    if data.rdfs:
        drawn["rdfs"] = figures.rdfs(data.rdfs, colours)
    return drawn


def _number(value: float | None, digits: int = 3) -> str:
    """`digits` significant ones, trailing zeros kept so that columns align; "–" for None."""
    if value is None:
        return "–"
    text = f"{value:#.{digits}g}".rstrip(".")
    if "e+" in text:
        text = f"{value:,.0f}".replace(",", _THIN_SPACE)
    return "0" if value == 0 else text.replace("-", "−")


def _plain(value: float) -> str:
    """A setting as it was set."""
    return f"{value:g}".replace("-", "−")


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %".replace("-", "−")


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}".replace(",", _THIN_SPACE)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
