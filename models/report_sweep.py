"""The sweep of a campaign, as a report shows it: the front of what can be had, and how the errors fell."""

from collections.abc import Mapping

from models import figures
from models.halving import Result
from models.validation.base import Line, Plot


def names(result: Result) -> list[str]:
    """What has a colour of its own: the kinds of strategies."""
    return list(dict.fromkeys(standing.kind for standing in sorted(result.standings, key=lambda s: s.name)))


def grid(result: Result, colours: Mapping[str, str]) -> figures.Grid:
    """Retention and cost against the error, by the numbers of the table; the error by epochs."""
    shown = {str(k): s for k, s in enumerate(result.standings, start=1) if s.error is not None}
    kinds = {number: s.kind for number, s in shown.items()}
    front = [number for number, s in shown.items() if s.on_front]
    error = "validation force MAE, meV/Å"
    axes = {
        "Error and forgetting": ("force MAE on the foundation's ground, meV/Å", "retention"),
        "Error and cost": ("training, CPU s", "cpu_seconds"),
    }
    scatters = [
        figures.scatter(
            title,
            (error, label),
            {n: (s.error, y) for n, s in shown.items() if s.error and (y := getattr(s, axis)) is not None},
            kinds,
            front,
            colours,
        )
        for title, (label, axis) in axes.items()
    ]
    curves = {
        kind: Plot(
            title="Error over rungs",
            x_label="epochs",
            y_label=error,
            lines=[
                Line(x=[x for x, _ in s.curve], y=[y for _, y in s.curve])
                for s in result.standings
                if s.kind == kind and s.curve
            ],
            log="xy",
        )
        for kind in names(result)
    }
    climbing = figures.grid({"Error over rungs": curves}, colours)
    panels = {title: svg for one in (*scatters, climbing) for title, svg in one.panels.items()}
    return figures.Grid(legend=scatters[0].legend, panels=panels)
