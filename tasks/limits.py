"""What a child process and all that it starts may use: looked at from outside, and enforced."""

import contextlib
import os
import resource
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

import psutil

LOOK_SECONDS = 0.1  # between two looks


class OutOfTime(RuntimeError):
    """A child was killed because it took longer than it was allowed to."""


class OutOfMemory(RuntimeError):
    """A child was killed because it used more memory than it was allowed to."""


class Limits(Protocol):
    """What a child and all that it starts may use; None: without a limit."""

    @property
    def seconds(self) -> float | None:
        """Wall-clock time."""

    @property
    def memory_gb(self) -> float | None:
        """Resident memory (10⁹ bytes)."""


class Watch:
    """Sees to it that a child keeps within its limits."""

    def __init__(self, process: ForkServerProcess, limits: Limits) -> None:
        self._process, self._limits = process, limits
        self._started = self._looked = time.monotonic()

    def look(self) -> None:
        """Kill a child beyond a limit, and all that it started; raises OutOfTime or OutOfMemory."""
        now, seconds, memory_gb = time.monotonic(), self._limits.seconds, self._limits.memory_gb
        if seconds is not None and now - self._started > seconds:
            self._kill()
            raise OutOfTime(f"{self._process.name} was killed: it took longer than {seconds:g} s")
        if memory_gb is None or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if (used := _memory_gb(self._tree(), memory_gb)) > memory_gb:
            self._kill()
            beyond = f"it used {used:.2f} GB of memory, more than {memory_gb:g} GB"
            raise OutOfMemory(f"{self._process.name} was killed: {beyond}")

    def _tree(self) -> list[psutil.Process]:
        try:
            child = psutil.Process(self._process.pid)
            return [child, *child.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _kill(self) -> None:
        tree = self._tree()  # beforehand: a program may have left the group, as those of MPI do
        kill_group(self._process.pid)
        for one in tree:
            with contextlib.suppress(psutil.Error):
                one.kill()  # not if its pid belongs to another process by now


def _memory_gb(processes: list[psutil.Process], enough: float) -> float:
    """Resident memory (10⁹ bytes), pages that several processes share counted once.

    A forked child shares most of its pages. What each of them has is cheap to ask for and at least as much,
    so that who shares what is looked up only where that is more than `enough`.
    """
    if (used := sum(map(_resident, processes))) > 1e9 * enough:
        used = sum(map(_fair_share, processes))
    return used / 1e9


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):  # it may have ended
        return int(process.memory_info().rss)
    return 0


def _fair_share(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.uss))  # Linux alone shares shared pages out
    return 0


def cap_memory(memory_gb: float | None) -> None:
    """Let allocations of this process fail beyond so much (10⁹ bytes); None: all that machine or job have.

    Linux grants more memory than there is, and kills with -9 who then uses it. An allocation that fails can
    be answered.
    """
    limit = int(1e9 * memory_gb) if memory_gb is not None else _memory_of_job()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(
        resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard)
    )


def _memory_of_job() -> int:
    """Bytes that the machine has, or the control group that a batch system or a container set up."""
    limits = [int(psutil.virtual_memory().total)]
    with contextlib.suppress(OSError):
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition(":")[2]
        folder = Path("/sys/fs/cgroup", group.lstrip("/"))
        for place in (folder, *folder.parents):
            file = place / "memory.max"
            if file.exists() and (text := file.read_text().strip()).isdecimal():
                limits.append(int(text))
    return min(limits)


def kill_group(leader: int | None) -> None:
    """Kill a process and what it started, as far as that did not leave its group."""
    if leader is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left in it
            os.killpg(leader, signal.SIGKILL)
