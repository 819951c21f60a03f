"""Whether somebody still waits for what a worker of Dask computes.

Dask cannot stop a task that has begun. The worker is told, however, when nobody waits for it any more: when a
campaign was cancelled, or when it has gone without a word. What a task has started can then be ended.
"""

import sys
from collections.abc import Callable


def wanted() -> Callable[[], bool] | None:
    """What says whether the Dask task of this thread is still waited for; None outside of Dask."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        worker = get_worker()
        key = worker.get_current_task()
    except (ValueError, KeyError):  # no worker in this process; another thread's worker
        return None

    def still() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    return still
