"""The acceptance of one checkpoint: its errors, its dynamics, its speed, and the gate on them.

Everything here is measured from pinned inputs with fixed seeds, so that a later night can measure
it again and compare.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field

from models.datasets import read_structures
from models.dynamics import md, trajectories
from models.dynamics.limits import Limits
from models.dynamics.md import Langevin
from models.dynamics.speed import compare_speed
from models.e0s import read_e0s
from models.graphs import graphs, predict
from models.potentials import Potential, compiled, load, n_parameters, set_e0s
from models.pseudolabels import pseudolabel
from models.training import Report
from models.validation import bonds, rdf
from models.validation import errors as metrics
from models.validation.conservation import conservation
from models.validation.stability import assess


class Simulation(BaseModel):
    """The molecular dynamics of an acceptance: replicas of the reference's starts, then NVE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(330.0, gt=0, description="K")
    time_step: float = Field(1.0, gt=0, description="fs")
    friction: float = Field(0.02, gt=0, description="1/fs")
    duration: float = Field(2500.0, gt=0, description="fs, of each replica")
    replicas: int = Field(4, ge=1)
    save_every: int = Field(20, ge=1, description="steps")
    equilibration: float = Field(200.0, ge=0, description="fs, left out of the distributions")
    conservation_time_step: float = Field(0.5, gt=0, description="fs; NVE runs with it and with half of it")
    conservation_duration: float = Field(250.0, gt=0, description="fs")
    seed: int = 0


class Gate(BaseModel):
    """What a specialist and its student must reach to be promoted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    force_improvement: float = Field(
        0.3, lt=1, description="least fall of the target force MAE below the foundation's"
    )
    fraction_finished: float = Field(1.0, ge=0, le=1, description="least share of replicas without a failure")
    rdf_distance: float | None = Field(0.15, gt=0, description="largest mean earth mover's distance, Å")
    shortest_distance: float | None = Field(
        0.85, gt=0, description="least shortest distance of any pair of elements over the reference's"
    )
    molecules_whole: float | None = Field(
        1.0, ge=0, le=1, description="least share of replicas whose bonds last; none where bonds may break"
    )
    drift: float = Field(5.0, gt=0, description="largest NVE drift, meV/atom/ps")
    student_speedup: float = Field(3.0, gt=0, description="least speed of the student over its teacher")
    student_force_improvement: float = Field(
        0.0, lt=1, description="least fall of the student's target force MAE below the foundation's"
    )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One line of a gate: what was measured (None: it could not be), what was asked for, whether it holds."""

    check: str
    value: float | None
    threshold: float
    unit: str
    at_least: bool

    @property
    def passed(self) -> bool:
        """Whether there is a value and it is on the right side of its threshold."""
        if self.value is None:
            return False
        return self.value >= self.threshold if self.at_least else self.value <= self.threshold


def measure_errors(
    checkpoint: Path,
    datasets: Mapping[str, Path],
    work: Path,
    *,
    e0s: Path | None = None,
    teacher: Path | None = None,
) -> Path:
    """Write the errors of `checkpoint` on each labelled dataset, and parity points of the first.

    With `e0s` the checkpoint's own are replaced first, so that a foundation's energies are on the
    target's scale. With a `teacher`, also the errors against its predictions, as `against_teacher`.
    Structures with elements that the checkpoint gave up are left out and counted in `left_out`.
    """
    potential = load(checkpoint)
    if e0s is not None:
        given = read_e0s(e0s)
        set_e0s(potential.network, np.array([given[z] for z in potential.elements]))
    content: dict[str, Any] = {"n_parameters": n_parameters(potential.network), "errors": {}, "left_out": {}}
    known = set(potential.elements)
    for position, (role, path) in enumerate(datasets.items()):
        frames = read_structures(path)
        structures = [atoms for atoms in frames if known.issuperset(atoms.numbers.tolist())]
        content["left_out"][role] = len(frames) - len(structures)
        predictions = predict(potential, graphs(structures, potential))
        content["errors"][role] = asdict(metrics.errors(predictions, structures))
        if position == 0:
            content["parity"] = asdict(metrics.parity(predictions, structures))
            if teacher is not None:
                taught = pseudolabel(load(teacher), structures)
                content["against_teacher"] = asdict(metrics.errors(predictions, taught))
    return _write(work / "errors.json", content)


def simulate(
    checkpoint: Path,
    starts_from: Path,
    simulation: Simulation,
    work: Path,
    *,
    compare_rdf: bool,
    explore: bool = False,
    report: Report | None = None,
) -> dict[str, Path]:
    """Run dynamics from frames of `starts_from`; returns the files `trajectories` and `dynamics`.

    Replica k starts from the middle frame of trajectory k (they repeat where there are fewer).
    With `compare_rdf` the frames of `starts_from` are the reference of the distributions. To `explore`
    is to want the trajectories only: nothing is compared and the conservation of energy is not tested.
    """
    potential = compiled(load(checkpoint))
    reference = by_trajectory(read_structures(starts_from))
    starts = [
        reference[k % len(reference)][len(reference[k % len(reference)]) // 2]
        for k in range(simulation.replicas)
    ]
    steps = round(simulation.duration / simulation.time_step)

    def told(step: int, running: int) -> None:
        if report is not None:
            report({"step": step, "steps": steps, "running": running})

    runs = md.run(
        potential,
        starts,
        Langevin(
            temperature=simulation.temperature, time_step=simulation.time_step, friction=simulation.friction
        ),
        steps=steps,
        seed=simulation.seed,
        save_every=simulation.save_every,
        velocities_from_temperature=simulation.temperature,
        stop_on=Limits(),
        report=told,
    )
    trajectories.save(runs, work / "trajectories.safetensors")
    skipped = round(simulation.equilibration / simulation.time_step / simulation.save_every)
    sampled = [frames for run in runs if (frames := run.to_atoms()[1 + skipped :])]
    content: dict[str, Any] = {
        "stability": asdict(assess(runs)),
        "bonds": asdict(bonds.follow(runs)),
        "rdf": None,
        "conservation": None,
    }
    if compare_rdf and sampled:
        content["rdf"] = asdict(rdf.compare(reference, sampled))
    if not explore:
        content |= _conserved(potential, starts[:2], simulation)
    return {
        "trajectories": work / "trajectories.safetensors",
        "dynamics": _write(work / "dynamics.json", content),
    }


def _conserved(potential: Potential, starts: Sequence[Atoms], simulation: Simulation) -> dict[str, Any]:
    try:
        measured = conservation(
            potential,
            starts,
            temperature=simulation.temperature,
            time_step=simulation.conservation_time_step,
            duration_fs=simulation.conservation_duration,
            seed=simulation.seed,
        )
    except ValueError as failure:
        return {"conservation_failure": str(failure)}
    return {"conservation": asdict(measured)}


def remeasure(
    checkpoint: Path, test: Path, starts_from: Path, simulation: Simulation, work: Path, *, compare_rdf: bool
) -> Path:
    """Measure a checkpoint once more as its acceptance did; writes the headline numbers."""
    errors_path = measure_errors(checkpoint, {"test": test}, work)
    files = simulate(checkpoint, starts_from, simulation, work, compare_rdf=compare_rdf)
    read_both = (json.loads(path.read_text(encoding="utf-8")) for path in (errors_path, files["dynamics"]))
    return _write(work / "measured.json", headline(*read_both))


def measure_speed(teacher: Path, student: Path, starts_from: Path, replicas: int, work: Path) -> Path:
    """Write how many times faster a step of dynamics is with `student` than with `teacher`.

    `batch` is for `replicas` at once, as the acceptance runs them; `one` is for a single replica, where
    the cost is mostly that of calls.
    """
    start = read_structures(starts_from)[0]
    slow, fast = load(teacher), load(student)
    content = {
        name: asdict(compare_speed(slow, fast, [start] * n)) for name, n in (("batch", replicas), ("one", 1))
    }
    return _write(work / "speed.json", content)


def by_trajectory(frames: Sequence[Atoms]) -> list[list[Atoms]]:
    """Frames grouped by the info key `trajectory`, in order of appearance; without it each is its own."""
    groups: dict[str, list[Atoms]] = {}
    for index, frame in enumerate(frames):
        groups.setdefault(str(frame.info.get("trajectory", index)), []).append(frame)
    return list(groups.values())


def headline(errors_of: Mapping[str, Any], dynamics: Mapping[str, Any]) -> dict[str, float | None]:
    """The few numbers by which one acceptance is compared with another, each with its unit."""
    test, conserved, distances = errors_of["errors"]["test"], dynamics["conservation"], dynamics["rdf"]
    return {
        "force MAE, meV/Å": test["forces"]["mae"],
        "energy MAE, meV/atom": test["energy"]["mae"],
        "replicas that finish, %": 100.0 * dynamics["stability"]["fraction_finished"],
        "replicas whose molecules stay whole, %": 100.0 * dynamics["bonds"]["fraction_whole"],
        "mean RDF distance, Å": None if distances is None else distances["mean_emd"],
        "energy drift, meV/atom/ps": None if conserved is None else conserved["short"]["drift"],
    }


def changes(
    before: Mapping[str, float | None], after: Mapping[str, float | None], tolerance: float
) -> list[str]:
    """What differs between two headlines by more than the relative `tolerance`, one line each."""
    found = []
    for name, old in before.items():
        new = after[name]
        if (old is None) != (new is None):
            found.append(f"{name}: was {old}, is {new}")
        elif old is not None and new is not None and not abs(new - old) <= tolerance * max(abs(old), 1e-9):
            found.append(f"{name}: was {old:.4g}, is {new:.4g}")
    return found


def judge_specialist(
    gate: Gate,
    *,
    foundation_errors: Mapping[str, Any],
    errors: Mapping[str, Any],
    dynamics: Mapping[str, Any],
) -> list[Verdict]:
    """The gate on a specialist: accuracy against the foundation, and its dynamics."""
    return [_improvement(gate.force_improvement, foundation_errors, errors), *_dynamics(gate, dynamics)]


def judge_student(
    gate: Gate,
    *,
    foundation_errors: Mapping[str, Any],
    errors: Mapping[str, Any],
    dynamics: Mapping[str, Any],
    speed: Mapping[str, Any],
) -> list[Verdict]:
    """The gate on a student: speed over its teacher, accuracy against the foundation, its dynamics."""
    faster = Verdict(
        check="speed over its teacher, all replicas at once",
        value=speed["batch"]["ratio"],
        threshold=gate.student_speedup,
        unit="×",
        at_least=True,
    )
    accurate = _improvement(gate.student_force_improvement, foundation_errors, errors)
    return [faster, accurate, *_dynamics(gate, dynamics)]


def _improvement(threshold: float, foundation: Mapping[str, Any], model: Mapping[str, Any]) -> Verdict:
    before, after = (m["errors"]["test"]["forces"]["mae"] for m in (foundation, model))
    return _share("fall of the force MAE below the foundation's", 1.0 - after / before, threshold)


def _share(check: str, value: float, threshold: float) -> Verdict:
    """A share that must be large enough, in %."""
    return Verdict(check=check, value=100.0 * value, threshold=100.0 * threshold, unit="%", at_least=True)


def _dynamics(gate: Gate, dynamics: Mapping[str, Any]) -> list[Verdict]:
    finished, whole = dynamics["stability"]["fraction_finished"], dynamics["bonds"]["fraction_whole"]
    found = [_share("replicas that finish", finished, gate.fraction_finished)]
    if gate.molecules_whole is not None:
        found.append(_share("replicas whose molecules stay whole", whole, gate.molecules_whole))
    if dynamics["rdf"] is not None and gate.rdf_distance is not None:
        found.append(
            Verdict(
                check="mean earth mover's distance of the pair distributions",
                value=dynamics["rdf"]["mean_emd"],
                threshold=gate.rdf_distance,
                unit="Å",
                at_least=False,
            )
        )
    if dynamics["rdf"] is not None and gate.shortest_distance is not None:
        pair, ratio = min(dynamics["rdf"]["shortest"].items(), key=lambda item: item[1])
        found.append(
            Verdict(
                check=f"shortest distance of any pair over the reference's ({pair})",
                value=ratio,
                threshold=gate.shortest_distance,
                unit="×",
                at_least=True,
            )
        )
    conserved = dynamics["conservation"]
    found.append(
        Verdict(
            check="energy drift at constant energy",
            value=None if conserved is None else conserved["short"]["drift"],
            threshold=gate.drift,
            unit="meV/atom/ps",
            at_least=False,
        )
    )
    return found


def _write(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    return path
