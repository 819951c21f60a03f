"""How well molecular dynamics with a potential survives: cold, and on the way to where it must melt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from pydantic import Field

from models.dynamics.limits import Limits
from models.dynamics.md import Isobaric, Langevin, run
from models.dynamics.trajectories import Trajectory
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

_FRAMES = 50  # of a stage, for its plots


class Stability(Check):
    """Dynamics at constant pressure: cold for a while, then heated to where it must melt."""

    title: ClassVar = "Stability of dynamics"
    explanation: ClassVar = (
        "Molecular dynamics that is first cold and then heated far beyond what was trained on. It fails "
        "where energy, force or stress are no numbers, the temperature runs away, atoms come closer than "
        "half the sum of their covalent radii, a force passes 100 eV/Å, or the volume changes by half."
    )
    needs: ClassVar[tuple[Role, ...]] = ("test",)
    uses: ClassVar[tuple[Role, ...]] = ("reference",)
    quantities: ClassVar = {
        "finished": Quantity(words="stages that finish", unit="%", better="higher", paired=True),
        "first_failure": Quantity(words="time to the first failure", unit="ps", better="higher"),
    }

    kind: Literal["stability"] = "stability"
    temperature: float = Field(100.0, gt=0, description="K, of the first stage")
    duration: float = Field(300.0, gt=0, description="fs, of the first stage")
    ramp_from: float = Field(50.0, gt=0, description="K, at the start of the second stage")
    ramp_to: float = Field(800.0, gt=0, description="K, at its end")
    ramp_duration: float = Field(1000.0, gt=0, description="fs, of the second stage")
    pressure: float = Field(0.0, description="GPa; of systems that are periodic in three directions")
    time_step: float = Field(1.0, gt=0, description="fs")
    friction: float = Field(0.05, gt=0, description="1/fs")
    barostat_time: float = Field(500.0, gt=0, description="fs")
    replicas: int = Field(4, ge=1)
    limits: Limits = Limits()
    seed: int = 0

    def measure(self, subject: Subject) -> Finding:
        """Every replica counts once for each stage; the second is out of reach where the first fails."""
        starts = [atoms for atoms in subject.starts(self.replicas) if subject.knows(atoms)]
        if not starts:
            return self.unmeasured("The model does not know the elements of any start.")
        stages = self._stages(subject, starts)
        samples = {
            f"replica {k}, {stage.name}": (100.0 * stage.finished(k), 1.0)
            for stage in stages
            for k in range(len(starts))
        }
        fallen = [
            (f"Replica {k}", run, run.failure, 1e-3 * (stage.began_fs + run.failure.time_fs))
            for stage in stages
            for k, run in stage.runs.items()
            if run.failure is not None
        ]
        whole = 1e-3 * (self.duration + self.ramp_duration)
        notes = [
            f"{len(starts)} replicas: {self.duration:g} fs at {self.temperature:g} K, "
            f"then {self.ramp_duration:g} fs from {self.ramp_from:g} to {self.ramp_to:g} K, "
            f"at {self.pressure:g} GPa."
        ]
        if finite := sum(not atoms.pbc.all() for atoms in starts):
            notes.append(f"{finite} of them are not periodic in three directions: they have no cell to move.")
        return Finding(
            figures={
                "finished": figure(samples),
                "first_failure": Figure(value=min((time for *_, time in fallen), default=whole)),
            },
            plots=_plots(stages),
            tables=[
                Table(
                    title="Stages",
                    columns=["", "stage", "what became of it", "lasted, ps", "detail"],
                    rows=[stage.row(k) for k in range(len(starts)) for stage in stages],
                )
            ],
            structures=[
                shown(
                    run.to_atoms()[-1],
                    f"{name}: {failure.reason}",
                    f"The last frame before it failed after {time:.3f} ps ({failure.detail}).",
                )
                for name, run, failure, time in fallen
            ],
            notes=notes,
        )

    def _stages(self, subject: Subject, starts: Sequence[Atoms]) -> list["_Stage"]:
        cold = _Stage(
            name="cold",
            began_fs=0.0,
            duration_fs=self.duration,
            target=(self.temperature, self.temperature),
            runs=self._run(subject, dict(enumerate(starts)), self.temperature, None, self.duration),
        )
        ends = {k: run.to_atoms()[-1] for k, run in cold.runs.items() if run.failure is None}
        heated = _Stage(
            name="heated",
            began_fs=self.duration,
            duration_fs=self.ramp_duration,
            target=(self.ramp_from, self.ramp_to),
            runs=self._run(subject, ends, self.ramp_from, self.ramp_to, self.ramp_duration),
        )
        return [cold, heated]

    def _run(
        self,
        subject: Subject,
        starts: Mapping[int, Atoms],
        temperature: float,
        ramp_to: float | None,
        duration: float,
    ) -> dict[int, Trajectory]:
        """The trajectories of starts by replica: those with a cell that can move, then those without."""
        found: dict[int, Trajectory] = {}
        steps = max(1, round(duration / self.time_step))
        settings: dict[str, Any] = {
            "time_step": self.time_step,
            "temperature": temperature,
            "friction": self.friction,
            "ramp_to": ramp_to,
        }
        integrators: dict[bool, Isobaric | Langevin] = {
            True: Isobaric(pressure=self.pressure, barostat_time=self.barostat_time, **settings),
            False: Langevin(**settings),
        }
        for periodic, integrator in integrators.items():
            chosen = [k for k, atoms in starts.items() if atoms.pbc.all() == periodic]
            if chosen:
                runs = run(
                    subject.fast,
                    [starts[k] for k in chosen],
                    integrator,
                    steps=steps,
                    seed=self.seed,
                    save_every=max(1, steps // _FRAMES),
                    velocities_from_temperature=temperature,
                    stop_on=self.limits,
                )
                found |= dict(zip(chosen, runs, strict=True))
        return dict(sorted(found.items()))


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """The runs of one stage by replica; `target` (K) at its start and its end."""

    name: str
    began_fs: float
    duration_fs: float
    target: tuple[float, float]
    runs: Mapping[int, Trajectory]

    def finished(self, replica: int) -> bool:
        return replica in self.runs and self.runs[replica].failure is None

    def row(self, replica: int) -> list[str | float | None]:
        if replica not in self.runs:
            return [f"replica {replica}", self.name, "not reached", None, ""]
        run = self.runs[replica]
        if run.failure is None:
            return [f"replica {replica}", self.name, "finished", 1e-3 * float(run.times_fs[-1]), ""]
        failure = run.failure
        return [f"replica {replica}", self.name, failure.reason.value, 1e-3 * failure.time_fs, failure.detail]


def _plots(stages: Sequence[_Stage]) -> list[Plot]:
    """Temperature and potential energy of every replica, through all stages."""
    temperature, energy, target = [], [], []
    for k in stages[0].runs:
        reached = [(stage.began_fs, stage.runs[k]) for stage in stages if k in stage.runs]
        times = np.concatenate([1e-3 * (began + run.times_fs) for began, run in reached]).tolist()
        first = reached[0][1].potential_energy[0]
        since = [1e3 * (run.potential_energy - first) / len(run.numbers) for _, run in reached]
        temperature.append(Line(x=times, y=np.concatenate([run.temperature for _, run in reached]).tolist()))
        energy.append(Line(x=times, y=np.concatenate(since).tolist()))
    for stage in stages:
        ends = (stage.began_fs, stage.began_fs + stage.duration_fs)
        target += [(1e-3 * time, kelvin) for time, kelvin in zip(ends, stage.target, strict=True)]
    aimed = Line(name="target", x=[time for time, _ in target], y=[kelvin for _, kelvin in target])
    return [
        Plot(title="Temperature", x_label="time, ps", y_label="K", lines=[*temperature, aimed]),
        Plot(title="Potential energy since the start", x_label="time, ps", y_label="meV/atom", lines=energy),
    ]
