"""The figures of a report, as SVG text with deterministic bytes.

Colours are written as CSS variables, so that one figure reads on light and on dark ground.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from models.validation.errors import Parity
from models.validation.rdf import RdfComparison

# Okabe & Ito's colour-blind safe set, darkened or lightened a little to stand on white and on near-black.
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#b0609a", "#a67c00", "#3d9fd6")
_SERIES_DARK = ("#56b4e9", "#f0894a", "#2fc79c", "#e0a3cc", "#e3c04d", "#8fd0f5")
_INK = "#1a1b1e"
_FAINT = "#d9dbe0"
_QUIET = "#6b7079"

_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
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
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
}


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


def learning(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float], int | None]],
    baseline: float | None,
    colours: Mapping[str, str],
) -> str:
    """Loss and validation force MAE (meV/Å) by epoch, with the epoch kept; `baseline` is a MAE."""

    def draw(figure: Figure) -> None:
        loss, forces = figure.subplots(1, 2)
        for name, (epoch, losses, maes, kept) in curves.items():
            trained = [k for k, at in enumerate(epoch) if at > 0]  # before training there is no loss
            loss.plot([epoch[k] for k in trained], [losses[k] for k in trained], color=colours[name])
            forces.plot(epoch, maes, color=colours[name], label=name)
            if kept is not None:
                forces.plot(kept, maes[list(epoch).index(kept)], "o", color=colours[name], markersize=5)
        if baseline is not None:
            forces.axhline(baseline, color=_QUIET, linestyle="--", linewidth=1.0, label="foundation, on test")
        loss.set(title="Training loss", xlabel="epoch", ylabel="loss", yscale="log")
        forces.set(title="Validation force error", xlabel="epoch", ylabel="MAE, meV/Å", yscale="log")
        for axes in (loss, forces):
            axes.yaxis.set_major_formatter(_log_label)
            axes.yaxis.set_minor_formatter(_log_label)
        forces.legend(loc="upper right", bbox_to_anchor=(1.0, 0.97))

    return _svg("learning", (9.6, 3.2), draw)


def parity(models: Mapping[str, Parity], colours: Mapping[str, str]) -> str:
    """Predicted against reference for forces and energies, a panel for every model and kind."""
    in_one_row = len(models) <= 2
    rows, columns = (1, 2 * len(models)) if in_one_row else (2, len(models))

    def draw(figure: Figure) -> None:
        panels = figure.subplots(rows, columns, squeeze=False).reshape(2, len(models))
        for k, (name, points) in enumerate(models.items()):
            pairs = (
                (np.array(points.forces_reference), np.array(points.forces_predicted), "force, eV/Å"),
                (
                    1e3 * np.array(points.energy_reference),
                    1e3 * np.array(points.energy_predicted),
                    "energy, meV/atom",
                ),
            )
            for axes, (reference, predicted, label) in zip(panels[:, k], pairs, strict=True):
                axes.axline((0.0, 0.0), slope=1.0, color=_QUIET, linewidth=0.8)
                size = 5.0 if len(reference) > 500 else 12.0
                axes.scatter(
                    reference,
                    predicted,
                    s=size,
                    color=colours[name],
                    alpha=0.45,
                    linewidths=0,
                    rasterized=True,
                )
                axes.set(title=name, xlabel=f"reference {label}", ylabel="predicted" if k == 0 else "")
        for row in panels:
            limits = np.array([[*axes.get_xlim(), *axes.get_ylim()] for axes in row])
            for axes in row:
                axes.set(xlim=(limits.min(), limits.max()), ylim=(limits.min(), limits.max()), aspect="equal")
                axes.xaxis.set_major_locator(MaxNLocator(4))
                axes.yaxis.set_major_locator(MaxNLocator(4))

    width = min(9.6, 3.0 * columns)
    return _svg("parity", (width, rows * (width / columns + 0.35)), draw)


def by_element(models: Mapping[str, Mapping[str, float]], colours: Mapping[str, str]) -> str:
    """Force MAE (meV/Å) of every element, a bar for each model."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        symbols = sorted({symbol for errors in models.values() for symbol in errors})
        width = 0.8 / len(models)
        for k, (name, errors) in enumerate(models.items()):
            at = np.arange(len(symbols)) + (k - (len(models) - 1) / 2) * width
            heights = [errors.get(symbol, 0.0) for symbol in symbols]
            bars = axes.bar(at, heights, 0.9 * width, color=colours[name], label=name)
            axes.bar_label(
                bars, [f"{h:.0f}" if h else "" for h in heights], fontsize=8, color=_QUIET, padding=2
            )
        axes.set_xticks(range(len(symbols)), symbols)
        axes.set(title="Force error by element", ylabel="MAE, meV/Å")
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.1)
        axes.legend(ncols=len(models), loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)

    return _svg("elements", (9.6, 2.9), draw)


def rdfs(comparisons: Mapping[str, RdfComparison], colours: Mapping[str, str]) -> str:
    """A panel for every pair: the reference with its error band, every model over it, their EMDs above."""
    first = next(iter(comparisons.values()))
    columns = min(3, len(first.reference))
    rows = math.ceil(len(first.reference) / columns)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, reference in zip(panels, first.reference, strict=False):
            r, g, error = (np.array(values) for values in (reference.r, reference.g, reference.error))
            axes.fill_between(r, g - error, g + error, color=_QUIET, alpha=0.35, linewidth=0)
            axes.plot(r, g, color=_INK, linewidth=2.0)
            for name, comparison in comparisons.items():
                curve = next(c for c in comparison.model if c.pair == reference.pair)
                axes.plot(curve.r, curve.g, color=colours[name], linewidth=1.3)
            distances = " · ".join(f"{c.emd[reference.pair]:.3f}" for c in comparisons.values())
            axes.set_title(reference.pair.replace("-", "–"))
            axes.set_title(f"EMD {distances} Å", loc="right", fontsize=8, fontweight="normal", color=_QUIET)
            axes.set_ylim(bottom=0.0)
            axes.margins(x=0)
        for axes in panels[len(first.reference) :]:
            axes.set_axis_off()
        for axes in panels[max(0, len(first.reference) - columns) : len(first.reference)]:
            axes.set_xlabel("r, Å")
        figure.supylabel("g(r)" if first.kind == "g(r)" else "pair density, 1/Å", fontsize=9, color=_INK)
        lines = [Line2D([], [], color=_INK, linewidth=2.0, label="reference")]
        lines += [Line2D([], [], color=colours[name], label=name) for name in comparisons]
        figure.legend(handles=lines, loc="outside upper left", ncols=len(lines))

    return _svg("rdfs", (9.6, 2.2 * rows + 0.6), draw)


@FuncFormatter
def _log_label(value: float, _position: int | None) -> str:
    """Plain numbers at 1, 2, 3, 5 and 7 of every decade."""
    return f"{value:g}" if f"{value:e}"[0] in "12357" and math.isclose(value, float(f"{value:.0e}")) else ""


def _svg(name: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_visible(False)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", dpi=160, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{name}"', text, count=1)
    text = re.sub(r"(font: )?(\d+ )?([\d.]+px) [^;\"]*sans-serif[^;\"]*", r"font-size: \3", text)
    for k, colour in enumerate(_SERIES):
        text = text.replace(colour, f"var(--series-{k})")
    return text.replace(_INK, "var(--ink)").replace(_FAINT, "var(--line)").replace(_QUIET, "var(--quiet)")
