"""The figures of a report, as SVG text with deterministic bytes.

Colours are written as CSS variables, so that one figure reads on light and on dark ground. A panel is
small: a page sets as many side by side as there is room for, and on a phone each has the whole width.
"""

import html
import io
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from models.validation.base import Line, Plot

# Okabe & Ito's colour-blind safe set, darkened or lightened a little to stand on white and on near-black.
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#b0609a", "#a67c00", "#3d9fd6")
_SERIES_DARK = ("#56b4e9", "#f0894a", "#2fc79c", "#e0a3cc", "#e3c04d", "#8fd0f5")
_INK = "#1a1b1e"
_FAINT = "#d9dbe0"
_QUIET = "#6b7079"
_DASHES: Sequence[Any] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_MARKERS = ("x", "+", "^", "s")
_SAMPLES = ("—", "– –", "· ·", "– ·")  # of the dashes, in a legend
_SAMPLE_MARKERS = ("×", "+", "△", "□")
_FEW = 12  # points: a curve of them shows each one
_MANY = 300  # points: more of them are drawn as a picture
_EDGE, _LINE = 12.0, 12.0  # points: around a panel with its ticks, and a line of text
_TICKS = 5  # parts of an axis, at most
_IMMENSE = 1e30  # what is larger is drawn no more than what is not finite

_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "text.color": _INK,
    "lines.linewidth": 1.5,
}


@dataclass(frozen=True, kw_only=True)
class Key:
    """One entry of a legend: how a line is drawn, and its name; `colour` is CSS."""

    name: str
    colour: str
    sample: str


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Small panels with one legend: SVG by title."""

    legend: Sequence[Key]
    panels: Mapping[str, str]


@dataclass(frozen=True)
class _Drawn:
    """A line with its colour, and which of the named lines it is; 0 is a model's own."""

    line: Line
    colour: str
    number: int


def colours_css() -> str:
    """The rules that give every colour of a figure its value, on light and on dark ground."""
    light = "".join(f"--series-{k}:{colour};" for k, colour in enumerate(_SERIES))
    dark = "".join(f"--series-{k}:{colour};" for k, colour in enumerate(_SERIES_DARK))
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def palette(names: Sequence[str], baseline: str | None) -> dict[str, str]:
    """A colour for every model, the same in all figures; grey for the baseline."""
    others = [name for name in dict.fromkeys(names) if name != baseline]
    colours = {name: _SERIES[k % len(_SERIES)] for k, name in enumerate(others)}
    return colours if baseline is None else {baseline: _QUIET} | colours


def grid(panels: Mapping[str, Mapping[str, Plot]], colours: Mapping[str, str]) -> Grid:
    """A panel for every title, with the plots of that title by model.

    A line without a name has its model's colour. One with a name is drawn once, in ink, where it is the
    same for all models, and in the colours of the models where it is not.
    """
    numbers = _numbers(panels.values())
    return Grid(
        legend=_legend(panels.values(), colours, numbers),
        panels={title: _panel(panel, colours, numbers) for title, panel in panels.items()},
    )


def scatter(
    title: str,
    labels: tuple[str, str],
    points: Mapping[str, tuple[float, float]],
    kinds: Mapping[str, str],
    front: Collection[str],
    colours: Mapping[str, str],
) -> Grid:
    """One panel of points that are called by their keys, coloured by kind.

    Those on the `front` are filled; the others are hollow.
    """
    shown = dict.fromkeys(kinds[name] for name in points)
    about = f"{title}: {labels[1]} against {labels[0]}"

    def fill(axes: Axes) -> None:
        for name, (x, y) in points.items():
            colour = colours[kinds[name]]
            axes.scatter(x, y, s=26.0, edgecolors=colour, facecolors=colour if name in front else "none")
            axes.annotate(name, (x, y), (4, 4), textcoords="offset points", fontsize=7.0, color=_QUIET)
        axes.set(xlabel=_folded(labels[0], 32), ylabel=_folded(labels[1], 28))
        axes.margins(x=0.1, y=0.1)

    return Grid(
        legend=[
            *(Key(name=kind, colour=_themed(colours[kind]), sample="●") for kind in shown),
            Key(name="not on the front", colour=_themed(_QUIET), sample="○"),
        ],
        panels={title: _svg(about, (3.2, 2.6), fill)},
    )


def _legend(
    panels: Collection[Mapping[str, Plot]], colours: Mapping[str, str], numbers: Mapping[str, int]
) -> list[Key]:
    """Models first, then the lines with names."""
    plots = [(model, plot) for panel in panels for model, plot in panel.items()]
    models = dict.fromkeys(model for model, plot in plots if any(not line.name for line in plot.lines))
    keys = [Key(name=model, colour=_themed(colours[model]), sample="●") for model in models]
    for name, number in numbers.items():
        kind = next(plot.kind for _, plot in plots if any(line.name == name for line in plot.lines))
        samples = {"line": _SAMPLES, "bars": "■"}.get(kind, _SAMPLE_MARKERS)
        keys.append(Key(name=name, colour=_themed(_INK), sample=samples[(number - 1) % len(samples)]))
    return keys


def _numbers(panels: Iterable[Mapping[str, Plot]]) -> dict[str, int]:
    named = (line.name for panel in panels for plot in panel.values() for line in plot.lines if line.name)
    return {name: k for k, name in enumerate(dict.fromkeys(named), start=1)}


def _panel(panel: Mapping[str, Plot], colours: Mapping[str, str], numbers: Mapping[str, int]) -> str:
    first = next(iter(panel.values()))
    drawn = _lines(panel, colours, numbers)
    words = _words(panel, always=first.kind == "bars")
    about = f"{first.title}: {first.y_label} against {first.x_label or 'kind'}"
    if first.kind == "bars":
        return _bars(first, drawn, words, about)
    size = (3.2, 2.9) if first.kind == "parity" else (3.2, 2.25)

    def fill(axes: Axes) -> None:
        if not any(np.isfinite(_values(d.line.y)).any() for d in drawn):
            axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color=_QUIET)
        for line in drawn:
            if first.kind == "line":
                _curve(axes, line, words)
            else:
                _points(axes, line, words, small=first.kind == "parity")
        axes.set(xlabel=_folded(first.x_label, 32), ylabel=_folded(first.y_label, 28))
        if first.kind != "parity":
            _scale(axes, first.log, drawn, words)
            axes.margins(x=0.05 if first.kind != "line" or any(map(_few, drawn)) else 0.01)
            if words:
                axes.set_xticks(range(len(words)), labels=words)
        else:
            limits = [*axes.get_xlim(), *axes.get_ylim()]
            ends = [min(limits), max(limits)]
            axes.plot(ends, ends, color=_QUIET, linewidth=0.8)
            axes.set(xlim=ends, ylim=ends, aspect="equal")
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_locator(MaxNLocator(4))

    return _svg(about, size, fill)


def _lines(panel: Mapping[str, Plot], colours: Mapping[str, str], numbers: Mapping[str, int]) -> list[_Drawn]:
    """What is drawn, from the bottom to the top: the clouds that spread widest lie lowest."""
    own = [_Drawn(line, colours[m], 0) for m, plot in panel.items() for line in plot.lines if not line.name]
    named: dict[str, list[tuple[str, Line]]] = {}
    for model, plot in panel.items():
        for line in plot.lines:
            if line.name:
                named.setdefault(line.name, []).append((model, line))
    others = []
    for name, lines in named.items():
        common = lines[0][1]
        if all(line == common for _, line in lines):
            others.append(_Drawn(common, _INK, numbers[name]))
        else:
            others += [_Drawn(line, colours[model], numbers[name]) for model, line in lines]
    kind = next(iter(panel.values())).kind
    if kind == "parity":
        return others + sorted(own, key=_spread, reverse=True)
    # Reversed, so that the first model is seen best.
    return own + others if kind == "bars" else others + own[::-1]


def _spread(drawn: _Drawn) -> float:
    apart = np.abs(_values(drawn.line.y) - _values(drawn.line.x))
    return float(np.nan_to_num(apart).mean()) if len(apart) else 0.0


def _curve(axes: Axes, drawn: _Drawn, words: Sequence[str]) -> None:
    x, y = _places(drawn.line, words), _values(drawn.line.y)
    if drawn.line.error is not None:
        error = _values(drawn.line.error)
        if _few(drawn):
            axes.errorbar(x, y, error, fmt="none", ecolor=drawn.colour, elinewidth=0.9, capsize=2.0)
        else:
            axes.fill_between(x, y - error, y + error, color=drawn.colour, alpha=0.25, linewidth=0)
    style = _DASHES[max(0, drawn.number - 1) % len(_DASHES)]
    width = 1.8 if drawn.number == 1 else 1.3
    marker = "o" if _few(drawn) else "None"
    axes.plot(x, y, color=drawn.colour, linestyle=style, linewidth=width, marker=marker, markersize=4.0)


def _few(drawn: _Drawn) -> bool:
    """Whether each point of a curve is shown: a line by a name of its own, as a reference, has none."""
    return drawn.number == 0 and len(drawn.line.y) <= _FEW


def _points(axes: Axes, drawn: _Drawn, words: Sequence[str], *, small: bool) -> None:
    x, y = _places(drawn.line, words), _values(drawn.line.y)
    many = len(y) > _MANY
    if drawn.line.error is not None:
        error = _values(drawn.line.error)
        axes.errorbar(x, y, error, fmt="none", ecolor=drawn.colour, elinewidth=0.9, alpha=0.6)
    axes.scatter(
        x,
        y,
        s=(5.0 if many else 12.0) if small or many else 22.0,
        color=drawn.colour,
        marker="o" if drawn.number == 0 else _MARKERS[(drawn.number - 1) % len(_MARKERS)],
        alpha=0.45 if small or many else 0.8,
        linewidths=0 if drawn.number == 0 else 1.2,
        rasterized=many,
    )


def _bars(plot: Plot, drawn: Sequence[_Drawn], names: Sequence[str], about: str) -> str:
    lying = len(names) * len(drawn) > 14 or sum(map(len, names)) > 32
    height = max(2.25, 0.6 + 0.16 * len(names) * (len(drawn) + 0.5)) if lying else 2.25
    width = 0.8 / max(1, len(drawn))

    def fill(axes: Axes) -> None:
        for k, one in enumerate(drawn):
            at = _places(one.line, names) + (k - (len(drawn) - 1) / 2) * width
            values = np.nan_to_num(_values(one.line.y))
            error = None if one.line.error is None else np.nan_to_num(_values(one.line.error))
            style: Any = {"color": one.colour, "ecolor": _QUIET}
            if lying:
                axes.barh(at, values, 0.9 * width, xerr=error, **style)
            else:
                axes.bar(at, values, 0.9 * width, yerr=error, **style)
        across, along = (axes.yaxis, axes.xaxis) if lying else (axes.xaxis, axes.yaxis)
        across.set_ticks(range(len(names)), labels=names)
        axes.grid(visible=False, axis="y" if lying else "x")
        if lying:
            axes.invert_yaxis()
        along.set_label_text(_folded(plot.y_label, 32 if lying else 28))
        across.set_label_text(_folded(plot.x_label, 28 if lying else 32))
        if "y" in plot.log and any((_values(d.line.y) > 0).any() for d in drawn):
            (axes.set_xscale if lying else axes.set_yscale)("log")

    return _svg(about, (3.2, height), fill)


def _scale(axes: Axes, log: str, drawn: Sequence[_Drawn], words: Sequence[str]) -> None:
    for name, along in (("x", axes.xaxis), ("y", axes.yaxis)):
        values = [_values(d.line.y) if name == "y" else _places(d.line, words) for d in drawn]
        positive = [part[part > 0] for part in values]
        if name in log and any(len(part) for part in positive):
            (axes.set_xscale if name == "x" else axes.set_yscale)("log")
            low, high = (pick(pick(p) for p in positive if len(p)) for pick in (min, max))
            along.set_major_formatter(_plain_number)
            if high < 30 * low:  # less than a decade and a half has too few labels at its powers of ten
                along.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            along.set_minor_formatter(NullFormatter())


def _folded(label: str, width: int) -> str:
    """A long label on several lines."""
    return "\n".join(textwrap.wrap(label, width))


@FuncFormatter
def _plain_number(value: float, _position: int | None) -> str:
    return f"{value:g}"


def _words(panel: Mapping[str, Plot], *, always: bool) -> list[str]:
    """What stands along the first axis where it has words in place of numbers (`always` for bars)."""
    along = dict.fromkeys(x for plot in panel.values() for line in plot.lines for x in line.x)
    return [str(x) for x in along] if always or any(isinstance(x, str) for x in along) else []


def _places(line: Line, words: Sequence[str]) -> np.ndarray:
    """Where a line is on the first axis (n,); words stand at 0, 1, 2, …"""
    return np.array([words.index(str(x)) for x in line.x], dtype=float) if words else _values(line.x)


def _values(values: Sequence[Any]) -> np.ndarray:
    """Numbers (n,), NaN where there is none that could be drawn."""
    array = np.array([np.nan if value is None else value for value in values], dtype=float)
    return np.where(np.abs(array) < _IMMENSE, array, np.nan)


def _themed(text: str) -> str:
    """Colours as CSS variables."""
    for k, colour in enumerate(_SERIES):
        text = text.replace(colour, f"var(--series-{k})")
    return text.replace(_INK, "var(--ink)").replace(_FAINT, "var(--line)").replace(_QUIET, "var(--quiet)")


def _svg(about: str, size: tuple[float, float], fill: Callable[[Axes], None]) -> str:
    with rc_context(_STYLE | {"svg.hashsalt": about}):
        figure = Figure(figsize=size)
        figure.patch.set_visible(False)
        axes = figure.subplots()
        fill(axes)
        axes.patch.set_visible(False)
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(locator := axis.get_major_locator(), AutoLocator):
                locator.set_params(nbins=_TICKS)
        figure.subplots_adjust(**_frame(axes, size))
        out = io.StringIO()
        figure.savefig(out, format="svg", dpi=160, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r"(font: )?(\d+ )?([\d.]+px) [^;\"]*sans-serif", r"font-size: \3", text)
    text = re.sub(r"font-family: [^;\"]*; ?", "", text)
    text = re.sub(r'(?<= d=")[^"]*', _short_path, text)
    label = f'role="img" aria-label="{html.escape(about)}"'
    return _themed(re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', lambda _: label, text, count=1))


def _frame(axes: Axes, size: tuple[float, float]) -> dict[str, float]:
    """Where the edges of a panel are, as shares of its `size` (inches), so that all words have room.

    The page sets the words in a font of its own, so their widths are estimates in any case: matplotlib's own
    layouts measure them by drawing each panel twice more.
    """
    across, along = (
        [label.get_text() for label in axis.get_ticklabels()] for axis in (axes.xaxis, axes.yaxis)
    )
    width, height = 72.0 * size[0], 72.0 * size[1]
    left = _EDGE + _lines_of(axes.get_ylabel()) + max(map(_width, along), default=0.0)
    bottom = _EDGE + _lines_of(axes.get_xlabel()) + _LINE
    right = max(_EDGE / 2, _width(across[-1]) / 2 if across else 0.0)
    top = _EDGE / 2 + (_LINE if axes.yaxis.get_major_formatter().get_offset() else 0.0)
    return {
        "left": left / width,
        "bottom": bottom / height,
        "right": 1 - right / width,
        "top": 1 - top / height,
    }


def _width(text: str) -> float:
    """About how wide (points) a label at a tick is."""
    return 0.6 * _STYLE["xtick.labelsize"] * len(text)


def _lines_of(label: str) -> float:
    """How much room (points) the name of an axis takes."""
    return _LINE * (1 + label.count("\n")) if label else 0.0


def _short_path(path: re.Match[str]) -> str:
    """To a hundredth of a point, which is not seen, and on one line."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path[0]).replace("\n", "")
