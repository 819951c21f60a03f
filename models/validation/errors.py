"""Errors of predictions against labels, and points for parity plots.

Energies per atom in meV/atom, forces by Cartesian component in meV/Å (the convention of MACE), stresses by
component in meV/Å³, moments by magnitude in μB, magnetic forces by component in meV/μB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from models.datasets import fingerprint
from models.graphs import Prediction, as_matrix, moments


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Mean absolute, root mean square and largest error of `n` values."""

    mae: float
    rmse: float
    max: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors of energy (meV/atom), forces (meV/Å) and stress (meV/Å³); None where nothing is labelled.

    `forces_by_element` by chemical symbol; `energy_by_family` and `forces_by_family` by `info["family"]`.
    """

    energy: Metric | None
    forces: Metric | None
    stress: Metric | None
    forces_by_element: Mapping[str, Metric]
    energy_by_family: Mapping[str, Metric]
    forces_by_family: Mapping[str, Metric]
    n_structures: int
    n_trajectories: int


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Points for two parity plots.

    Energies in eV/atom after taking the reference's least-squares energy per atom of each element from
    both, so that differences stay what they are; force components in eV/Å.
    """

    energy_reference: Sequence[float]
    energy_predicted: Sequence[float]
    forces_reference: Sequence[float]
    forces_predicted: Sequence[float]


def errors(predictions: Sequence[Prediction], structures: Sequence[Atoms]) -> Errors:
    """Errors of `predictions` against `REF_energy`, `REF_forces` and `REF_stress` of the same `structures`.

    Raises ValueError on lengths that differ, on a prediction that is not finite, and where no structure has
    a label.
    """
    energy, forces = differences(predictions, structures)
    stress = stress_differences(predictions, structures)
    if not np.isfinite(energy).any() and not any(np.isfinite(f).any() for f in forces):
        raise ValueError(f"none of the {len(structures)} structures has REF_energy or REF_forces")
    families = np.array([str(atoms.info.get("family", "all")) for atoms in structures])
    n_atoms = [len(atoms) for atoms in structures]
    components = np.concatenate([f.ravel() for f in forces])
    symbols = np.concatenate([np.repeat(atoms.get_chemical_symbols(), 3) for atoms in structures])
    owner = np.repeat(np.arange(len(structures)), 3 * np.array(n_atoms))

    def by(keys: np.ndarray, values: np.ndarray) -> dict[str, Metric]:
        found = {str(key): _metric(values[keys == key]) for key in np.unique(keys)}
        return {key: value for key, value in found.items() if value is not None}

    return Errors(
        energy=_metric(energy),
        forces=_metric(components),
        stress=_metric(stress.ravel()),
        forces_by_element=by(symbols, components),
        energy_by_family=by(families, energy),
        forces_by_family=by(families[owner], components),
        n_structures=len(structures),
        n_trajectories=len(set(trajectory_names(structures))),
    )


def parity(
    predictions: Sequence[Prediction], structures: Sequence[Atoms], *, max_points: int = 2000, seed: int = 0
) -> Parity:
    """At most `max_points` points of each kind, drawn without replacement; unlabelled ones are left out."""
    energy, forces = differences(predictions, structures)
    counts = np.array([np.bincount(atoms.numbers, minlength=len(chemical_symbols)) for atoms in structures])
    labels = np.array([atoms.info.get("REF_energy", np.nan) for atoms in structures], dtype=float)
    known = np.isfinite(labels)
    baseline = (
        np.linalg.lstsq(counts[known], labels[known], rcond=None)[0]
        if known.any()
        else np.zeros(counts.shape[1])
    )
    reference = ((labels - counts @ baseline) / counts.sum(axis=1))[known]
    predicted = reference + 1e-3 * energy[known]
    true = np.concatenate([_forces(atoms).ravel() for atoms in structures])
    ours = true + 1e-3 * np.concatenate([f.ravel() for f in forces])
    labelled = np.isfinite(true)
    true, ours = true[labelled], ours[labelled]
    generator = np.random.default_rng(seed)

    def drawn(n: int) -> np.ndarray:
        return np.sort(generator.choice(n, min(n, max_points), replace=False))

    some, few = drawn(len(reference)), drawn(len(true))
    return Parity(
        energy_reference=reference[some].tolist(),
        energy_predicted=predicted[some].tolist(),
        forces_reference=true[few].tolist(),
        forces_predicted=ours[few].tolist(),
    )


def _forces(atoms: Atoms) -> np.ndarray:
    return np.asarray(atoms.arrays.get("REF_forces", np.full((len(atoms), 3), np.nan)), dtype=float)


def trajectory_names(structures: Sequence[Atoms]) -> list[str]:
    """What trajectory each structure is of; without the info key `trajectory` each is its own."""
    return [str(atoms.info.get("trajectory", f"structure {k}")) for k, atoms in enumerate(structures)]


def by_trajectory(names: Sequence[str], values: Sequence[Any] | np.ndarray) -> dict[str, tuple[float, float]]:
    """Sums of absolute values and their numbers by trajectory, of those that are labelled."""
    sums: dict[str, tuple[float, float]] = {}
    for name, part in zip(names, values, strict=True):
        labelled = np.abs(np.asarray(part)[np.isfinite(part)])
        total, count = sums.get(name, (0.0, 0.0))
        sums[name] = (total + float(labelled.sum()), count + float(labelled.size))
    return {name: sample for name, sample in sums.items() if sample[1]}


def stress_differences(predictions: Sequence[Prediction], structures: Sequence[Atoms]) -> np.ndarray:
    """Predicted minus reference stresses (S, 3, 3), meV/Å³; NaN where unlabelled or not predicted."""
    found = np.full((len(structures), 3, 3), np.nan)
    for k, (prediction, atoms) in enumerate(zip(predictions, structures, strict=True)):
        if prediction.stress is not None and "REF_stress" in atoms.info:
            reference = as_matrix(np.asarray(atoms.info["REF_stress"], dtype=float))
            found[k] = 1e3 * (prediction.stress - reference)
    return found


def differences(
    predictions: Sequence[Prediction], structures: Sequence[Atoms]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Predicted minus reference: energies (S,) meV/atom, forces S × (N, 3) meV/Å; NaN where unlabelled.

    Raises ValueError where the numbers differ, and on a prediction that is not finite.
    """
    if len(predictions) != len(structures):
        raise ValueError(f"{len(predictions)} predictions for {len(structures)} structures")
    for k, (p, atoms) in enumerate(zip(predictions, structures, strict=True)):
        if not (np.isfinite(p.energy) and np.isfinite(p.forces).all()):
            raise ValueError(f"structure {k} ({atoms.get_chemical_formula()}): the prediction is not finite")
    energy = np.array(
        [
            1e3 * (p.energy - float(atoms.info.get("REF_energy", np.nan))) / len(atoms)
            for p, atoms in zip(predictions, structures, strict=True)
        ]
    )
    forces = [1e3 * (p.forces - _forces(atoms)) for p, atoms in zip(predictions, structures, strict=True)]
    return energy, forces


def magnetic_differences(
    predictions: Sequence[Prediction], structures: Sequence[Atoms]
) -> dict[str, list[np.ndarray]]:
    """Predicted minus reference `moments` S × (N,) μB and `magnetic_forces` S × (N, 3) meV/μB.

    NaN where unlabelled or not predicted.
    """
    found: dict[str, list[np.ndarray]] = {"moments": [], "magnetic_forces": []}
    for prediction, atoms in zip(predictions, structures, strict=True):
        label, _ = moments(atoms)
        unknown = np.full((len(atoms), 3), np.nan)
        magnitudes = np.linalg.norm(unknown if label is None else label, axis=1)
        said = prediction.magmoms if prediction.magmoms is not None else unknown[:, 0]
        found["moments"].append(said - magnitudes)
        said = prediction.magnetic_forces if prediction.magnetic_forces is not None else unknown
        found["magnetic_forces"].append(1e3 * (said - atoms.arrays.get("REF_magnetic_forces", unknown)))
    return found


def order_differences(
    predictions: Sequence[Prediction], structures: Sequence[Atoms]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By trajectory: energies of one geometry's magnetic orders less that of its first, meV/atom.

    Predicted and reference, for every pair of structures that differ in nothing but their moments.
    """
    first: dict[str, int] = {}
    pairs: dict[str, list[tuple[float, float]]] = {}
    for k, (name, atoms) in enumerate(zip(trajectory_names(structures), structures, strict=True)):
        if "REF_magmoms" not in atoms.arrays or "REF_energy" not in atoms.info:
            continue
        start = first.setdefault(fingerprint(atoms), k)
        if start != k:
            said = predictions[k].energy - predictions[start].energy
            true = float(atoms.info["REF_energy"] - structures[start].info["REF_energy"])
            pairs.setdefault(name, []).append((1e3 * said / len(atoms), 1e3 * true / len(atoms)))
    split = {name: np.array(values).T for name, values in pairs.items()}
    return {name: (values[0], values[1]) for name, values in split.items()}


def _metric(values: np.ndarray) -> Metric | None:
    values = np.abs(values[np.isfinite(values)])
    if not len(values):
        return None
    return Metric(
        mae=float(values.mean()),
        rmse=float(np.sqrt((values**2).mean())),
        max=float(values.max()),
        n=len(values),
    )
