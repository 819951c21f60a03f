"""The structures that a student learns from beside the labelled ones, labelled by its teacher."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from models.datasets import read_structures, write_structures
from models.dynamics import trajectories
from models.exploration.excursions import excursions
from models.potentials import Potential, load
from models.pseudolabels import pseudolabel

_MAX_FORCE = 25.0  # eV/Å


def pool(
    teacher: Potential,
    labelled: Sequence[Atoms],
    dynamics: Sequence[Sequence[Atoms]],
    n_structures: int,
    rattle: float,
    relax_steps: int,
    seed: int,
) -> list[Atoms]:
    """`n_structures` unlabelled structures: half from dynamics, half from `excursions` of labelled ones.

    The first of `dynamics` is the teacher's. Up to as many structures of each further one, which students
    ran into by themselves, come on top. Trajectories that are shorter than their half are made up for by
    more excursions.
    """
    rng = np.random.default_rng(seed)
    own, *met = dynamics
    structures = [_bare(frame) for frame in _some(own, n_structures // 2, rng)]
    structures += excursions(teacher, labelled, n_structures - len(structures), rattle, relax_steps, rng)
    for frames in met:
        structures += [_bare(frame) for frame in _some(frames, n_structures // 2, rng)]
    return structures


def label_pool(
    teacher: Path,
    train: Path,
    dynamics: Sequence[Path],
    n_structures: int,
    rattle: float,
    relax_steps: int,
    seed: int,
    work: Path,
) -> Path:
    """The file of structures that `teacher` labelled for its student (see `pool`).

    Those with a force above 25 eV/Å, where it is out of its depth, are left out.
    """
    potential = load(teacher)
    frames = [[atoms for run in trajectories.load(path) for atoms in run.to_atoms()] for path in dynamics]
    met = pool(potential, read_structures(train), frames, n_structures, rattle, relax_steps, seed)
    path = work / "teacher_labels.extxyz"
    labelled = pseudolabel(potential, met)
    write_structures(path, [a for a in labelled if np.abs(a.arrays["REF_forces"]).max() < _MAX_FORCE])
    return path


def _some(frames: Sequence[Atoms], number: int, rng: np.random.Generator) -> list[Atoms]:
    """At most `number` of the frames, in their order."""
    picks = rng.choice(len(frames), min(number, len(frames)), replace=False)
    return [frames[i] for i in sorted(picks)]


def _bare(frame: Atoms) -> Atoms:
    return Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
