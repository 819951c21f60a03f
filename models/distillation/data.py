"""The structures that a student learns from beside the labelled ones, labelled by its teacher."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from models.datasets import read_structures, write_structures
from models.dynamics import trajectories
from models.dynamics.relax import relax
from models.potentials import Potential, load
from models.pseudolabels import pseudolabel

_MAX_FORCE = 25.0  # eV/Å
_FMAX = 0.05  # eV/Å
_REPEATS = 3


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


def excursions(
    teacher: Potential,
    starts: Sequence[Atoms],
    number: int,
    rattle: float,
    relax_steps: int,
    rng: np.random.Generator,
) -> list[Atoms]:
    """`number` structures met by rattling, relaxing a little on the teacher's surface, and again.

    `rattle` is the largest standard deviation of a coordinate, Å; each copy has its own, from zero to
    that, so that a student knows what lies beyond thermal motion. Without `relax_steps` every structure is
    a rattled start. Where the teacher fails, an excursion ends.
    """
    found: list[Atoms] = []
    while len(found) < number:
        walkers = [_bare(starts[int(rng.integers(len(starts)))]) for _ in range(number - len(found))]
        if relax_steps:
            walkers = walkers[: -(-len(walkers) // (2 * _REPEATS))]
        for _ in range(_REPEATS if relax_steps else 1):
            walkers = [walker.copy() for walker in walkers]
            for walker in walkers:
                walker.positions += rng.normal(scale=rng.uniform(0.0, rattle), size=walker.positions.shape)
            found += walkers
            if relax_steps and walkers:
                ended = relax(teacher, walkers, fmax=_FMAX, steps=relax_steps)
                walkers = [one.atoms for one in ended if one.failure is None]
                found += walkers
    return found[:number]


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
