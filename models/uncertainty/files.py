"""Uncertainties as files: fitted to checkpoints and labels, calibrated, and read again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised

from models import potentials
from models.datasets import DataError, read_structures
from models.potentials import Potential, header
from models.uncertainty.base import Told, Uncertainty
from models.uncertainty.calibration import Calibration, HeldOut, calibrate, check_enough, examine
from models.uncertainty.estimator import Ensemble, Estimator
from models.uncertainty.groups import grouped

_METADATA_KEY = "temper-uncertainty"


def fit_files(
    uncertainty: Uncertainty,
    checkpoints: Sequence[Path],
    train: Path,
    valid: Path,
    work: Path,
    report: Told | None = None,
) -> dict[str, Path]:
    """Fit an uncertainty and calibrate it: the files `uncertainty` (for `load`) and `calibration` (JSON).

    `checkpoints` are the specialist and as many others, of other seeds, as `uncertainty.trainings`; `train`
    the labels that it has learnt, `valid` labels that no training has seen. Raises DataError where
    checkpoints do not go together or labels are too few or not whole.
    """
    if len(checkpoints) != 1 + uncertainty.trainings:
        raise DataError(
            f"an uncertainty of kind {uncertainty.kind!r} takes the specialist and {uncertainty.trainings} "
            f"further checkpoints, not {len(checkpoints)} in all"
        )
    # An atom alone has no force, and no error of it.
    learnt, held_out = _labelled(train), [a for a in _labelled(valid) if len(a) > 1]
    check_enough(sum(map(len, held_out)), uncertainty.coverage)
    members = _loaded(checkpoints)
    perturbations = uncertainty.perturbations(members[0], learnt, held_out, report)

    opinions = Ensemble(members, perturbations).ask(held_out)
    errors = [
        np.linalg.norm(a.arrays["REF_forces"] - o.forces, axis=1)
        for a, o in zip(held_out, opinions, strict=True)
    ]
    shown = HeldOut(spreads=[o.atoms for o in opinions], errors=errors)
    calibration = calibrate(shown, uncertainty.coverage)
    found = {"kind": uncertainty.kind, **examine(calibration, shown, grouped(held_out))}

    paths = {"uncertainty": work / "uncertainty.safetensors", "calibration": work / "calibration.json"}
    fitted = {"calibration": calibration.model_dump(), "checkpoints": [_digest(p) for p in checkpoints]}
    tensors = {} if perturbations is None else {"perturbations": perturbations.contiguous()}
    paths["uncertainty"].write_bytes(serialised(tensors, {_METADATA_KEY: json.dumps(fitted, sort_keys=True)}))
    paths["calibration"].write_text(json.dumps(found, indent=1, allow_nan=False))
    return paths


def load(path: Path, checkpoints: Sequence[Path]) -> Estimator:
    """The estimator of a file that `fit_files` made; raises DataError where it is of other checkpoints."""
    try:
        with safe_open(path, framework="pt") as file:
            fitted = json.loads((file.metadata() or {})[_METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"{path}: not the file of an uncertainty ({error})") from error
    if fitted["checkpoints"] != [_digest(p) for p in checkpoints]:
        raise DataError(
            f"{path}: was fitted to other checkpoints than {', '.join(map(str, checkpoints))}; fit it again"
        )
    ensemble = Ensemble(_loaded(checkpoints), tensors.get("perturbations"))
    return Estimator(ensemble, Calibration(**fitted["calibration"]))


def _loaded(checkpoints: Sequence[Path]) -> list[Potential]:
    described = [header(path)["architecture"] for path in checkpoints]
    for path, other in zip(checkpoints, described, strict=True):
        if any(other[key] != described[0][key] for key in ("atomic_numbers", "r_max", "heads")):
            raise DataError(f"{path}: has other elements, cutoff or heads than {checkpoints[0]}")
    return [potentials.load(path) for path in checkpoints]


def _labelled(path: Path) -> list[Atoms]:
    frames = read_structures(path)
    for index, frame in enumerate(frames):
        energy, forces = frame.info.get("REF_energy", np.nan), frame.arrays.get("REF_forces", np.nan)
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise DataError(f"{path}, frame {index}: needs a finite REF_energy and finite REF_forces")
    return frames


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
