"""What the Prefect UI shows of the work: never a reason to stop the work."""

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def display(show: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """What `show` returns; None, with a warning, where it fails, as when a server is gone or busy."""
    try:
        return show(*args, **kwargs)
    except Exception as error:  # whatever a server, its database or the network may come up with
        log.warning("not shown in the UI (%s: %s); the work goes on", type(error).__name__, error)
        return None
