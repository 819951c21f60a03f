"""The acceptance of one checkpoint: its dynamics, and every check on it.

Everything here is measured from pinned inputs with fixed seeds, so that a later night can measure it again
and compare.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.dynamics import md, trajectories
from models.dynamics.integrators import Isobaric, Langevin
from models.dynamics.limits import Limits
from models.dynamics.trajectories import Trajectory
from models.e0s import read_e0s
from models.potentials import load, set_e0s
from models.training import Report
from models.validation import CHECK, CHECKS, AnyCheck
from models.validation.base import Subject


class Simulation(BaseModel):
    """The molecular dynamics of an acceptance: replicas from the reference's frames, at its temperature."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(330.0, gt=0, description="K")
    time_step: float = Field(1.0, gt=0, description="fs")
    friction: float = Field(0.02, gt=0, description="1/fs")
    pressure: float | None = Field(
        None, description="GPa; the cell then moves, as it should where the reference's did"
    )
    duration: float = Field(2500.0, gt=0, description="fs, of each replica")
    replicas: int = Field(4, ge=1)
    save_every: int = Field(20, ge=1, description="steps")
    seed: int = 0

    @property
    def integrator(self) -> Langevin | Isobaric:
        """At constant temperature and, where there is one, at constant pressure."""
        thermostat = self.model_dump(include={"temperature", "time_step", "friction"})
        if self.pressure is None:
            return Langevin(**thermostat)
        return Isobaric(**thermostat, pressure=self.pressure)


def simulate(
    checkpoint: Path,
    starts_from: Path,
    simulation: Simulation,
    work: Path,
    *,
    report: Report | None = None,
) -> Path:
    """Write the trajectories of a checkpoint, from frames of `starts_from` (see `run`)."""
    subject = Subject(potential=load(checkpoint), files={"test": starts_from})
    path = work / "trajectories.safetensors"
    trajectories.save(run(subject, simulation, report), path)
    return path


def run(subject: Subject, simulation: Simulation, report: Report | None = None) -> list[Trajectory]:
    """The dynamics of an acceptance, from `Subject.starts`.

    Raises ValueError where a pressure is set and a start is not periodic in three directions.
    """
    steps = round(simulation.duration / simulation.time_step)

    def told(step: int, running: int) -> None:
        if report is not None:
            report({"step": step, "steps": steps, "running": running})

    return md.run(
        subject.potential,
        subject.starts(simulation.replicas),
        simulation.integrator,
        steps=steps,
        seed=simulation.seed,
        save_every=simulation.save_every,
        velocities_from_temperature=simulation.temperature,
        stop_on=Limits(),
        report=told,
    )


def measure(check: AnyCheck, checkpoint: Path, files: Mapping[str, Path], work: Path) -> Path:
    """Write what a check finds of a checkpoint; `e0s` among the `files` replace its own."""
    potential = load(checkpoint)
    if "e0s" in files:
        given = read_e0s(files["e0s"])
        set_e0s(potential.network, np.array([given[z] for z in potential.elements]))
    finding = check.measure(Subject(potential=potential, files=files))
    path = work / "finding.json"
    path.write_text(
        json.dumps(finding.to_json(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False),
        encoding="utf-8",
    )
    return path


def lacking(check: AnyCheck, roles: Iterable[str]) -> str | None:
    """Why a check cannot be done with files of these roles; None where it can."""
    missing = [role for role in check.needs if role not in roles]
    return f"there is nothing for {' and '.join(missing)}" if missing else None


def figures(findings: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """The figures of all checks that give the same for the same inputs, as "accuracy.forces"."""
    return {
        f"{kind}.{name}": figure["value"]
        for kind, finding in findings.items()
        if CHECKS[kind].repeatable
        for name, figure in finding["figures"].items()
    }


def described(figure: str) -> str:
    """A figure in words, with its unit: "force MAE, meV/Å (accuracy)"."""
    kind, _, name = figure.partition(".")
    quantity = CHECKS[kind].quantities[name]
    return f"{quantity.words}, {quantity.unit} ({kind})" if quantity.unit else f"{quantity.words} ({kind})"


def check_from(content: Mapping[str, Any]) -> AnyCheck:
    """A check as it is on record."""
    return CHECK.validate_python(content)
