"""What a person sees while child processes work: log lines, and a progress bar and a table in the UI."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

from tasks.display import display
from tasks.tracking import tracked

log = logging.getLogger(__name__)

_LINES = 10  # log lines for a whole piece of work


def progress(
    what: str, share: Callable[[dict[str, Any]], tuple[float, str]]
) -> Callable[[dict[str, Any]], None]:
    """A callback that shows how far `what` is, for `in_child` or in a flow.

    `share` turns a message, as of a child, into the finished share (0 to 1) and a line for the log.
    """
    logger: logging.Logger | logging.LoggerAdapter = log
    bar = None
    if TaskRunContext.get() or FlowRunContext.get():
        logger = get_run_logger()
        bar = display(create_progress_artifact, progress=0.0, description=what)
    told = -1

    def show(message: dict[str, Any]) -> None:
        nonlocal told
        done, line = share(message)
        if int(done * _LINES) == told:
            return
        told = int(done * _LINES)
        logger.info("%s: %s", what, line)
        if isinstance(bar, UUID):
            filled = min(100.0, 100.0 * done)
            display(update_progress_artifact, bar, progress=filled, description=f"{what}: {line}")

    return show


@contextmanager
def training(
    what: str, name: str, run_id: str, parameters: Mapping[str, Any], total: int
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A callback for a training of `total` epochs: log, bar, trackers and, when it is over, a table.

    `name` and `parameters` are what trackers show, `run_id` is the run they go on with.
    """
    show = progress(what, epochs(total))
    rows: list[dict[str, Any]] = []
    with tracked(name, run_id, parameters) as track:

        def each(row: dict[str, Any]) -> None:
            show(row)
            track(row)
            rows.append(row)

        yield each
    if rows and TaskRunContext.get():
        key = re.sub("[^a-z0-9]+", "-", f"{name}-training".lower())
        display(create_table_artifact, table=rows, key=key, description=f"Evaluations of {what}")


def epochs(total: int) -> Callable[[dict[str, Any]], tuple[float, str]]:
    """The share and the line of a training's evaluation (see `models.training.fit`)."""

    def share(row: dict[str, Any]) -> tuple[float, str]:
        parts = [f"epoch {row['epoch']:.4g}/{total}"]
        if row["epoch"]:
            parts.append(f"loss {row['loss']:.3g} at rate {row['learning_rate']:.2g}")
        for name in ("target", "replay"):
            errors = [
                f"{row[key]:.1f} {unit}"
                for quantity, unit in (("forces", "meV/Å"), ("energy_per_atom", "meV/atom"))
                if (key := f"{name}_{quantity}_mae") in row
            ]
            if errors:
                parts.append(f"{name} {' and '.join(errors)}")
        if "structures_per_s" in row:
            parts.append(f"{row['structures_per_s']:.3g} structures/s")
        if "gpu_memory_gb" in row:
            parts.append(f"{row['gpu_memory_gb']:.1f} GB on the GPU")
        left = row.get("seconds_left")
        if left:
            parts.append(f"{left:.0f} s to go")
        return (1.0 if left == 0.0 else row["epoch"] / total), ", ".join(parts)

    return share


def steps(message: dict[str, Any]) -> tuple[float, str]:
    """The share and the line of a running simulation."""
    return (
        message["step"] / message["steps"],
        f"step {message['step']}/{message['steps']}, {message['running']} replicas running",
    )


def parts(message: dict[str, Any]) -> tuple[float, str]:
    """The share and the line of work that is done part by part."""
    return message["done"] / message["parts"], f"part {message['done']} of {message['parts']}"
