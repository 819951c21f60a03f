"""Transactions on the database of the current settings."""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db.engine import READ_ONLY, open_engine
from db.errors import DatabaseUnavailable
from db.migrate import upgrade
from db.settings import settings
from db.tables import Base, Utc

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5  # between two attempts to reach a database that went away
LOCK = 7_283_658_302
"""Any number but that of the migrations will do, as long as every Temper uses the same one."""

_engines: dict[str, Engine] = {}
_opening = threading.Lock()


@contextmanager
def session(*, read_only: bool = False, patient: bool = True) -> Iterator[Session]:
    """One transaction: committed at the end of the block, rolled back on an exception.

    The first use of a database in a process brings its schema up to date. ``read_only`` transactions never
    wait for writers. A database that this process knows, and that went away or is locked, is waited for as
    long as the settings say, unless one is not ``patient``.

    Raises:
        DatabaseUnavailable: it cannot be reached, went away meanwhile, or has no room left.
        SchemaTooNew: it was made by a newer Temper.
    """
    engine = _engine(settings().url)
    if read_only:
        engine = engine.execution_options(**READ_ONLY)
    patience = settings().patience_seconds if patient else 0.0
    try:
        with (
            _begun(engine, patience) as connection,
            Session(connection, expire_on_commit=False) as opened,
            opened.begin(),
        ):
            yield opened
    except OperationalError as error:
        raise _unavailable(engine, error) from error


@contextmanager
def _begun(engine: Engine, patience: float) -> Iterator[Connection]:
    """A connection with a transaction; committed at the end, rolled back on an exception."""
    give_up = time.monotonic() + patience
    told = False
    while True:
        try:
            connection = engine.connect()
            try:
                transaction = connection.begin()
            except BaseException:
                connection.close()
                raise
            break
        except OperationalError as error:
            if time.monotonic() > give_up or not _may_pass(error):
                raise
            if not told:
                log.warning("%s; waiting for it up to %g s", _unavailable(engine, error), patience)
                told = True
        time.sleep(PAUSE_SECONDS)
    with connection, transaction:
        yield connection


def _may_pass(error: OperationalError) -> bool:
    """Whether it is the state of a server, or somebody else's lock, that a file's disk has no part in."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code is None or code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def now(opened: Session) -> datetime:
    """The time by the database's clock where it has one, so that hosts need not agree on theirs."""
    if opened.get_bind().dialect.name == "postgresql":
        return opened.execute(select(func.clock_timestamp(type_=Utc()))).scalar_one()
    return datetime.now(UTC)


def one_at_a_time(opened: Session) -> None:
    """Wait until no other transaction that has called this is open. Those that write to SQLite never are."""
    if opened.get_bind().dialect.name == "postgresql":
        opened.execute(select(func.pg_advisory_xact_lock(LOCK)))


def insert_new(opened: Session, table: type[Base], **values: Any) -> bool:
    """Insert a row unless its primary key is taken; True if it was inserted."""
    dialect = opened.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(table).values(values).on_conflict_do_nothing().returning(literal(1))
    return opened.execute(statement).first() is not None


def _engine(url: str) -> Engine:
    with _opening:
        if url not in _engines:
            engine = open_engine(url)
            try:
                upgrade(url)
            except OperationalError as error:
                raise _unavailable(engine, error) from error
            _engines[url] = engine
        return _engines[url]


def _unavailable(engine: Engine, error: OperationalError) -> DatabaseUnavailable:
    shown = engine.url.render_as_string(hide_password=True)
    reason = " ".join(str(error.orig).split())
    disk = ", and that the disk has room and may be written to" if engine.dialect.name == "sqlite" else ""
    return DatabaseUnavailable(f"database {shown}: {reason}; check TEMPER_DATABASE_URL and TEMPER_HOME{disk}")
