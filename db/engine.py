"""Engines for SQLite and PostgreSQL that behave alike under many processes and threads."""

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, event

from db.errors import DatabaseUnavailable

READ_ONLY: dict[str, Any] = {"postgresql_readonly": True, "sqlite_read_only": True}
"""Execution options of a connection that only reads: enforced by PostgreSQL, no write lock on SQLite."""

SQLITE_BUSY_SECONDS = 30


def open_engine(url: str, *, foreign_keys: bool = True) -> Engine:
    """Engine for ``url``. SQLite: write-ahead log, foreign keys, and the write lock taken at the start.

    Connections are not pooled: opening one takes about a millisecond against steps of seconds to hours, and
    nothing is left to share by mistake after a fork or to break when the server restarts.

    Raises:
        DatabaseUnavailable: the driver for PostgreSQL is not installed.
    """
    if not url.startswith("sqlite"):
        try:
            return create_engine(url, poolclass=NullPool)
        except ModuleNotFoundError as error:
            raise DatabaseUnavailable(
                f"TEMPER_DATABASE_URL needs the package {error.name}: pip install 'temper-mlip[postgres]'"
            ) from error
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": SQLITE_BUSY_SECONDS})
    Path(engine.url.database or "").parent.mkdir(parents=True, exist_ok=True)

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin below, not in the driver
        _write_ahead(connection)
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads and then writes fails at once with "database is locked" if another one
        # wrote in between; one that asks for the write lock first waits its turn.
        reads = connection.get_execution_options().get("sqlite_read_only")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _write_ahead(connection: sqlite3.Connection) -> None:
    # Where several give a new file its write-ahead log, SQLite does not wait its timeout but fails at once.
    give_up = time.monotonic() + SQLITE_BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
