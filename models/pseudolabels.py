"""Pseudolabels: a model's own predictions written as labels, from one source and one level."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from models.datasets import Part, Splitting, describe, read_structures, split, write_structures
from models.graphs import graphs, predict
from models.potentials import Potential, load


def pseudolabel(potential: Potential, structures: Sequence[Atoms], *, stress: bool = False) -> list[Atoms]:
    """Copies of `structures` labelled by `potential`: energy eV, forces eV/Å, stress eV/Å³.

    Labels that a structure had are replaced. Raises ValueError on an unknown element, and
    FloatingPointError naming the structure where a prediction is not finite.
    """
    labelled = []
    predictions = predict(potential, graphs(structures, potential), stress=stress)
    for index, (structure, prediction) in enumerate(zip(structures, predictions, strict=True)):
        if not (np.isfinite(prediction.energy) and np.isfinite(prediction.forces).all()):
            raise FloatingPointError(
                f"structure {index} ({structure.get_chemical_formula()}): prediction is not finite"
            )
        copy = structure.copy()
        copy.calc = None
        copy.info.pop("REF_stress", None)
        copy.info["REF_energy"] = prediction.energy
        copy.arrays["REF_forces"] = prediction.forces
        if prediction.stress is not None:
            copy.info["REF_stress"] = prediction.stress
        labelled.append(copy)
    return labelled


def replay_set(
    foundation: Path, structures: Path, n_structures: int, seed: int, work: Path
) -> dict[str, Part]:
    """The replay set, split by trajectory into train, valid and test.

    `replay_train` and `replay_valid` carry the foundation's pseudolabels. Where all structures have
    labels of their own, `original_train` and `original_valid` are the same structures with those, and
    so has `replay_test` its own: they tell what of the pretraining accuracy is kept.
    """
    frames = read_structures(structures)
    if len(frames) > n_structures:
        picks = np.random.default_rng(seed).choice(len(frames), n_structures, replace=False)
        frames = [frames[i] for i in sorted(picks)]
    split_up = split(frames, Splitting(valid=0.15, test=0.3, seed=seed), str(structures)).indices
    parts = {name: [frames[i] for i in indices] for name, indices in split_up.items()}
    potential = load(foundation)
    made = {}
    if all(has_labels(frame) for frame in frames):
        made["replay_test"] = (parts.pop("test"), "reference")
        made |= {f"original_{name}": (chosen, "reference") for name, chosen in parts.items()}
    made |= {
        f"replay_{name}": (pseudolabel(potential, chosen), "foundation") for name, chosen in parts.items()
    }
    return {
        name: _written(work / f"{name}.extxyz", chosen, source) for name, (chosen, source) in made.items()
    }


def has_labels(atoms: Atoms) -> bool:
    """Whether a structure has an energy and forces of its own."""
    return "REF_energy" in atoms.info and "REF_forces" in atoms.arrays


def _written(path: Path, frames: Sequence[Atoms], source: str) -> Part:
    write_structures(path, frames)
    return Part(path=path, contents={**describe(frames), "labels_from": source})
