"""A lease says which process computes a step, and ends by itself when that process is gone."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psutil
from sqlalchemy import CursorResult, update
from sqlalchemy.exc import SQLAlchemyError

from db.agent import host
from db.errors import DatabaseUnavailable
from db.session import now, session
from db.settings import settings
from db.tables import StepRow

log = logging.getLogger(__name__)

# A process start time is computed from the wall clock, which may be corrected while the process runs.
CLOCK_SLACK_SECONDS = 2.0


def new_owner() -> str:
    """A name for one claim by this process: ``place/pid/start time/unique``."""
    return f"{_place()}/{os.getpid()}/{psutil.Process().create_time():.2f}/{uuid4().hex[:8]}"


def is_gone(owner: str) -> bool:
    """True if the process behind ``owner`` surely runs no more; False if that cannot be seen from here."""
    place, pid, start, _ = owner.rsplit("/", 3)
    if place != _place():
        return False
    try:
        process = psutil.Process(int(pid))
        another = abs(process.create_time() - float(start)) > CLOCK_SLACK_SECONDS
        return another or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextmanager
def renewed(key: str, owner: str) -> Iterator[None]:
    """Keep the lease of a step alive for as long as the block runs, three times per lease period."""
    stop = threading.Event()
    thread = threading.Thread(target=_renew, args=(key, owner, stop), name=f"lease {key[:8]}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _renew(key: str, owner: str, stop: threading.Event) -> None:
    period = settings().lease_seconds
    while not stop.wait(period / 3):
        try:
            with session(patient=False) as s:
                statement = (
                    update(StepRow)
                    .where(StepRow.key == key, StepRow.lease_owner == owner)
                    .values(lease_until=now(s) + timedelta(seconds=period))
                )
                result = s.execute(statement)
                held = isinstance(result, CursorResult) and result.rowcount == 1
        except (SQLAlchemyError, DatabaseUnavailable) as error:
            log.warning("step %s: the lease could not be renewed, trying again: %s", key[:12], error)
            continue
        if not held:
            log.warning("step %s: the lease ran out and someone else took the step over", key[:12])
            return


def _place() -> str:
    """Where a process id means something: the host, and on Linux the pid namespace (containers)."""
    namespace = Path("/proc/self/ns/pid")
    return f"{host()}:{namespace.stat().st_ino}" if namespace.exists() else host()
