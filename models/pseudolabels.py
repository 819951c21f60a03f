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
    """The parts `replay_train`, `replay_valid` and `replay_test`, split by trajectory.

    All carry the foundation's pseudolabels, but `replay_test` keeps its own labels where it has
    them: they tell what of the pretraining accuracy is kept.
    """
    frames = read_structures(structures)
    if len(frames) > n_structures:
        picks = np.random.default_rng(seed).choice(len(frames), n_structures, replace=False)
        frames = [frames[i] for i in sorted(picks)]
    parts = split(frames, Splitting(valid=0.15, test=0.3, seed=seed), str(structures))
    potential = load(foundation)
    made = {}
    for name, indices in parts.indices.items():
        chosen = [frames[i] for i in indices]
        own_labels = name == "test" and all("REF_forces" in frame.arrays for frame in chosen)
        chosen = chosen if own_labels else pseudolabel(potential, chosen)
        path = work / f"replay_{name}.extxyz"
        write_structures(path, chosen)
        source = "reference" if own_labels else "foundation"
        made[f"replay_{name}"] = Part(path=path, contents={**describe(chosen), "labels_from": source})
    return made
