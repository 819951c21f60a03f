"""The report of a campaign, a sweep or one model: HTML that needs nothing else, always the same bytes."""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from markupsafe import Markup
from pydantic import TypeAdapter

from models import figures, report_rounds, report_sweep
from models.e0s import E0Fit
from models.halving import Result
from models.report_checks import Acceptance, Each, Section, sections
from models.report_rounds import Rounds
from models.templates import template
from models.validation.base import Line, Plot

_HERE = Path(__file__).parent
_THIN_SPACE = "\u202f"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """Whether the campaign promoted its champion, in one sentence."""

    promoted: bool
    summary: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One line of the ranking. Errors are MAEs on test structures: meV/Å and meV/atom; None: not measured.

    `replay_forces` is the force MAE against the foundation's own labels on the replay structures, which
    tells what has been forgotten. `role` marks the baseline, the winner, and the student that learnt from it.
    """

    name: str
    role: Literal["foundation", "candidate", "champion", "student"]
    forces: float | None
    forces_interval: tuple[float, float] | None = None
    energy: float | None = None
    replay_forces: float | None = None
    trainable_parameters: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Training loss and force MAE on the validation set (meV/Å) by epoch."""

    name: str
    epoch: Sequence[int]
    loss: Sequence[float]
    forces: Sequence[float]


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
class CampaignPart:
    """What a campaign has beside the acceptances of its models. A section that is None is left out."""

    verdict: Promotion
    candidates: Sequence[Candidate] = ()
    learning_curves: Sequence[LearningCurve] | None = None
    e0s: E0Fit | None = None
    rounds: Rounds | None = None


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything a report shows. A section without data is left out.

    Attributes:
        title: the name of the campaign, or of the model.
        description: one line.
        acceptances: of all models, the most important one first; those without verdicts for comparison.
        campaign: None where one model was validated without a campaign.
        sweep: of strategies and settings, where there was one.
        licences: every licence of anything that the models were made from.
        bibtex: the citations of all that, as one BibTeX file.
    """

    title: str
    description: str = ""
    acceptances: Sequence[Acceptance] = ()
    campaign: CampaignPart | None = None
    sweep: Result | None = None
    datasets: Sequence[Dataset] | None = None
    provenance: str | None = None
    software: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    licences: Sequence[str] = ()
    bibtex: str = ""
    notes: Sequence[str] = ()


_REPORT = TypeAdapter(ReportData)


def from_json(data: Any) -> ReportData:
    """The data of a report from what `to_json` or `dataclasses.asdict` made of it.

    JSON has no NaN: a null in a list of numbers is read as one.
    """
    return _REPORT.validate_python(_with_nan(data))


def to_json(data: ReportData) -> str:
    """Everything in a report as JSON, so that a script can read figures and verdicts; NaN becomes null."""
    # Without warnings: a whole number may stand where a number or a word is meant.
    return _REPORT.dump_json(data, indent=1, warnings=False).decode()


def render(data: ReportData, each: Each = map) -> str:
    """The report as HTML: styles, figures (SVG) and the viewer of structures inside, no link out, no date.

    `each` draws the sections, which takes most of the time. A browser is told to run the viewer alone and to
    fetch nothing, should anything slip through the escaping.
    """
    colours = _colours(data)
    drawn = sections(data.acceptances, colours, each)
    campaign = data.campaign
    candidates = campaign.candidates if campaign else ()
    learning = _learning(data, colours)  # maybe while `each` draws
    rounds_plots = report_rounds.grid(campaign.rounds, colours) if campaign and campaign.rounds else None
    sweep_plots = report_sweep.grid(data.sweep, colours) if data.sweep else None
    checks = list(drawn)
    viewer = (_HERE / "viewer.js").read_text(encoding="utf-8")
    return _PAGE.render(
        data=data,
        campaign=campaign,
        judged=[a for a in data.acceptances if a.passed is not None],
        sections=checks,
        foundation=next((c for c in candidates if c.role == "foundation"), None),
        champion=next((c for c in candidates if c.role == "champion"), None),
        learning=learning,
        rounds=campaign.rounds if campaign else None,
        rounds_plots=rounds_plots,
        sweep_plots=sweep_plots,
        symbols=chemical_symbols,
        style=Markup(figures.colours_css()),
        viewer=Markup(viewer),
        viewer_digest=base64.b64encode(hashlib.sha256(f"\n{viewer}\n".encode()).digest()).decode(),
        elements=_elements(checks),
    )


def number(value: float | None, digits: int = 3) -> str:
    """`digits` significant ones, trailing zeros kept so that columns align; "–" for what is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    text = f"{value:#.{digits}g}".rstrip(".")
    mantissa, _, exponent = text.partition("e")
    if exponent and 0 < int(exponent) < 7:
        text = f"{value:,.0f}".replace(",", _THIN_SPACE)
    elif exponent:
        text = f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return text.replace("-", "−")


def _value(item: str | float | None, exact: bool) -> str:
    """What stands in a table: words as they are, numbers as they were set or with four digits."""
    if isinstance(item, str):
        return item
    if not exact or item is None or not math.isfinite(item):
        return number(item, 4)
    return _count(round(item)) if math.isclose(item, round(item)) and abs(item) < 1e9 else _plain(item)


def _plain(limit: float) -> str:
    """A limit as it was set."""
    return f"{limit:g}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %".replace("-", "−")


def _count(n: int | None) -> str:
    return "–" if n is None else f"{n:,}".replace(",", _THIN_SPACE).replace("-", "−")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _colours(data: ReportData) -> dict[str, str]:
    """By name of model. An acceptance has the colour of the candidate whose checkpoint it is of."""
    candidates = data.campaign.candidates if data.campaign else ()
    curves = (data.campaign.learning_curves if data.campaign else None) or ()
    by_role = {c.role: c.name for c in candidates if c.role != "candidate"}
    same = {"champion": by_role.get("champion"), "engine": by_role.get("student")}
    known = {a.name: same.get(a.name) or a.name for a in data.acceptances}
    compared = [a.name for a in data.acceptances if a.passed is None]
    names = [*known.values(), *(c.name for c in candidates), *(c.name for c in curves)]
    if data.campaign and data.campaign.rounds:
        names += report_rounds.names(data.campaign.rounds)
    if data.sweep:
        names += report_sweep.names(data.sweep)
    colours = figures.palette(names, by_role.get("foundation", next(iter(compared), None)))
    return colours | {name: colours[other] for name, other in known.items()}


def _learning(data: ReportData, colours: Mapping[str, str]) -> figures.Grid | None:
    if data.campaign is None or not data.campaign.learning_curves:
        return None
    panels: dict[str, dict[str, Plot]] = {"Training loss": {}, "Validation force error": {}}
    for curve in data.campaign.learning_curves:
        first = 1 if curve.epoch[0] == 0 else 0  # before training there is no loss
        for (title, panel), label, line in zip(
            panels.items(),
            ("loss", "MAE, meV/Å"),
            (Line(x=curve.epoch[first:], y=curve.loss[first:]), Line(x=curve.epoch, y=curve.forces)),
            strict=True,
        ):
            panel[curve.name] = Plot(title=title, x_label="epoch", y_label=label, lines=[line], log="y")
    return figures.grid(panels, colours)


def _elements(checks: Sequence[Section]) -> dict[int, tuple[str, str, float]]:
    """Symbol, colour and covalent radius (Å) of every element that is shown."""
    numbers = {z for section in checks for card in section.cards for z in card.atoms["numbers"]}
    return {
        z: (
            chemical_symbols[z],
            "#" + "".join(f"{round(255 * part):02x}" for part in jmol_colors[z]),
            round(float(covalent_radii[z]), 2),
        )
        for z in sorted(numbers)
    }


def _with_nan(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _with_nan(item) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [math.nan if item is None else _with_nan(item) for item in data]
    return data


_PAGE = template(  # compiled with the module, while children compute
    "report.html.j2",
    {
        "number": number,
        "percent": _percent,
        "count": _count,
        "duration": _duration,
        "plain": _plain,
        "value": _value,
        "svg": Markup,
    },
    is_html=True,
)
