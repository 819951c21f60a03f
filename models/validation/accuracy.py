"""How far a potential is from labels: on the target, on the foundation's own ground, and from its teacher."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from ase import Atoms

from models.graphs import Prediction, graphs, predict
from models.potentials import load
from models.pseudolabels import pseudolabel
from models.validation.base import (
    Check,
    Figure,
    Finding,
    Line,
    Plot,
    Quantity,
    Role,
    Subject,
    Table,
    figure,
    shown,
)
from models.validation.errors import (
    Metric,
    by_trajectory,
    differences,
    errors,
    parity,
    stress_differences,
    trajectory_names,
)

_WORST = 3  # structures that a person gets to see

_QUANTITIES = {
    "forces": Quantity(words="force MAE", unit="meV/Å", better="lower", paired=True),
    "forces_p99": Quantity(words="99th percentile of force errors", unit="meV/Å", better="lower"),
    "energy": Quantity(words="energy MAE", unit="meV/atom", better="lower", paired=True),
    "stress": Quantity(words="stress MAE", unit="meV/Å³", better="lower", paired=True),
}


class Accuracy(Check):
    """Errors on the test structures, which were never trained on."""

    title: ClassVar = "Errors on the target"
    explanation: ClassVar = (
        "Mean absolute errors on test structures of trajectories that nothing was trained on. Intervals: "
        "95 % of a bootstrap over trajectories. The 99th percentile is of the errors of single components of "
        "forces: what a mean hides, and dynamics runs into."
    )
    needs: ClassVar[tuple[Role, ...]] = ("test",)
    quantities: ClassVar = _QUANTITIES
    version: ClassVar[int] = 2

    kind: Literal["accuracy"] = "accuracy"

    def measure(self, subject: Subject) -> Finding:
        """Errors of energy, forces and stress; by element and family; the worst structures."""
        return against_labels(subject, subject.structures("test"), worst=True)


class Retention(Check):
    """Errors on replay structures against labels at the foundation's own level."""

    title: ClassVar = "Retention"
    explanation: ClassVar = (
        "Errors on the foundation's own ground, against labels at its level of theory: what fine-tuning "
        "has cost there. A ratio to the foundation of 1 means that nothing was forgotten."
    )
    needs: ClassVar[tuple[Role, ...]] = ("replay_test",)
    quantities: ClassVar = {
        "forces": Quantity(
            words="force MAE on the foundation's own ground", unit="meV/Å", better="lower", paired=True
        )
    }

    kind: Literal["retention"] = "retention"

    def measure(self, subject: Subject) -> Finding:
        """Force errors only: energies of two levels of theory differ by their E0s."""
        found = against_labels(subject, subject.structures("replay_test"), worst=False)
        return Finding(
            figures={"forces": found.figures["forces"]},
            plots=[plot for plot in found.plots if plot.title.startswith("Force")],
            tables=[_of_forces(table) for table in found.tables if "energy" not in table.title],
            notes=found.notes,
        )


class Imitation(Check):
    """Errors of a student against its teacher, on the test structures."""

    title: ClassVar = "Student against teacher"
    explanation: ClassVar = "The same structures, but measured against what the teacher says of them."
    needs: ClassVar[tuple[Role, ...]] = ("test", "teacher")
    quantities: ClassVar = {
        "forces": Quantity(words="force MAE against the teacher", unit="meV/Å", better="lower", paired=True),
        "energy": Quantity(
            words="energy MAE against the teacher", unit="meV/atom", better="lower", paired=True
        ),
    }

    kind: Literal["imitation"] = "imitation"

    def measure(self, subject: Subject) -> Finding:
        """Errors of energy and forces against the teacher's."""
        taught = pseudolabel(load(subject.files["teacher"]), subject.structures("test"))
        found = against_labels(subject, taught, worst=False)
        return Finding(
            figures={key: found.figures[key] for key in self.quantities},
            plots=[plot for plot in found.plots if plot.kind == "parity"],
            notes=found.notes,
        )


def against_labels(subject: Subject, frames: Sequence[Atoms], *, worst: bool) -> Finding:
    """Errors against the labels of `frames`; structures of elements that the potential lacks are left out."""
    potential = subject.potential
    structures = [atoms for atoms in frames if subject.knows(atoms)]
    notes = []
    if left_out := len(frames) - len(structures):
        lacking = sorted({symbol for atoms in frames for symbol in atoms.symbols} - set(potential.symbols))
        notes.append(
            f"{left_out} of {len(frames)} structures left out: it does not know {', '.join(lacking)}."
        )
    if not structures:
        return Finding(figures=dict.fromkeys(_QUANTITIES, Figure(value=None)), notes=notes)
    stress = any("REF_stress" in atoms.info for atoms in structures)
    predictions = predict(potential, graphs(structures, potential), stress=stress)
    try:
        found = errors(predictions, structures)
    except ValueError as failure:
        return Finding(figures=dict.fromkeys(_QUANTITIES, Figure(value=None)), notes=[*notes, f"{failure}."])
    energy, forces = differences(predictions, structures)
    parts: dict[str, tuple[Metric | None, Sequence[Any] | np.ndarray]] = {
        "forces": (found.forces, forces),
        "energy": (found.energy, energy),
        "stress": (found.stress, stress_differences(predictions, structures)),
    }
    names = trajectory_names(structures)
    figures = {
        key: figure(by_trajectory(names, values))
        for key, (metric, values) in parts.items()
        if metric is not None
    }
    off = np.abs(np.concatenate([np.ravel(part) for part in forces]))
    if np.isfinite(off).any():
        figures["forces_p99"] = Figure(value=float(np.nanpercentile(off, 99.0)))
    by_family = {"force": found.forces_by_family, "energy": found.energy_by_family}
    families = [
        Table(
            title=f"By family: {what}",
            columns=["family", *_heads(unit)],
            rows=[[name, *_row(metric)] for name, metric in by_family[what].items()],
        )
        for what, unit in (("force", "meV/Å"), ("energy", "meV/atom"))
        if len(by_family[what]) > 1
    ]
    summary: list[list[Any]] = [
        [f"{_QUANTITIES[key].words.removesuffix(' MAE')}, {_QUANTITIES[key].unit}", *_row(metric)]
        for key, (metric, _) in parts.items()
        if metric is not None
    ]
    return Finding(
        figures=figures,
        plots=[*_parity(predictions, structures), _elements(found.forces_by_element)],
        tables=[
            Table(title="Errors", columns=["", "MAE", "RMSE", "largest", "values"], rows=summary),
            *families,
        ],
        structures=_worst(structures, forces) if worst else (),
        notes=[*notes, f"{found.n_structures} structures of {found.n_trajectories} trajectories."],
    )


def _of_forces(table: Table) -> Table:
    """The table without its row on energies."""
    return replace(table, rows=[row for row in table.rows if not str(row[0]).startswith("energy, ")])


def _heads(unit: str) -> list[str]:
    return [f"MAE, {unit}", f"RMSE, {unit}", f"largest, {unit}", "values"]


def _row(metric: Metric) -> list[float]:
    return [metric.mae, metric.rmse, metric.max, metric.n]


def _parity(predictions: Sequence[Prediction], structures: Sequence[Atoms]) -> list[Plot]:
    points = parity(predictions, structures)
    forces = Line(x=points.forces_reference, y=points.forces_predicted)
    energy = Line(x=[1e3 * e for e in points.energy_reference], y=[1e3 * e for e in points.energy_predicted])
    shown_plots = [
        Plot(
            title="Forces",
            x_label="reference, eV/Å",
            y_label="predicted, eV/Å",
            lines=[forces],
            kind="parity",
        ),
        Plot(
            title="Energies",
            x_label="reference, meV/atom",
            y_label="predicted, meV/atom",
            lines=[energy],
            kind="parity",
        ),
    ]
    return [plot for plot in shown_plots if plot.lines[0].x]


def _elements(by_element: Any) -> Plot:
    symbols = sorted(by_element)
    return Plot(
        title="Force error by element",
        x_label="",
        y_label="MAE, meV/Å",
        lines=[Line(x=symbols, y=[by_element[symbol].mae for symbol in symbols])],
        kind="bars",
    )


def _worst(structures: Sequence[Atoms], forces: Sequence[np.ndarray]) -> list[Any]:
    """The structures with the largest errors of the force on an atom."""
    largest = [float(np.nan_to_num(np.linalg.norm(f, axis=1)).max()) for f in forces]
    found = []
    for k in sorted(range(len(largest)), key=lambda k: -largest[k])[:_WORST]:
        atom = int(np.nan_to_num(np.linalg.norm(forces[k], axis=1)).argmax())
        text = f"The force on {structures[k].symbols[atom]}{atom} is off by {largest[k]:.0f} meV/Å"
        title = f"{structures[k].get_chemical_formula()} of {trajectory_names(structures)[k]}"
        found.append(shown(structures[k], title, text))
    return found
