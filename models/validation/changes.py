"""What a fine-tuning changed of its foundation, weight by weight, and where in the network."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from models.differences import Difference, difference, of_potential
from models.pattern import DEGREE_OF_ELEMENT, SPARSE, Group, Pattern, pattern
from models.validation.base import Check, Figure, Finding, Line, Plot, Quantity, Role, Subject, Table
from models.weight_labels import DIMENSIONS, NUMBERED, labels


class Changes(Check):
    """The share of weights that are not the foundation's and, of a sparse change, its pattern."""

    title: ClassVar = "Changed weights"
    explanation: ClassVar = (
        "How many of the foundation's weights were changed, and where. Each group of weights is compared with"
        " a random mask that changes as many weights of every layer; * marks what chance would do in at most"
        " 5 % of cases, all groups taken together."
    )
    needs: ClassVar[tuple[Role, ...]] = ("foundation",)
    quantities: ClassVar = {"share": Quantity(words="changed weights", unit="%", better="lower")}

    kind: Literal["changes"] = "changes"

    def measure(self, subject: Subject) -> Finding:
        """Compare with the foundation's file, in the potential's own elements and heads."""
        compared = of_potential(subject.files["foundation"], subject.potential)
        whole = difference(compared)
        figures = {"share": Figure(value=100.0 * whole.share)}
        notes = [f"{whole.changed} of {whole.weights} weights are not the foundation's."]
        if anew := [layer.name for layer in whole.layers if layer.stored_anew]:
            notes.append(f"{len(anew)} layers are new or of another shape, and count as changed.")
        found = pattern(compared.changed(), labels(compared.network))
        if found.left_out:
            notes.append(
                f"No weight of {', '.join(found.left_out)} was trained; without these elements "
                f"{100.0 * found.share:.3g} % changed, and the pattern is of the others."
            )
        by_layer = _layers(whole)
        if not found.sparse:
            said = f"more than {100.0 * SPARSE:.0f} % changed" if found.changed else "nothing changed"
            notes.append(f"There is no pattern to look at: {said}.")
            return Finding(figures=figures, tables=[by_layer], notes=notes)
        return Finding(figures=figures, plots=_plots(found), tables=[_table(found), by_layer], notes=notes)


def _plots(found: Pattern) -> list[Plot]:
    """The shares of changed weights by dimension, and what chance would have made of each."""
    shown = {dimension: found.of(dimension) for dimension in (*DIMENSIONS, DEGREE_OF_ELEMENT)}
    return [_plot(dimension, groups) for dimension, groups in shown.items() if len(groups) > 1]


def _plot(dimension: str, groups: Sequence[Group]) -> Plot:
    names = [group.name for group in groups]
    along = [float(name) for name in names] if dimension in NUMBERED else names
    return Plot(
        title=f"By {dimension}",
        x_label=dimension if dimension in NUMBERED else "",
        y_label="changed weights, %",
        lines=[
            Line(x=along, y=[100.0 * group.share for group in groups]),
            Line(x=along, y=[100.0 * group.expected / group.weights for group in groups], name="by chance"),
        ],
        kind="points" if dimension in NUMBERED else "bars",
    )


def _layers(whole: Difference) -> Table:
    """Every layer: how many of its weights changed, and how far."""
    return Table(
        title="Changed weights by layer",
        columns=["", "weights", "changed, %", "largest change", "norm of the change over that before"],
        rows=[
            [one.name, one.weights, 100.0 * one.changed / one.weights, one.largest, one.relative]
            for one in whole.layers
        ],
    )


def _table(found: Pattern) -> Table:
    """Every group of the dimensions with few, and those that stand out of the others."""
    return Table(
        title="Changed weights by what they belong to",
        columns=["", "", "weights", "changed, %", "by chance, %", "times chance", "95 %", "p, adjusted"],
        rows=[
            [
                g.dimension,
                g.name + (" *" if g.stands_out else ""),
                g.weights,
                100.0 * g.share,
                100.0 * g.expected / g.weights,
                g.enrichment,
                "–" if g.interval is None else f"{g.interval[0]:.3g} to {g.interval[1]:.3g}",
                g.adjusted,
            ]
            for g in found.listed
        ],
    )
