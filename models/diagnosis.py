"""Whether networks compute here as they should."""

from collections.abc import Mapping

import numpy as np
import torch
from ase.build import molecule

from models import devices, potentials
from models.foundation import shipped
from models.graphs import graphs, predict

ENOUGH = {"float64": 1e-8, "float32": 1e-4}
"""How far (eV/Å) forces may be from those of float64 on the CPU."""


def accelerators() -> str:
    """The GPUs that torch sees, and the CUDA that it was built for, in words."""
    built = torch.version.cuda and f"CUDA {torch.version.cuda}"
    seen = [
        f"{properties.name} with {properties.total_memory / 1e9:.0f} GB"
        for k in range(torch.cuda.device_count())
        if (properties := torch.cuda.get_device_properties(k))
    ]
    return f"{', '.join(seen) or 'none'}; torch {torch.__version__} is built for {built or 'the CPU alone'}"


def precision(device: str) -> Mapping[str, float]:
    """How far (eV/Å) the forces of the shipped foundation are from those of float64 on the CPU, by type.

    Leaves this process on `device`. Raises DeviceError.
    """
    path = shipped()["temper-gfn1"]

    def forces(dtype: torch.dtype) -> np.ndarray:
        potential = potentials.load(path, dtype)
        return predict(potential, graphs([molecule("CH3CH2OH")], potential))[0].forces

    devices.choose("cpu")
    expected = forces(torch.float64)
    devices.choose(device)
    return {dtype: float(np.abs(forces(getattr(torch, dtype)) - expected).max()) for dtype in ENOUGH}
