"""What a fine-tuning changed of its foundation, weight by weight, and where in the network."""

from typing import ClassVar, Literal

from models.differences import difference, of_potential
from models.pattern import DEGREE_OF_ELEMENT, LAYER, SPARSE, Pattern, pattern
from models.validation.base import Check, Figure, Finding, Line, Plot, Quantity, Role, Subject, Table
from models.weight_labels import DIMENSIONS, labels

_MOST_BARS = 40  # of more groups only points are drawn


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
        if not found.sparse:
            said = f"more than {100.0 * SPARSE:.0f} % changed" if found.changed else "nothing changed"
            return Finding(figures=figures, notes=[*notes, f"There is no pattern to look at: {said}."])
        return Finding(figures=figures, plots=_plots(found), tables=[_table(found)], notes=notes)


def _plots(found: Pattern) -> list[Plot]:
    """The shares of changed weights by dimension, and what chance would have made of each."""
    return [
        Plot(
            title=f"By {dimension}",
            x_label="",
            y_label="changed weights, %",
            lines=[
                Line(x=names, y=[100.0 * g.share for g in groups]),
                Line(x=names, y=[100.0 * g.expected / g.weights for g in groups], name="by chance"),
            ],
            kind="bars" if len(groups) <= _MOST_BARS else "points",
        )
        for dimension in (*DIMENSIONS, DEGREE_OF_ELEMENT, LAYER)
        if len(groups := found.of(dimension)) > 1
        for names in [[g.name for g in groups]]
    ]


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
