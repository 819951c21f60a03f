"""Magnetic moments against labels: magnitudes, the forces on them, energies between magnetic orders."""

from typing import ClassVar, Literal

import numpy as np

from models.graphs import graphs, moments, predict
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
)
from models.validation.errors import (
    by_trajectory,
    magnetic_differences,
    order_differences,
    trajectory_names,
)


class Moments(Check):
    """Errors of magnetic moments on the test structures, which were never trained on."""

    title: ClassVar = "Magnetic moments"
    explanation: ClassVar = (
        "Magnitudes of moments against labels, of atoms with at least a tenth of the largest moment, and "
        "forces on moments. Orders are structures that differ in nothing but their moments, such as ferro- "
        "and antiferromagnet: the error is that of the energy between two of them, at the labelled moments."
    )
    needs: ClassVar[tuple[Role, ...]] = ("test",)
    quantities: ClassVar = {
        "moments": Quantity(words="moment MAE", unit="μB", better="lower", paired=True),
        "relative": Quantity(words="moment MAE over that of the elements' means", unit="", better="lower"),
        "magnetic_forces": Quantity(words="magnetic force MAE", unit="meV/μB", better="lower", paired=True),
        "orders": Quantity(
            words="MAE of energies between orders", unit="meV/atom", better="lower", paired=True
        ),
        "sign": Quantity(words="pairs of orders in the right order", unit="%", better="higher"),
    }

    kind: Literal["moments"] = "moments"
    least: float = 0.1

    def measure(self, subject: Subject) -> Finding:
        """Moments by element, magnetic forces, energies between orders."""
        structures = [
            atoms
            for atoms in subject.structures("test")
            if "REF_magmoms" in atoms.arrays and subject.knows(atoms)
        ]
        if not structures:
            return self.unmeasured("No test structure has labels of moments.")
        if not subject.potential.magnetic:
            return self.unmeasured("The model has no magnetic moments.")
        predictions = predict(subject.potential, graphs(structures, subject.potential))
        if not all(np.isfinite(p.energy) and _finite(p.magmoms) for p in predictions):
            return self.unmeasured("A prediction is not finite.")
        labels = [np.linalg.norm(np.asarray(moments(atoms)[0]), axis=1) for atoms in structures]
        floor = self.least * max(float(values.max()) for values in labels)
        names = trajectory_names(structures)
        off = magnetic_differences(predictions, structures)
        magnetic = [np.where(m >= floor, e, np.nan) for m, e in zip(labels, off["moments"], strict=True)]
        symbols = np.concatenate([atoms.get_chemical_symbols() for atoms in structures])
        true, errors = np.concatenate(labels), np.concatenate(magnetic)
        rows: list[list[str | float | None]] = []
        spread = np.full(len(true), np.nan)
        for symbol in np.unique(symbols[np.isfinite(errors)]):
            mine = (symbols == symbol) & np.isfinite(errors)
            spread[mine] = np.abs(true[mine] - true[mine].mean())
            mae, baseline = float(np.abs(errors[mine]).mean()), float(spread[mine].mean())
            rows.append([str(symbol), float(true[mine].mean()), mae, baseline, int(mine.sum())])
        size = float(np.nanmean(spread)) if rows else 0.0
        figures = {
            "moments": figure(by_trajectory(names, magnetic)),
            "relative": Figure(value=float(np.nanmean(np.abs(errors))) / size if size > 0.0 else None),
            "magnetic_forces": figure(by_trajectory(names, off["magnetic_forces"])),
        }
        pairs = order_differences(predictions, structures)
        plots = []
        if pairs:
            said, right = (np.concatenate([pair[k] for pair in pairs.values()]) for k in (0, 1))
            figures["orders"] = figure(by_trajectory(list(pairs), [a - b for a, b in pairs.values()]))
            figures["sign"] = Figure(value=100.0 * float((np.sign(said) == np.sign(right)).mean()))
            plots.append(_parity("Energies between magnetic orders", "meV/atom", right, said))
        told = np.isfinite(errors)
        plots.insert(0, _parity("Magnetic moments", "μB", true[told], (true + errors)[told]))
        return Finding(
            figures=figures,
            plots=plots,
            tables=[
                Table(
                    title="Moments by element",
                    columns=["element", "mean, μB", "MAE, μB", "MAE of the mean itself, μB", "atoms"],
                    rows=rows,
                )
            ],
            notes=[
                f"{len(structures)} structures of {len(set(names))} trajectories; moments of at least "
                f"{floor:.2f} μB."
            ],
        )


def _parity(title: str, unit: str, reference: np.ndarray, predicted: np.ndarray) -> Plot:
    line = Line(x=reference.tolist(), y=predicted.tolist())
    x, y = f"reference, {unit}", f"predicted, {unit}"
    return Plot(title=title, x_label=x, y_label=y, lines=[line], kind="parity")


def _finite(values: np.ndarray | None) -> bool:
    return values is not None and bool(np.isfinite(values).all())
