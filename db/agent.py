"""Who computes, and with what: the agents of the provenance record."""

import getpass
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from db.canonical import JSON

PACKAGES = (
    "temper-mlip",
    "torch",
    "mace-torch",
    "e3nn",
    "ase",
    "numpy",
    "scipy",
    "matscipy",
    "tblite",
    "prefect",
    "sqlalchemy",
)

VARIABLES = (
    "PYTHONHASHSEED",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ATEN_CPU_CAPABILITY",
    "OPENBLAS_CORETYPE",
    "TEMPER_DEVICE",
)
"""Variables that change how numbers are rounded."""

_declared: dict[str, dict[str, JSON]] = {}


def user() -> str:
    """Login name of the person the process runs for."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user id has no name
        return "unknown"


def host() -> str:
    """Name of this machine."""
    return socket.gethostname()


def who() -> str:
    """``user@host``."""
    return f"{user()}@{host()}"


def declare(name: str, **facts: JSON) -> None:
    """Say of how this process computes what only the caller knows; it goes on record with every step."""
    _declared[name] = facts


def software() -> dict[str, Any]:
    """Everything around a computation that its result may depend on.

    Versions of Python and of the installed packages by name; in a git checkout also ``git``: the commit and
    whether tracked files differ from it; ``machine``: processor, logical cores, GPUs with their driver, and
    numpy's linear algebra; ``environment``: variables that change how numbers are rounded, as far as they are
    set; and whatever was declared.
    """
    environment = {name: value for name in VARIABLES if (value := os.environ.get(name)) is not None}
    return {**_installed(), "machine": _machine(), "environment": environment, **_declared}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two answers of ``software``, by dotted name; None stands for what is not said."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in sorted(before.keys() | after.keys()):
        then, now = before.get(name), after.get(name)
        if isinstance(then, Mapping) and isinstance(now, Mapping):
            found |= {f"{name}.{inner}": pair for inner, pair in changes(then, now).items()}
        elif then != now:
            found[name] = (then, now)
    return found


def drift(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two answers of ``software`` in words, one thing each: "torch 2.12.0 → 2.13.0".

    Of what one of them does not speak at all, as records of earlier versions of the machine, nothing is said.
    """
    return [
        f"{_WORDS.get(name, name.removeprefix('environment.'))} {_short(then)} → {_short(now)}"
        for name, (then, now) in changes(before, after).items()
        if not isinstance(then or now, Mapping)
    ]


_WORDS = {
    "python": "Python",
    "temper-mlip": "Temper",
    "git.commit": "commit of Temper",
    "git.dirty": "uncommitted changes",
    "machine.processor": "processor",
    "machine.cores": "cores",
    "machine.system": "system",
    "machine.blas": "linear algebra",
    "machine.gpus": "GPUs",
    "machine.driver": "GPU driver",
}


def _short(value: Any) -> str:
    """A value of ``software`` in a sentence."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{40}", text) else text


@cache
def _installed() -> dict[str, Any]:
    """Versions, and the state of the checkout."""
    versions: dict[str, Any] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists() and (commit := _git(root, "rev-parse", "--verify", "HEAD")):
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no") != ""
        versions["git"] = {"commit": commit, "dirty": dirty}
    return versions


@cache
def _machine() -> dict[str, Any]:
    """The hardware, and what numpy was built with to use it."""
    import numpy as np  # nobody waits for it who only reads the record

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    gpus, driver = _gpus()
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "blas": f"{blas['name']} {blas['version']}",
        "gpus": gpus,
        **({"driver": driver} if gpus else {}),
    }


def _processor() -> str:
    """The name that the processor gives itself."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    names = (
        line.partition(":")[2].strip() for line in described.splitlines() if line.startswith("model name")
    )
    return next(names, platform.processor())


def _gpus() -> tuple[list[str], str]:
    """Names of the NVIDIA GPUs, and their driver's version."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    answer = _said(asked, seconds=10) if shutil.which(asked[0]) else None
    rows = [line.rpartition(", ") for line in (answer or "").splitlines()]
    return [name for name, comma, _ in rows if comma], next((driver for *_, driver in rows), "")


def _git(root: Path, *arguments: str) -> str | None:
    return _said(["git", "-C", str(root), *arguments], seconds=30)


def _said(command: list[str], seconds: float) -> str | None:
    """What a command prints; None where it fails."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
