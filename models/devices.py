"""Where networks compute: on the CPU, or on a GPU that was chosen for this process.

Networks are built, stored and handed on as CPU networks. Training, predictions and dynamics take them to the
chosen device and bring their results back.
"""

import copy
from typing import Any

import torch

_chosen = torch.device("cpu")


class DeviceError(ValueError):
    """A device that this machine does not have; the message says what it has."""


def find(name: str) -> torch.device:
    """The device of this name: "cpu", "cuda", "cuda:1", …; "auto": a GPU where there is one, else the CPU.

    Raises DeviceError where torch cannot compute there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        probe = torch.zeros(1, device=name)
        probe.item()
    except Exception as error:  # torch raises assertions, runtime and type errors
        here = ", ".join(["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))])
        reason = str(error).splitlines()[0]
        raise DeviceError(f"TEMPER_DEVICE={name}: {reason}; devices here: {here}") from error
    return probe.device


def is_gpu(name: str) -> bool:
    """Whether the device of this name (see `find`) is a GPU, be it there or not."""
    return name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())


def choose(name: str) -> torch.device:
    """Let this process compute on the device of this name from now on (see `find`)."""
    global _chosen  # noqa: PLW0603  # one process computes on one device
    _chosen = find(name)
    return _chosen


def chosen() -> torch.device:
    """Where this process computes; the CPU unless another device was chosen."""
    return _chosen


def moved(network: Any) -> Any:
    """The network on the chosen device: itself where it is there already, else a copy."""
    if next(network.parameters()).device == _chosen:
        return network
    return copy.deepcopy(network).to(_chosen)
