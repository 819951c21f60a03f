"""How a student's energy surface bends, against its teacher's: rows of the Hessian."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from models.distillation.hessians import Sampling, directions, products
from models.graphs import graphs
from models.potentials import load
from models.validation.base import Check, Finding, Line, Plot, Quantity, Role, Subject, by_trajectory, figure

_SHOWN = 1500  # points of the plot


class Curvature(Check):
    """Errors of rows of a student's Hessian against its teacher's, on frames of the test trajectories."""

    title: ClassVar = "Curvature against the teacher"
    explanation: ClassVar = (
        "Rows of the Hessian, the second derivatives of the energy: how forces answer when one atom is moved."
    )
    needs: ClassVar[tuple[Role, ...]] = ("test", "teacher")
    quantities: ClassVar = {
        "hessian": Quantity(
            words="Hessian MAE against the teacher", unit="meV/Å²", better="lower", paired=True
        ),
        "relative": Quantity(
            words="Hessian MAE over the mean size of an entry", unit="%", better="lower", paired=True
        ),
    }

    kind: Literal["curvature"] = "curvature"
    frames: int = Field(2, ge=1, description="of each trajectory")
    rows: int = Field(6, ge=1, description="of each frame, drawn at random")
    seed: int = 0

    def measure(self, subject: Subject) -> Finding:
        """Mean absolute errors of the entries of the rows, by trajectory."""
        runs = [
            [frame for frame in run if subject.knows(frame)]
            for run in by_trajectory(subject.structures("test"))
        ]
        picked = [
            (number, run[place])
            for number, run in enumerate(runs)
            if run
            for place in sorted({round(p) for p in np.linspace(0, len(run) - 1, self.frames)})
        ]
        if not picked:
            return self.unmeasured("It does not know the elements of any test structure.")
        frames = [frame for _, frame in picked]
        sampling = Sampling(number=self.rows, seed=self.seed)
        wanted = [directions(sampling.draw(frame), len(frame)) for frame in frames]
        ours, theirs = (
            list(products(potential, graphs(frames, potential), wanted))
            for potential in (subject.potential, load(subject.files["teacher"]))
        )
        if not all(np.isfinite(found).all() for found in ours):
            return self.unmeasured("A row of its Hessian is not finite.")
        errors: dict[str, tuple[float, float]] = {}
        relative: dict[str, tuple[float, float]] = {}
        for (number, frame), mine, other in zip(picked, ours, theirs, strict=True):
            name = str(frame.info.get("trajectory", number))
            wrong, size = float(np.abs(mine - other).sum()), float(np.abs(other).sum())
            before, weight = errors.get(name, (0.0, 0.0))
            errors[name] = (before + 1000.0 * wrong, weight + mine.size)
            before, weight = relative.get(name, (0.0, 0.0))
            relative[name] = (before + 100.0 * wrong, weight + size)
        parity = Plot(
            title="Entries of Hessian rows",
            x_label="teacher, eV/Å²",
            y_label="student, eV/Å²",
            lines=[Line(x=_thinned(theirs), y=_thinned(ours))],
            kind="parity",
        )
        return Finding(figures={"hessian": figure(errors), "relative": figure(relative)}, plots=[parity])


def _thinned(rows: list[np.ndarray]) -> list[float]:
    """Evenly spaced entries of all rows."""
    entries = np.concatenate([row.ravel() for row in rows])
    return [round(float(entry), 3) for entry in entries[:: max(1, len(entries) // _SHOWN)]]
