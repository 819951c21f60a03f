"""Waiting for what happens in other processes and threads, on a machine that may be busy."""

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

Found = TypeVar("Found")


def until(look: Callable[[], Found], what: str = "it does not happen", seconds: float = 300.0) -> Found:
    """What `look` finds at last. Raises AssertionError, which says `what`, where it finds nothing in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} (not within {seconds:.0f} s)"
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    """Whether a process is there; one that has ended and that nobody has asked about is not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
