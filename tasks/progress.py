"""What a person sees while a child process works: log lines and a progress bar in the UI."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger

_LINES = 10  # log lines for a whole piece of work


def progress(
    what: str, share: Callable[[dict[str, Any]], tuple[float, str]]
) -> Callable[[dict[str, Any]], None]:
    """A callback for `in_child` that shows how far `what` is.

    `share` turns a message of the child into the finished share (0 to 1) and a line for the log.
    """
    logger = get_run_logger()
    bar = create_progress_artifact(progress=0.0, description=what) if TaskRunContext.get() else None
    shown = -1

    def show(message: dict[str, Any]) -> None:
        nonlocal shown
        done, line = share(message)
        if int(done * _LINES) == shown:
            return
        shown = int(done * _LINES)
        logger.info("%s: %s", what, line)
        if isinstance(bar, UUID):
            update_progress_artifact(bar, progress=min(100.0, 100.0 * done))

    return show


def epochs(total: int) -> Callable[[dict[str, Any]], tuple[float, str]]:
    """The share and the line of a training's epoch (see `models.training`)."""

    def share(row: dict[str, Any]) -> tuple[float, str]:
        done = row["epoch"] / total
        line = f"epoch {row['epoch']}/{total}, target forces {row['target_forces_mae']:.1f} meV/Å"
        if "replay_forces_mae" in row:
            line += f", replay {row['replay_forces_mae']:.1f} meV/Å"
        if 0 < row["epoch"] < total:
            line += f", {row['seconds'] * (1.0 / done - 1.0):.0f} s to go"
        return done, line

    return share


def steps(message: dict[str, Any]) -> tuple[float, str]:
    """The share and the line of a running simulation."""
    return (
        message["step"] / message["steps"],
        f"step {message['step']}/{message['steps']}, {message['running']} replicas running",
    )
