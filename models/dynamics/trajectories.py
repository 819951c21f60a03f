"""What molecular dynamics leaves behind."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from safetensors import safe_open
from safetensors.numpy import save as serialised

from models.dynamics.limits import Failure, Reason

_METADATA_KEY = "temper"
_ARRAYS = (
    "numbers",
    "cell",
    "pbc",
    "times_fs",
    "positions",
    "potential_energy",
    "kinetic_energy",
    "temperature",
)


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """T saved frames of N atoms.

    `numbers` (N,); `cell` (T, 3, 3) Å; `pbc` (3,); `times_fs` (T,); `positions` (T, N, 3) Å, not wrapped
    into the cell; `potential_energy` and `kinetic_energy` (T,) eV; `temperature` (T,) K. The first
    frame is the start. A replica with a `failure` keeps every frame saved before it.
    """

    numbers: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    times_fs: np.ndarray
    positions: np.ndarray
    potential_energy: np.ndarray
    kinetic_energy: np.ndarray
    temperature: np.ndarray
    failure: Failure | None

    def to_atoms(self) -> list[Atoms]:
        """The frames as ASE structures, with time, energy and temperature in `info`."""
        return [
            Atoms(
                numbers=self.numbers,
                positions=positions,
                cell=cell,
                pbc=self.pbc,
                info={"time_fs": float(time), "MD_energy": float(energy), "temperature": float(temperature)},
            )
            for time, positions, cell, energy, temperature in zip(
                self.times_fs,
                self.positions,
                self.cell,
                self.potential_energy,
                self.temperature,
                strict=True,
            )
        ]


def save(trajectories: Sequence[Trajectory], path: Path) -> None:
    """Write trajectories to one safetensors file; the same trajectories give the same bytes."""
    tensors = {
        f"{k:05d}.{name}": np.ascontiguousarray(getattr(trajectory, name))
        for k, trajectory in enumerate(trajectories)
        for name in _ARRAYS
    }
    failures = [None if t.failure is None else asdict(t.failure) for t in trajectories]
    path.write_bytes(serialised(tensors, {_METADATA_KEY: json.dumps({"failures": failures}, sort_keys=True)}))


def load(path: Path) -> list[Trajectory]:
    """Read what `save` wrote. Raises ValueError where the file is something else."""
    with safe_open(path, framework="numpy") as file:
        described = (file.metadata() or {}).get(_METADATA_KEY)
        failures = None if described is None else json.loads(described).get("failures")
        if failures is None:
            raise ValueError(f"{path}: not a file of trajectories")
        return [_read(file, k, failure) for k, failure in enumerate(failures)]


def _read(file: Any, k: int, failure: Mapping[str, Any] | None) -> Trajectory:
    arrays = {name: file.get_tensor(f"{k:05d}.{name}") for name in _ARRAYS}
    # Files from before cells could move have one cell for all frames.
    arrays["cell"] = np.broadcast_to(arrays["cell"], (len(arrays["times_fs"]), 3, 3))
    return Trajectory(
        **arrays,
        failure=None if failure is None else Failure(**{**failure, "reason": Reason(failure["reason"])}),
    )
