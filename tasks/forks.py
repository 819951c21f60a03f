"""The fork server of this process: what it imports, and its start.

Its imports take longer than those of a campaign. So that a command can begin with them, this module needs
nothing but Python's own library.
"""

import os
from functools import cache
from multiprocessing import current_process, forkserver, get_context
from multiprocessing.context import ForkServerContext

PRELOADED = [
    "tasks.fork_server",  # first
    *("numpy", "scipy.optimize", "scipy.stats", "torch", "ase.io", "ase.md.langevin", "models.mace_torch"),
    *("models.reference.files", "tblite.ase", "models.finetuning", "models.validation.acceptance"),
    "models.report_checks",
    "tasks.children",
]
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def prepare_children() -> None:
    """Start the fork server, so that it imports what children need while this process does something else."""
    context()
    forkserver.ensure_running()


@cache
def context() -> ForkServerContext:
    """The fork server's settings; they are read when the first child starts."""
    os.environ.update(THREADS)
    if current_process().daemon:
        # Python forbids the workers of Dask to have children, which could outlive them; ours do not.
        current_process().daemon = False
    made = get_context("forkserver")
    made.set_forkserver_preload(PRELOADED)
    return made
