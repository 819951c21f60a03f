"""A student from its teacher: the teacher labels what it met in its own dynamics, the student learns it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from models import losses
from models.datasets import fingerprint, read_structures, write_structures
from models.distillation.students import SmallMace
from models.dynamics import trajectories
from models.e0s import E0Policy, count_elements, ridge_fit
from models.finetuning import save_fit
from models.graphs import graph
from models.potentials import Potential, load
from models.pseudolabels import pseudolabel
from models.strategies import TARGET_HEAD
from models.training import Optimisation, Report, TrainingSetup, fit

_MAX_FORCE = 25.0  # eV/Å


def pool(
    labelled: Sequence[Atoms],
    dynamics: Sequence[Sequence[Atoms]],
    n_structures: int,
    rattle: float,
    seed: int,
) -> list[Atoms]:
    """`n_structures` unlabelled structures: half from dynamics, half rattled copies of labelled ones.

    The first of `dynamics` is the teacher's. Up to as many structures of each further one, which students
    ran into by themselves, come on top.

    `rattle` is the largest standard deviation of a coordinate, Å; each copy has its own, from zero to
    that, so that a student knows what lies beyond thermal motion. Trajectories that are shorter
    than their half are made up for by more rattled structures.
    """
    rng = np.random.default_rng(seed)
    own, *met = dynamics
    structures = [_bare(frame) for frame in _some(own, n_structures // 2, rng)]
    while len(structures) < n_structures:
        copy = _bare(labelled[int(rng.integers(len(labelled)))])
        copy.positions += rng.normal(scale=rng.uniform(0.0, rattle), size=copy.positions.shape)
        structures.append(copy)
    for frames in met:
        structures += [_bare(frame) for frame in _some(frames, n_structures // 2, rng)]
    return structures


def _some(frames: Sequence[Atoms], number: int, rng: np.random.Generator) -> list[Atoms]:
    """At most `number` of the frames, in their order."""
    picks = rng.choice(len(frames), min(number, len(frames)), replace=False)
    return [frames[i] for i in sorted(picks)]


def _bare(frame: Atoms) -> Atoms:
    return Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)


def label_pool(
    teacher: Path,
    train: Path,
    dynamics: Sequence[Path],
    n_structures: int,
    rattle: float,
    seed: int,
    work: Path,
) -> Path:
    """The file of structures that `teacher` labelled for its student (see `pool`).

    Those with a force above 25 eV/Å, where it is out of its depth, are left out.
    """
    frames = [[atoms for run in trajectories.load(path) for atoms in run.to_atoms()] for path in dynamics]
    labelled = pseudolabel(load(teacher), pool(read_structures(train), frames, n_structures, rattle, seed))
    path = work / "teacher_labels.extxyz"
    write_structures(path, [a for a in labelled if np.abs(a.arrays["REF_forces"]).max() < _MAX_FORCE])
    return path


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


def distil(
    student: SmallMace,
    optimisation: Optimisation,
    teacher: Path,
    data: dict[str, Path],
    provenance: dict[str, str],
    work: Path,
    report: Report | None = None,
) -> dict[str, Path]:
    """Train `student` on reference labels (`train`) and the teacher's (`teacher_labels`).

    Energies and forces of both have equal weight per structure; `valid` holds reference labels.
    Returns the files `checkpoint` and `history`. A killed call goes on from `work`.
    """
    taught_by = load(teacher)
    frames = {role: read_structures(path) for role, path in data.items()}
    present = sorted({int(z) for items in frames.values() for atoms in items for z in atoms.numbers})
    held_out = {fingerprint(atoms) for atoms in frames["valid"]}
    lessons = [
        a for role in ("train", "teacher_labels") for a in frames[role] if fingerprint(a) not in held_out
    ]
    e0s = bound_e0s(taught_by, lessons, present)
    train = [graph(a, present, student.cutoff) for a in lessons]
    network = student.network(e0s, train, optimisation.seed)
    setup = TrainingSetup(
        network=network,
        train=train,
        valid={"target": [graph(a, present, student.cutoff) for a in frames["valid"]]},
        weights=[losses.Weights(energy=1.0, forces=10.0)],
    )
    fitted = fit(setup, optimisation, state_path=work / "state.pt", report=report)
    engine = Potential(
        network=fitted.network,
        level_of_theory={TARGET_HEAD: taught_by.level_of_theory[taught_by.heads[-1]]},
        provenance=provenance,
    )
    assert engine.heads == [TARGET_HEAD]
    return save_fit(engine, fitted, work)
