"""Selection from files: a pool and labelled structures in, the structures to label out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.datasets import fingerprint, read_structures, write_structures
from models.potentials import load
from models.selection.arms import draw
from models.selection.base import Candidates, Selector
from models.selection.descriptors import see
from models.systems.random_crystals import contact

CLOSEST = 0.5  # of the sum of the covalent radii
MAX_FORCE = 30.0  # eV/Å


def select_files(
    selector: Selector,
    control: float,
    number: int,
    pool: Path,
    known: Sequence[Path],
    checkpoint: Path,
    seed: int,
    work: Path,
    *,
    excluded: Sequence[Path] = (),
) -> Path:
    """Choose up to `number` structures of `pool` that no file of `known` has; work/selection.extxyz.

    round(`control` · `number`) of them are the control arm (see `arms.draw`). What is in a file of `excluded`
    is never chosen, as what is tested on. Frames keep their info from the pool, and have `arm` ("selected" or
    "control"), `rank` (1 is labelled first) and, where the selector has one, `score`. Structures with atoms
    closer than half the sum of their covalent radii, or on which the model finds a force above 30 eV/Å, are
    not chosen. The file is empty where nothing in the pool is new. Raises DataError on an unreadable file,
    and ValueError where the selector needs an uncertainty that the pool has not, or where the model does not
    know an element.
    """
    barred = {fingerprint(atoms) for path in excluded for atoms in read_structures(path)}
    near = [
        atoms
        for atoms in read_structures(pool)
        if contact(atoms) >= CLOSEST and fingerprint(atoms) not in barred
    ]
    labelled = [atoms for path in known for atoms in read_structures(path)]
    potential = load(checkpoint)
    seen = see(potential, near)
    sound = [(a, s) for a, s in zip(near, seen, strict=True) if s.max_force <= MAX_FORCE]
    values = [atoms.info.get("uncertainty") for atoms, _ in sound]
    candidates = Candidates(
        structures=[atoms for atoms, _ in sound],
        descriptors=[one.invariants for _, one in sound],
        uncertainty=None if None in values else np.array(values, dtype=float),
    )
    have = Candidates(structures=labelled, descriptors=[one.invariants for one in see(potential, labelled)])
    frames = []
    arms = draw(selector, control, number, candidates, have, np.random.default_rng(seed))
    for rank, drawn in enumerate(arms, start=1):
        frame = candidates.structures[drawn.choice.index].copy()
        frame.info |= {"arm": drawn.arm, "rank": rank}
        if drawn.choice.score is not None:
            frame.info["score"] = drawn.choice.score
        frames.append(frame)
    path = work / "selection.extxyz"
    write_structures(path, frames)
    return path
