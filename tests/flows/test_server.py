"""A real Prefect server: found, started, shared, stopped."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.server import PID_FILE, ServerError, ensure_server

ROOT = Path(__file__).parents[2]


def ensure(call: str = "print(ensure_server(print))", **env: str) -> subprocess.CompletedProcess[str]:
    """Call ensure_server in a fresh process, without the settings of this one."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [sys.executable, "-c", f"from flows.server import ensure_server\n{call}"],
        env={**inherited, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.flow
def test_two_processes_that_start_at_once_share_one_server(prefect_server: Any) -> None:
    first, second = prefect_server.answers
    assert first["url"] == second["url"]
    starts = [line for line in first["said"] + second["said"] if line.startswith("Starting")]
    assert len(starts) == 1


@pytest.mark.flow
def test_a_port_that_something_else_has_is_passed_over_and_said(prefect_server: Any) -> None:
    said = " ".join(prefect_server.answers[0]["said"] + prefect_server.answers[1]["said"])
    assert f"Port {prefect_server.occupied} is taken by something that is not a Prefect server" in said
    assert f":{prefect_server.occupied}/" not in prefect_server.url


@pytest.mark.flow
def test_a_running_server_is_reused_without_a_word(prefect_server: Any) -> None:
    again = ensure(**prefect_server.env)
    assert again.stdout.splitlines() == [prefect_server.url]


@pytest.mark.flow
def test_the_ui_is_there_and_talks_to_its_own_server(prefect_server: Any) -> None:
    with urllib.request.urlopen(prefect_server.url.removesuffix("/api"), timeout=60) as page:
        assert "<html" in page.read().decode()
    with urllib.request.urlopen(prefect_server.url.removesuffix("/api") + "/ui-settings", timeout=60) as page:
        assert '"api_url":"/api"' in page.read().decode().replace(" ", "")


def test_an_address_in_the_environment_is_taken_as_it_is(tmp_path: Path) -> None:
    url = "http://prefect.example:4200/api"
    assert ensure(PREFECT_API_URL=url, PREFECT_HOME=str(tmp_path)).stdout.splitlines() == [url]


def test_a_server_that_cannot_start_is_one_error_with_its_log(tmp_path: Path) -> None:
    failed = ensure(
        PREFECT_HOME=str(tmp_path),
        TEMPER_PREFECT_PORT="65535",  # the only one it tries, and no other test is given it
        PREFECT_SERVER_DATABASE_CONNECTION_URL=f"sqlite+aiosqlite:///{tmp_path}/no/such/folder/prefect.db",
    )
    assert failed.returncode == 1
    assert "ServerError: The Prefect server ended with exit code" in failed.stderr
    assert "unable to open database file" in failed.stderr


def test_a_server_ends_with_what_it_was_started_for(tmp_path: Path) -> None:
    failed = ensure(
        "def refuse(): raise ValueError('no such labels')\nensure_server(print, meanwhile=refuse)",
        PREFECT_HOME=str(tmp_path),
        TEMPER_PREFECT_PORT="65534",  # no other test is given it
    )
    assert failed.returncode == 1
    assert failed.stderr.endswith("ValueError: no such labels\n")
    assert failed.stdout == ""
    assert not psutil.pid_exists(int((tmp_path / PID_FILE).read_text()))


@pytest.mark.parametrize("port", ["high", "0", "70000"])
def test_a_port_that_is_none_is_refused_by_name(port: str, tmp_path: Path) -> None:
    failed = ensure(PREFECT_HOME=str(tmp_path), TEMPER_PREFECT_PORT=port)
    assert f"ServerError: TEMPER_PREFECT_PORT={port} is not a port number" in failed.stderr


def test_it_refuses_to_come_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect", sys)
    with pytest.raises(ServerError, match="before prefect is imported"):
        ensure_server()
