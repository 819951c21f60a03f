"""A student from its teacher's lessons and the reference labels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms

from models import losses
from models.datasets import fingerprint, read_structures
from models.distillation.hessians import Products
from models.distillation.objectives import AnyObjective, Teaching
from models.distillation.students import Student
from models.e0s import E0Policy, count_elements, ridge_fit
from models.finetuning import save_fit
from models.graphs import graph
from models.potentials import Potential, load
from models.strategies import TARGET_HEAD
from models.training import Optimisation, Report, TrainingSetup, fit

LABELS = ("train", "teacher_labels")
"""The roles of the files that a student learns from."""


def bound_e0s(teacher: Potential, lessons: Sequence[Atoms], elements: Sequence[int]) -> dict[int, float]:
    """The teacher's E0s plus the mean binding energy per atom of each element in `lessons`, eV.

    A network of a few thousand weights learns small differences quickly and several eV per atom
    slowly. The price: these are no longer energies of isolated atoms, which a student never meets.
    """
    counts = count_elements(lessons, elements)
    e0s = np.array([teacher.e0s()[z] for z in elements])
    energies = np.array([atoms.info["REF_energy"] for atoms in lessons])
    bound = e0s + ridge_fit(counts, energies - counts @ e0s, E0Policy().ridge)
    return dict(zip(elements, map(float, bound), strict=True))


def prepare(
    student: Student,
    objectives: Sequence[AnyObjective],
    weights: losses.Weights,
    teacher: Potential,
    structures: Sequence[Atoms],
    valid: Sequence[Atoms],
    products: Mapping[str, Products],
    seed: int,
) -> TrainingSetup:
    """A fresh student, what it learns from, and its loss.

    `structures` carry labels or pseudolabels, `valid` labels; `products` are the teacher's, by kind of
    objective. Raises ValueError where an objective does not suit the student or has no labels.
    """
    present = sorted({int(z) for atoms in (*structures, *valid) for z in atoms.numbers})
    e0s = bound_e0s(teacher, structures, present)
    train = [graph(atoms, present, student.cutoff) for atoms in structures]
    network = student.network(e0s, train, seed)
    teaching = Teaching(teacher, structures, valid, products, weights)
    lessons = [objective.prepare(network, teaching) for objective in objectives]
    for lesson in lessons:
        if lesson.of_each is not None:
            train = [
                replace(item, lessons={**item.lessons, **said})
                for item, said in zip(train, lesson.of_each, strict=True)
            ]
    return TrainingSetup(
        network=network,
        train=train,
        valid={"target": [graph(atoms, present, student.cutoff) for atoms in valid]},
        weights=[weights],
        terms=[lesson.term for lesson in lessons if lesson.term is not None],
    )


def distil(
    student: Student,
    objectives: Sequence[AnyObjective],
    weights: losses.Weights,
    optimisation: Optimisation,
    files: Mapping[str, Path],
    provenance: Mapping[str, str],
    work: Path,
    report: Report | None = None,
) -> dict[str, Path]:
    """Train a student; returns the files `checkpoint` and `history`. A killed call goes on from `work`.

    `files` has the `teacher`, the reference labels `train` and `valid`, and where there are any, the
    `teacher_labels` of further structures and, by kind of objective, the teacher's products. All labels have
    equal weight per structure. A structure that is validated on is not learnt, whoever labelled it.
    """
    teacher = load(files["teacher"])
    frames = {role: read_structures(files[role]) for role in (*LABELS, "valid") if role in files}
    held_out = {fingerprint(atoms) for atoms in frames["valid"]}
    structures = [
        atoms for role in LABELS for atoms in frames.get(role, []) if fingerprint(atoms) not in held_out
    ]
    products: dict[str, Products] = {o.kind: Products(files[o.kind]) for o in objectives if o.kind in files}
    setup = prepare(
        student, objectives, weights, teacher, structures, frames["valid"], products, optimisation.seed
    )
    fitted = fit(setup, optimisation, state_path=work / "state.pt", report=report)
    for objective in objectives:
        objective.finish(fitted.network)
    engine = Potential(
        network=fitted.network,
        level_of_theory={TARGET_HEAD: teacher.level_of_theory[teacher.heads[-1]]},
        provenance=dict(provenance),
    )
    assert engine.heads == [TARGET_HEAD]
    return save_fit(engine, fitted, work)
