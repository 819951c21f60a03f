"""Who computes, and with what: the agents of the provenance record."""

import getpass
import platform
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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


@cache
def software() -> dict[str, Any]:
    """Versions of Python and of the installed packages that results depend on.

    In a git checkout also ``git``: the commit and whether tracked files differ from it.
    """
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


def _git(root: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
