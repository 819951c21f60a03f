"""What a fine-tuning changed of its foundation, weight by weight, and where in the network."""

from typing import ClassVar, Literal

from models.differences import difference, of_potential
from models.pattern import SPARSE, pattern, plots, table
from models.validation.base import Check, Figure, Finding, Quantity, Role, Subject
from models.weight_labels import labels


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
        return Finding(figures=figures, plots=plots(found), tables=[table(found)], notes=notes)
