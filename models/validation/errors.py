"""Errors of predictions against labels, and points for parity plots.

Energies per atom in meV/atom, forces by Cartesian component in meV/Å (the convention of MACE), stresses by
component in meV/Å³.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from models.graphs import Prediction, as_matrix


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
