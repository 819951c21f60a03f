"""A PostgreSQL server that stops in the middle of a step, and comes back."""

import logging
import os
import shlex
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from db import aliases, artifacts, engine
from db.errors import DatabaseUnavailable
from db.session import session
from db.steps import Output, once, step_key
from db.tables import StepRow
from db.verification import verify


@dataclass(frozen=True)
class Server:
    """The server of all tests, which a test may stop for a while."""

    data: Path
    binary: Path
    options: str

    def stop(self) -> None:
        """As after a power cut: no client is told."""
        self._control("-m", "immediate", "stop")

    def start(self) -> None:
        """With the options that it had."""
        self._control("-l", str(self.data.parent / "log"), "-o", self.options, "start")

    def _control(self, *arguments: str) -> None:
        as_owner = ["runuser", "-u", self.data.owner(), "--"] if os.geteuid() == 0 else []
        command = [*as_owner, str(self.binary.with_name("pg_ctl")), "-w", "-D", str(self.data), *arguments]
        subprocess.run(command, cwd=self.data.parent, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def server(postgres: Path) -> Iterator[Server]:
    """Running again at the end, whatever happens."""
    data = postgres / "data"
    binary, _, _, *options = shlex.split((data / "postmaster.opts").read_text())
    server = Server(data, Path(binary), shlex.join(options))
    yield server
    if not (data / "postmaster.pid").exists():
        server.start()


def train(meanwhile: Callable[[], None] = lambda: None) -> str:
    """A step with a checkpoint; the id of what it makes."""

    def compute(work: Path) -> Mapping[str, Output]:
        with (work / "checkpoint").open("a") as checkpoint:
            checkpoint.write("epoch\n")
        meanwhile()
        (work / "model").write_bytes((work / "checkpoint").read_bytes())
        return {"model": Output(path=work / "model", kind="checkpoint", name="model")}

    return once("train", 1, {}, {}, compute).outputs["model"]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_server_that_stops_is_one_clear_error_and_the_step_goes_on_when_it_is_back(
    url: str, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEMPER_LEASE_SECONDS", "0.5")
    monkeypatch.setenv("TEMPER_PATIENCE_SECONDS", "0.5")

    def lose() -> None:
        server.stop()
        while "the lease could not be renewed, trying again" not in caplog.text:
            pass

    caplog.set_level(logging.WARNING)
    message = r"database postgresql.*: No such file.*; check TEMPER_DATABASE_URL and TEMPER_HOME"
    with pytest.raises(DatabaseUnavailable, match=message) as caught:
        train(lose)
    assert "\n" not in str(caught.value)
    assert "its failure could not be recorded" in caplog.text
    with pytest.raises(DatabaseUnavailable, match="check TEMPER_DATABASE_URL"):
        aliases.all()
    server.start()
    assert artifacts.path(train()).read_text() == "epoch\nepoch\n"
    with session(read_only=True) as s:
        row = s.get_one(StepRow, step_key("train", 1, {}, {}))
    assert (row.status, row.attempt) == ("done", 2)
    assert [p for p in verify(grace=timedelta(0)) if p.kind != "orphan"] == []


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_what_is_computed_while_the_server_is_away_waits_for_it(
    url: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def start() -> None:
        while "waiting for it up to 600 s" not in caplog.text:
            time.sleep(0.01)
        server.start()

    caplog.set_level(logging.WARNING)
    back = threading.Thread(target=start)
    back.start()
    made = train(server.stop)
    back.join()
    assert artifacts.path(made).read_text() == "epoch\n"
    with session(read_only=True) as s:
        row = s.get_one(StepRow, step_key("train", 1, {}, {}))
    assert (row.status, row.attempt) == ("done", 1)
    assert verify(grace=timedelta(0)) == []


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_file_that_somebody_locks_is_waited_for(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "SQLITE_BUSY_SECONDS", 0.1)
    file = url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:

        def release() -> None:
            while "database is locked" not in caplog.text:
                time.sleep(0.01)
            other.execute("ROLLBACK")

        caplog.set_level(logging.WARNING)
        freed = threading.Thread(target=release)
        freed.start()
        assert aliases.all() == []
        made = train(lambda: other.execute("BEGIN IMMEDIATE") and None)
        freed.join()
    assert artifacts.path(made).read_text() == "epoch\n"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_lock_that_stays_is_one_clear_error_and_loses_no_checkpoint(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SQLITE_BUSY_SECONDS", 0.1)
    monkeypatch.setenv("TEMPER_PATIENCE_SECONDS", "0.5")
    monkeypatch.setenv("TEMPER_LEASE_SECONDS", "0.5")  # this process lives on, so the lease has to run out
    assert aliases.all() == []
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        with pytest.raises(DatabaseUnavailable, match=r"database is locked; check TEMPER_DATABASE_URL"):
            train(lambda: other.execute("BEGIN IMMEDIATE") and None)
        other.execute("ROLLBACK")
    assert artifacts.path(train()).read_text() == "epoch\nepoch\n"


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_connection_that_breaks_in_a_transaction_is_one_clear_error(url: str, server: Server) -> None:
    message = "check TEMPER_DATABASE_URL"
    with pytest.raises(DatabaseUnavailable, match=message), session() as s:  # noqa: PT012
        s.get(StepRow, "0" * 64)
        server.stop()
        s.get(StepRow, "1" * 64)
    server.start()
    assert aliases.all() == []
