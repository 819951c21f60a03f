"""What the acceptance's own dynamics tells: distributions, density, diffusion, molecules, survival."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from pydantic import Field

from models.dynamics import trajectories
from models.dynamics.trajectories import Trajectory
from models.validation import bonds, rdf
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
    by_trajectory,
    figure,
    shown,
)

_LEAST_FRAMES = 10  # of a trajectory, for a diffusion coefficient


class Distributions(Check):
    """Pair distributions, density and diffusion of the dynamics against those of the reference."""

    title: ClassVar = "Pair distributions"
    explanation: ClassVar = (
        "How often two elements are how far apart, against reference trajectories. The earth mover's "
        "distance (EMD) is how far one distribution has to be moved to become the other; between halves of"
        " the reference it is the noise floor. Bands: one standard error, of a jackknife over trajectories"
        " (blocks of a lone one)."
    )
    needs: ClassVar[tuple[Role, ...]] = ("reference", "trajectories")
    quantities: ClassVar = {
        "emd": Quantity(words="mean earth mover's distance", unit="Å", better="lower"),
        "replica_emd": Quantity(words="the same, of single replicas", unit="Å", better="lower", paired=True),
        "shortest": Quantity(
            words="shortest distance of any pair over the reference's", unit="×", better="higher"
        ),
        "density": Quantity(words="error of the density", unit="%", better="lower"),
        "diffusion": Quantity(words="error of the diffusion coefficients", unit="%", better="lower"),
    }

    kind: Literal["distributions"] = "distributions"
    bin_width: float = Field(rdf.BIN_WIDTH, gt=0, description="Å")
    r_max: float = Field(rdf.R_MAX, gt=0, description="Å; at most half the smallest height of a cell")
    equilibration: float = Field(200.0, ge=0, description="fs, left out")

    def measure(self, subject: Subject) -> Finding:
        """Compare like with like: only reference structures whose composition was simulated count."""
        reference = by_trajectory(subject.structures("reference"))
        runs = [self._sampled(run) for run in trajectories.load(subject.files["trajectories"])]
        sampled = {f"replica {k}": run for k, run in enumerate(runs) if run}
        if not sampled:
            nothing = {name: Figure(value=None) for name in ("emd", "replica_emd", "shortest")}
            return Finding(figures=nothing, notes=["No replica lasted beyond its equilibration."])
        found = self._compared(reference, list(sampled.values()))
        singles = {name: (self._compared(reference, [run]).mean_emd, 1.0) for name, run in sampled.items()}
        pair, ratio = min(found.shortest.items(), key=lambda item: item[1], default=("", None))
        figures = {
            "emd": Figure(value=found.mean_emd),
            "replica_emd": figure(singles),
            "shortest": Figure(value=ratio),
        }
        notes = [
            f"{found.n_model} frames against {found.n_reference} of the reference, in bins of "
            f"{found.bin_width:g} Å to {found.r_max:g} Å, {_NORMALISATION[found.kind]}. The noise floor of "
            f"the reference is {found.mean_noise_floor:.3f} Å.",
            f"The shortest distance falls furthest behind for {pair}.",
        ]
        tables = [_by_pair(found)]
        for name, measured in (
            ("density", _densities(reference, list(sampled.values()))),
            ("diffusion", _diffusions(reference, list(sampled.values()))),
        ):
            if measured is not None:
                figures[name], table = measured
                tables.append(table)
        return Finding(figures=figures, plots=_curves(found), tables=tables, notes=notes)

    def _sampled(self, run: Trajectory) -> list[Atoms]:
        kept = (run.times_fs >= self.equilibration) & (run.times_fs > 0.0)
        return [frame for frame, is_kept in zip(run.to_atoms(), kept, strict=True) if is_kept]

    def _compared(
        self, reference: Sequence[Sequence[Atoms]], runs: Sequence[Sequence[Atoms]]
    ) -> rdf.RdfComparison:
        return rdf.compare(reference, runs, bin_width=self.bin_width, r_max=self.r_max)


class Dynamics(Check):
    """Whether replicas of the acceptance's dynamics finish, and whether their molecules stay whole."""

    title: ClassVar = "Dynamics"
    explanation: ClassVar = (
        "Replicas of the dynamics that people will run. A replica fails where energy or force is not "
        "finite, a force passes 100 eV/Å, the temperature runs away, or atoms come closer than half the "
        "sum of their covalent radii. A covalent bond is broken once it is longer than 1.5 times that sum."
    )
    needs: ClassVar[tuple[Role, ...]] = ("trajectories",)
    quantities: ClassVar = {
        "finished": Quantity(words="replicas that finish", unit="%", better="higher", paired=True),
        "whole": Quantity(
            words="replicas whose molecules stay whole", unit="%", better="higher", paired=True
        ),
    }

    kind: Literal["dynamics"] = "dynamics"

    def measure(self, subject: Subject) -> Finding:
        """Count the replicas; the last frame of one that failed is shown."""
        runs = trajectories.load(subject.files["trajectories"])
        followed = bonds.follow(runs)
        outcomes = {
            "finished": [run.failure is None for run in runs],
            "whole": [broken is None for broken in followed.breaks],
        }
        rows: list[list[Any]] = [
            [
                f"replica {k}",
                "finished" if run.failure is None else f"{run.failure.reason}: {run.failure.detail}",
                1e-3 * (run.times_fs[-1] if run.failure is None else run.failure.time_fs),
                float(run.temperature[1:].mean()) if len(run.temperature) > 1 else None,
                followed.breaks[k] or "none broke",
            ]
            for k, run in enumerate(runs)
        ]
        return Finding(
            figures={
                name: figure({f"replica {k}": (100.0 * is_so, 1.0) for k, is_so in enumerate(held)})
                for name, held in outcomes.items()
            },
            plots=[_temperatures(runs)],
            tables=[
                Table(
                    title="Replicas",
                    columns=[
                        "",
                        "what became of it",
                        "time, ps",
                        "temperature, K",
                        f"{followed.n_bonds} bonds",
                    ],
                    rows=rows,
                )
            ],
            structures=[
                shown(run.to_atoms()[-1], f"Replica {k}", f"The last frame before {run.failure.detail}")
                for k, run in enumerate(runs)
                if run.failure is not None
            ],
        )


_NORMALISATION = {
    rdf.Kind.RADIAL: "over the ideal gas of the same density (g)",
    rdf.Kind.PAIR: "as the probability density of one pair's distance (p)",
}


def _temperatures(runs: Sequence[Trajectory]) -> Plot:
    mean = np.mean([run.temperature[: min(len(r.temperature) for r in runs)] for run in runs], axis=0)
    times = 1e-3 * runs[0].times_fs[: len(mean)]
    return Plot(
        title="Mean temperature of the replicas",
        x_label="time, ps",
        y_label="K",
        lines=[Line(x=times.tolist(), y=mean.tolist())],
    )


def _by_pair(found: rdf.RdfComparison) -> Table:
    return Table(
        title="By pair",
        columns=["pair", "EMD, Å", "noise floor, Å", "shortest distance over the reference's"],
        rows=[
            [pair, emd, found.noise_floor[pair], found.shortest.get(pair)] for pair, emd in found.emd.items()
        ],
    )


def _curves(found: rdf.RdfComparison) -> list[Plot]:
    return [
        Plot(
            title=ours.pair.replace("-", "–"),
            x_label="r, Å",
            y_label="g(r)" if found.kind is rdf.Kind.RADIAL else "p(r), 1/Å",
            lines=[
                Line(x=ours.r, y=ours.g, error=ours.error),
                Line(x=theirs.r, y=theirs.g, error=theirs.error, name="reference"),
            ],
        )
        for ours, theirs in zip(found.model, found.reference, strict=True)
    ]


def _densities(
    reference: Sequence[Sequence[Atoms]], runs: Sequence[Sequence[Atoms]]
) -> tuple[Figure, Table] | None:
    """The density, where the reference is periodic and its volume moves; else there is none to compare."""
    frames = [atoms for run in reference for atoms in run]
    volumes = {round(float(atoms.cell.volume), 3) for atoms in frames}
    if not all(atoms.pbc.all() for atoms in frames) or len(volumes) <= len(reference):
        return None
    theirs, ours = (
        [float(np.mean([atoms.get_masses().sum() / atoms.get_volume() for atoms in run])) for run in side]
        for side in (reference, runs)
    )
    error = 100.0 * abs(np.mean(ours) / np.mean(theirs) - 1.0)
    per_cm3 = 1.66053907  # g/cm³ in one u/Å³
    rows: list[list[Any]] = [
        [name, per_cm3 * float(np.mean(side)), per_cm3 * float(np.std(side) / np.sqrt(len(side)))]
        for name, side in (("reference", theirs), ("model", ours))
    ]
    table = Table(title="Density", columns=["", "g/cm³", "standard error, g/cm³"], rows=rows)
    return Figure(value=float(error)), table


def _diffusions(
    reference: Sequence[Sequence[Atoms]], runs: Sequence[Sequence[Atoms]]
) -> tuple[Figure, Table] | None:
    """Diffusion coefficients by element, where the reference's frames say when they were."""
    if not all(len(run) >= _LEAST_FRAMES and "time_fs" in run[0].info for run in [*reference, *runs]):
        return None
    ours, theirs = ([_diffusion(run) for run in side] for side in (runs, reference))
    rows: list[list[Any]] = []
    for symbol in sorted(set(ours[0]) & set(theirs[0])):
        a, b = (np.array([run[symbol] for run in side if symbol in run]) for side in (ours, theirs))
        rows.append([symbol, float(a.mean()), float(b.mean()), 100.0 * abs(a.mean() / b.mean() - 1.0)])
    table = Table(
        title="Diffusion", columns=["element", "model, Å²/ps", "reference, Å²/ps", "error, %"], rows=rows
    )
    return Figure(value=float(np.mean([row[-1] for row in rows]))), table


def _diffusion(run: Sequence[Atoms]) -> dict[str, float]:
    """D (Å²/ps) of every element: the slope of its mean squared displacement with the time between, over six.

    All origins count, and times from a quarter to half of the run. Positions are taken as not wrapped into
    the cell; a drift of all atoms together is taken off.
    """
    interval = 1e-3 * (float(run[1].info["time_fs"]) - float(run[0].info["time_fs"]))
    positions = np.stack([atoms.positions - atoms.get_center_of_mass() for atoms in run])
    lags = np.arange(len(run) // 4, len(run) // 2 + 1)
    squared = np.array([((positions[lag:] - positions[:-lag]) ** 2).sum(axis=2).mean(axis=0) for lag in lags])
    symbols = np.array(run[0].get_chemical_symbols())
    return {
        str(symbol): float(
            np.polyfit(interval * lags, squared[:, symbols == symbol].mean(axis=1), 1)[0] / 6.0
        )
        for symbol in np.unique(symbols)
    }
