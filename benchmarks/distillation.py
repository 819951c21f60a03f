"""Is a student fast, and what does it learn best from? Speed, cost of a step, and accuracy by objective.

    python benchmarks/distillation.py [--parts speed cost accuracy] [--seeds 3] [--json FILE]

`speed`: molecular dynamics of the fastest student against the shipped foundation and against a network of the
size of MACE-MPA-0 medium. `cost`: a training step with Hessian rows over one without, and a teacher's rows.
`accuracy`: the shipped foundation is fine-tuned on NaCl and teaches students of one architecture by different
objectives from a few labelled structures. Every objective has the same number of trials, learning rates and
weights, judged on the validation trajectories; the best is trained with several seeds and measured on test
trajectories.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev

import torch
from ase import Atoms
from figures import publish
from student_speed import speeds

from models import datasets, e0s, foundation
from models.campaign import Campaign
from models.campaign_files import load_campaign
from models.distillation import hessians
from models.distillation.hessians import Products, Sampling
from models.distillation.objectives import (
    AnyObjective,
    AtomEmbeddings,
    HessianRows,
    NodeFeatures,
    TeacherForces,
)
from models.distillation.training import prepare
from models.finetuning import fine_tune
from models.graphs import graphs
from models.potentials import Potential, load, save
from models.training import Optimisation, fit
from models.validation import acceptance
from models.validation.acceptance import Simulation
from models.validation.accuracy import Accuracy
from models.validation.base import Subject, by_trajectory
from models.validation.conservation import EnergyConservation
from models.validation.curvature import Curvature
from models.validation.relaxation import Relaxation

STORED = 16  # rows of each structure that the teacher labels
RATES = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04)
FEW_RATES = (0.01, 0.02)

OBJECTIVES: Mapping[str, Sequence[tuple[AnyObjective, ...]]] = {
    "undistilled": [()],
    "a2a": [(AtomEmbeddings(),)],
    "n2n": [(NodeFeatures(weight=weight),) for weight in (1.0, 10.0, 100.0)],
    "teacher_forces": [(TeacherForces(weight=weight),) for weight in (3.0, 10.0, 30.0)],
    "hessian_s1": [(HessianRows(weight=weight, stored=STORED),) for weight in (2.0, 6.0, 20.0)],
    "hessian_s4": [(HessianRows(weight=weight, stored=STORED, per_step=4),) for weight in (2.0, 6.0, 20.0)],
}
"""By name: what is tried. Where there is no weight to choose, more learning rates are."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One student on test trajectories: against labels, against its teacher, and in use."""

    force_mae: float  # meV/Å, against the labels
    energy_mae: float  # meV/atom, against the labels
    hessian_mae: float  # meV/Å², against the teacher
    nve_drift: float  # meV/atom/ps
    finished: float  # % of replicas that finish 2 ps at 330 K
    failed_relaxations: float  # %


UNITS = {
    "force_mae": "meV/Å",
    "energy_mae": "meV/atom",
    "hessian_mae": "meV/Å²",
    "nve_drift": "meV/atom/ps",
    "finished": "%",
    "failed_relaxations": "%",
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training: by which objective, at which rate, from which seed."""

    name: str
    objectives: tuple[AnyObjective, ...]
    rate: float
    seed: int = 0

    def __str__(self) -> str:
        weights = [f"weight {o.weight:g}" for o in self.objectives if not isinstance(o, AtomEmbeddings)]
        return f"{self.name}, {', '.join([f'rate {self.rate:g}', *weights])}, seed {self.seed}"


def specialist(campaign: Campaign, work: Path) -> dict[str, Path]:
    """The campaign's data, and its foundation fine-tuned on it by its first candidate, as `teacher`."""
    labels, evidence = campaign.labels, campaign.evidence
    start = foundation.save_resolved(campaign.foundation.name, campaign.foundation.head, work)
    parts = datasets.ingest(labels.path, labels.names, labels.units, campaign.split, work)
    files = {role: part.path for role, part in parts.items()}
    fitted, _ = e0s.refit_file(start, files["train"], files.get("isolated"), campaign.e0s, work)
    given = {"foundation": start, "e0s": fitted, "train": files["train"], "valid": files["valid"]}
    naive = next(candidate for candidate in campaign.candidates if candidate.kind == "naive")
    files["teacher"] = fine_tune(naive, given, labels.level_of_theory, {}, work)["checkpoint"]
    files["minima"] = evidence["minima"].path
    return files


def few(frames: Sequence[Atoms], number: int) -> list[Atoms]:
    """Frames, equally many of each trajectory as far as that goes, evenly spaced in it."""
    runs = by_trajectory(frames)
    each = -(-number // len(runs))
    spread = [run[:: max(1, len(run) // each)][:each] for run in runs]
    return [frame for place in zip(*spread, strict=False) for frame in place][:number]


def train(
    trial: Trial, campaign: Campaign, files: Mapping[str, Path], structures: int, epochs: int
) -> tuple[float, Path]:
    """A student's least validation error (meV/Å plus meV/atom), and its checkpoint."""
    torch.set_num_threads(1)
    teacher, valid = load(files["teacher"]), datasets.read_structures(files["valid"])
    lessons = few(datasets.read_structures(files["train"]), structures)
    optimisation = Optimisation(
        learning_rate=trial.rate,
        decay="cosine",
        ema_decay=0.99,
        clip_gradient=10.0,
        epochs=epochs,
        evaluate_every=epochs / 20,
        max_edges=campaign.student.optimisation.max_edges,
        seed=trial.seed,
    )
    products = {"hessian_rows": Products(files["hessian_rows"])}
    setup = prepare(
        campaign.student.architecture, trial.objectives, campaign.student.weights,
        teacher, lessons, valid, products, trial.seed,
    )  # fmt: skip
    fitted = fit(setup, optimisation)
    for objective in trial.objectives:
        objective.finish(fitted.network)
    student = Potential(
        network=fitted.network, level_of_theory={"target": campaign.labels.level_of_theory}, provenance={}
    )
    path = files["teacher"].with_name(f"{trial}.safetensors")
    save(student, path)
    return min(row["target_forces_mae"] + row["target_energy_per_atom_mae"] for row in fitted.history), path


def measured(path: Path, files: Mapping[str, Path]) -> Measured:
    """The figures of a student's checkpoint."""
    torch.set_num_threads(1)
    subject = Subject(
        potential=load(path), files={role: files[role] for role in ("test", "minima", "teacher")}
    )
    found = {
        check.kind: check.measure(subject).figures
        for check in (Accuracy(), Curvature(), EnergyConservation(temperature=330.0), Relaxation())
    }
    runs = acceptance.run(subject, Simulation(temperature=330.0, duration=2000.0, replicas=8))
    values = {
        "force_mae": found["accuracy"]["forces"].value,
        "energy_mae": found["accuracy"]["energy"].value,
        "hessian_mae": found["curvature"]["hessian"].value,
        "nve_drift": found["conservation"]["drift"].value,
        "finished": 100.0 * mean(run.failure is None for run in runs),
        "failed_relaxations": found["relaxation"]["failures"].value,
    }
    return Measured(**{name: float("nan") if v is None else float(v) for name, v in values.items()})


def accuracy(
    campaign: Campaign, files: Mapping[str, Path], structures: int, epochs: int, seeds: int, workers: int
) -> dict[str, list[Measured]]:
    """By objective: its best trial, with every seed."""
    training = partial(train, campaign=campaign, files=files, structures=structures, epochs=epochs)
    trials = [
        Trial(name=name, objectives=chosen, rate=rate)
        for name, variants in OBJECTIVES.items()
        for chosen in variants
        for rate in (RATES if len(variants) == 1 else FEW_RATES)
    ]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        best: dict[str, tuple[float, Path, Trial]] = {}
        for trial, (score, path) in zip(trials, pool.map(training, trials), strict=True):
            print(f"{trial}: {score:.1f}", flush=True)
            if trial.name not in best or score < best[trial.name][0]:
                best[trial.name] = score, path, trial
        again = [
            Trial(name=t.name, objectives=t.objectives, rate=t.rate, seed=seed)
            for _, _, t in best.values()
            for seed in range(1, seeds)
        ]
        paths = {name: [path] for name, (_, path, _) in best.items()}
        for trial, (_, path) in zip(again, pool.map(training, again), strict=True):
            paths[trial.name].append(path)
        everything = [path for of_one in paths.values() for path in of_one]
        results = iter(pool.map(partial(measured, files=files), everything))
        found = {name: [next(results) for _ in of_one] for name, of_one in paths.items()}
    for name, (_, _, trial) in best.items():
        print(f"best of {name}: {trial}")
    return found


def costs(campaign: Campaign, files: Mapping[str, Path], rounds: int = 5) -> Iterator[tuple[str, float, str]]:
    """Processor time of a training step with Hessian rows over one without, and of a teacher's rows."""
    teacher = load(files["teacher"])
    lessons = few(datasets.read_structures(files["train"]), 60)
    valid = lessons[:1]
    products = {"hessian_rows": Products(files["hessian_rows"])}
    once = campaign.student.optimisation.model_copy(update={"epochs": 1})
    kinds: dict[str, tuple[AnyObjective, ...]] = {
        "without": (),
        "hessian_s1": (HessianRows(stored=STORED),),
        "hessian_s1_exact": (HessianRows(stored=STORED, derivative="exact"),),
        "hessian_s4": (HessianRows(stored=STORED, per_step=4),),
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, chosen in kinds.items():
            setup = prepare(
                campaign.student.architecture, chosen, campaign.student.weights,
                teacher, lessons, valid, products, 0,
            )  # fmt: skip
            began = time.process_time()
            fit(setup, once)
            times[name].append(time.process_time() - began)
    for name in list(kinds)[1:]:
        ratios = [a / b for a, b in zip(times[name], times["without"], strict=True)]
        yield f"step_cost_{name}", median(ratios), "×"

    frames = lessons[:30]
    items = graphs(frames, teacher)
    per_row = {}
    for number in (1, 4, 16):
        wanted = [hessians.directions(Sampling(number=number).draw(a), len(a)) for a in frames]
        began = time.process_time()
        list(hessians.products(teacher, items, wanted))
        per_row[number] = (time.process_time() - began) / len(frames)
    for number, seconds in per_row.items():
        yield f"teacher_seconds_per_structure[{number} rows]", seconds, "s"


def figures(found: Mapping[str, Sequence[Measured]]) -> Iterator[tuple[str, float, str]]:
    """Mean and spread of every number, as `name[objective]`."""
    for name, runs in found.items():
        for field in fields(Measured):
            values = [getattr(run, field.name) for run in runs]
            yield f"{field.name}[{name}]", mean(values), UNITS[field.name]
            if len(values) > 1:
                yield f"{field.name}_spread[{name}]", stdev(values), UNITS[field.name]


def table(found: Mapping[str, Sequence[Measured]]) -> list[str]:
    """Lines of a markdown table: the mean and, after ±, the standard deviation over seeds."""
    heads = [f"{field.name.replace('_', ' ')}, {UNITS[field.name]}" for field in fields(Measured)]
    lines = [f"| objective | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, runs in found.items():
        shown = [name]
        for field in fields(Measured):
            values = [getattr(run, field.name) for run in runs]
            spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
            shown.append(f"{mean(values):.3g}{spread}")
        lines.append(f"| {' | '.join(shown)} |")
    return lines


def main() -> None:
    """Measure what was asked for, print tables, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = ("speed", "cost", "accuracy")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--structures", type=int, default=20, help="labelled ones that students learn from")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)

    campaign = load_campaign("nacl")
    rows: list[tuple[str, float, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if "speed" in args.parts:
            rows += speeds()
        if {"cost", "accuracy"} & set(args.parts):
            files = specialist(campaign, work)
            files["hessian_rows"] = hessians.label_files(
                files["teacher"], [files["train"]], Sampling(number=STORED), work
            )
            whole = Subject(potential=load(files["teacher"]), files={"test": files["test"]})
            itself = Accuracy().measure(whole).figures
            rows += [("force_mae[teacher]", itself["forces"].value or 0.0, UNITS["force_mae"])]
            rows += [("energy_mae[teacher]", itself["energy"].value or 0.0, UNITS["energy_mae"])]
        if "cost" in args.parts:
            rows += costs(campaign, files)
        if "accuracy" in args.parts:
            found = accuracy(campaign, files, args.structures, args.epochs, args.seeds, args.workers)
            print("\n".join(["", *table(found), ""]))
            rows += figures(found)
    publish(rows, args.json)


if __name__ == "__main__":
    main()
