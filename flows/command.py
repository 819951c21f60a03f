"""The `temper` command as a program: what takes longest begins first."""

import atexit
import logging
import os
import sys
from contextlib import suppress

from tasks.forks import prepare_children

COMPUTING = ("run", "sweep")
"""Commands whose first step waits for what the fork server imports."""


def main() -> None:
    """The command; it ends without taking apart what it imported, which takes two seconds."""
    if sys.argv[1:2] and sys.argv[1] in COMPUTING:
        prepare_children()
    from flows.cli import app

    status = 1

    def leave() -> None:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(status)

    atexit.register(leave)  # first, so that it is called last
    try:
        app()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
