"""The findings of several models side by side, as a report shows them: one part for every check."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
from ase.data import atomic_numbers

from models import figures
from models.validation.base import Finding, Plot, Quantity, Shown, Table
from models.validation.gate import Verdict


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a check found of one model, with the words to show it by."""

    kind: str
    title: str
    explanation: str
    quantities: Mapping[str, Quantity]
    finding: Finding


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A check that was not done, and why."""

    kind: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Override:
    """Who let a checkpoint through in spite of its verdicts, and for what reason."""

    by: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Approval:
    """Who decided on what had passed, where a campaign asks a person."""

    promote: bool
    by: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """The acceptance of one checkpoint.

    Attributes:
        name: of the model, such as champion.
        subject: which checkpoint it is, in one line.
        passed: None for a model that is only there to be compared with.
        overridden: who let it through though it had not passed.
        approval: who decided on it after it had passed; None where nobody is asked, or has answered yet.
        verdicts: the lines of the gate.
        checks: what was measured, in the order of the report.
        left_out: what was not.
    """

    name: str
    subject: str = ""
    passed: bool | None = None
    overridden: Override | None = None
    approval: Approval | None = None
    verdicts: Sequence[Verdict] = ()
    checks: Sequence[Measured] = ()
    left_out: Sequence[LeftOut] = ()

    @property
    def missed(self) -> list[Verdict]:
        """The lines of the gate that do not hold."""
        return [verdict for verdict in self.verdicts if not verdict.passed]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model's figure; `passed` where the gate asked for something."""

    value: float | None
    interval: tuple[float, float] | None
    passed: bool | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity of a check, with a cell for each of its models; None where it does not apply."""

    quantity: Quantity
    cells: Sequence[Cell | None]


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Tables with the same title and columns, by model; `formats` says what each column holds."""

    title: str
    columns: Sequence[str]
    formats: Sequence[Literal["words", "exact", "measured"]]
    rows: Mapping[str, Sequence[Sequence[Any]]]

    @property
    def long(self) -> bool:
        """Whether it is folded away at first."""
        return sum(map(len, self.rows.values())) > 16


@dataclass(frozen=True, kw_only=True)
class Card:
    """A structure in a viewer. Positions are null where they are not finite."""

    model: str
    title: str
    text: str
    formula: str
    atoms: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Section:
    """Everything that one check found of all models; it stands at the anchor `check-<kind>`."""

    kind: str
    title: str
    explanation: str
    models: Sequence[str]
    verdicts: Sequence[tuple[str, Verdict]]
    rows: Sequence[Row]
    plots: figures.Grid
    tables: Sequence[Joined]
    notes: Mapping[str, Sequence[str]]
    cards: Sequence[Card]

    @property
    def missed(self) -> bool:
        """Whether a threshold on it was missed by any model."""
        return any(not verdict.passed for _, verdict in self.verdicts)


class Each(Protocol):
    """How a function is called for each of several things: `map`, or what does some of that elsewhere."""

    def __call__(self, function: Callable[[str], Section], things: Sequence[str], /) -> Iterable[Section]:
        """What the function returns for each, in their order."""
        ...


def sections(
    acceptances: Sequence[Acceptance], colours: Mapping[str, str], each: Each = map
) -> Iterable[Section]:
    """One section for every kind of check that was done of any model, in the models' own order."""
    order: list[str] = []
    by_kind: dict[str, dict[str, Measured]] = {}
    for acceptance in acceptances:
        at = 0
        for measured in acceptance.checks:
            if measured.kind not in by_kind:
                order.insert(at, measured.kind)
            at = order.index(measured.kind) + 1
            by_kind.setdefault(measured.kind, {})[acceptance.name] = measured
    return each(partial(_section, by_kind, acceptances, colours), order)


def _section(
    by_kind: Mapping[str, Mapping[str, Measured]],
    acceptances: Sequence[Acceptance],
    colours: Mapping[str, str],
    kind: str,
) -> Section:
    found = by_kind[kind]
    first = next(iter(found.values()))
    verdicts = [(a.name, v) for a in acceptances for v in a.verdicts if v.figure.partition(".")[0] == kind]
    findings = {model: measured.finding for model, measured in found.items()}
    return Section(
        kind=kind,
        title=first.title,
        explanation=first.explanation,
        models=list(found),
        verdicts=verdicts,
        rows=_rows(first.quantities, findings, verdicts, kind),
        plots=figures.grid(_panels(findings), colours),
        tables=_tables(findings),
        notes=_notes(findings),
        cards=[_card(model, one) for model, finding in findings.items() for one in finding.structures],
    )


def _rows(
    quantities: Mapping[str, Quantity],
    findings: Mapping[str, Finding],
    verdicts: Iterable[tuple[str, Verdict]],
    kind: str,
) -> list[Row]:
    held: dict[tuple[str, str], bool] = {}
    for model, verdict in verdicts:
        held[model, verdict.figure] = held.get((model, verdict.figure), True) and verdict.passed
    rows = []
    for name, quantity in quantities.items():
        cells = []
        for model, finding in findings.items():
            figure = finding.figures.get(name)
            passed = held.get((model, f"{kind}.{name}"))
            cells.append(
                None if figure is None else Cell(value=figure.value, interval=figure.interval, passed=passed)
            )
        if any(cell is not None for cell in cells):
            rows.append(Row(quantity=quantity, cells=cells))
    return rows


def _panels(findings: Mapping[str, Finding]) -> dict[str, dict[str, Plot]]:
    """By title, then by model."""
    panels: dict[str, dict[str, Plot]] = {}
    for model, finding in findings.items():
        for plot in finding.plots:
            panels.setdefault(plot.title, {})[model] = plot
    return panels


def _tables(findings: Mapping[str, Finding]) -> list[Joined]:
    joined: dict[tuple[str, ...], dict[str, Table]] = {}
    for model, finding in findings.items():
        for table in finding.tables:
            joined.setdefault((table.title, *table.columns), {})[model] = table
    return [
        Joined(
            title=title,
            columns=columns,
            formats=[
                _format([row[k] for table in tables.values() for row in table.rows])
                for k in range(len(columns))
            ],
            rows={model: table.rows for model, table in tables.items()},
        )
        for (title, *columns), tables in joined.items()
    ]


def _format(column: Sequence[str | float | None]) -> Literal["words", "exact", "measured"]:
    there = [item for item in column if not isinstance(item, str)]
    if not column or len(there) < len(column):
        return "words"
    known = [item for item in there if item is not None and np.isfinite(item)]
    exact = all(math.isclose(item, float(f"{item:.4g}"), rel_tol=1e-9) for item in known)
    return "exact" if exact else "measured"


def _notes(findings: Mapping[str, Finding]) -> dict[str, list[str]]:
    """The models of every note, so that what holds for all is said once."""
    notes: dict[str, list[str]] = {}
    for model, finding in findings.items():
        for note in finding.notes:
            notes.setdefault(note, []).append(model)
    return notes


def _card(model: str, structure: Shown) -> Card:
    counts = {symbol: list(structure.symbols).count(symbol) for symbol in dict.fromkeys(structure.symbols)}
    return Card(
        model=model,
        title=structure.title,
        text=structure.text,
        formula="".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in counts.items()),
        atoms={
            "numbers": [atomic_numbers[symbol] for symbol in structure.symbols],
            "positions": [[x if np.isfinite(x) else None for x in row] for row in structure.positions],
            "cell": structure.cell if any(structure.pbc) else None,
            "pbc": structure.pbc,
        },
    )
