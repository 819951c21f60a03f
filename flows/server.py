"""The Prefect server of one-command mode.

`temper run` needs a server that records the campaign and shows it in a browser. Prefect's own temporary
server loses task runs when the process ends, so a real one is started in the background and left running.
"""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")
PID_FILE = "server.pid"  # where `prefect server stop` looks too
HERE, EVERYWHERE = "127.0.0.1", "0.0.0.0"
PORTS = 20  # how many ports to try, from the first one up

SETTINGS = {
    # Nothing is sent out; with analytics on, a closed network costs half a minute at exit.
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # A relative address is right for every port, tunnel and proxy.
    "PREFECT_SERVER_UI_API_URL": "/api",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_CLIENT_MAX_RETRIES": "7",  # about four minutes: a run waits for a server that is started again
    # In memory, a restart of the server would end every run of a deployment with a concurrency limit.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # How often a worker asks for work: a run starts soon after it was asked for.
    "PREFECT_WORKER_QUERY_SECONDS": "3",
    # What our packages log is shown with the run that it belongs to, and nowhere when there is no run.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "models,tasks,db",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


class ServerError(RuntimeError):
    """No Prefect server could be found or started."""


def ensure_server(
    say: Callable[[str], None] | None = None,
    *,
    shared: bool = False,
    timeout: float = 180,
    meanwhile: Callable[[], object] | None = None,
) -> str:
    """Find a Prefect server or start one, and make this process use it.

    `PREFECT_API_URL` is taken as it is where it is set. Otherwise a healthy server on this machine is looked
    for from port `TEMPER_PREFECT_PORT` (4200) up, and where there is none, one is started on the first free
    port. It stays when this process ends; `temper down` stops it. Several processes may call this at once.
    Prefect reads its settings when it is imported, so this has to come first.

    Args:
        say: is told in one line what takes time or differs from what is usual.
        shared: a new server can be reached from other machines, with the password of
            `PREFECT_SERVER_API_AUTH_STRING`; without, from this machine alone.
        timeout: seconds that a new server may take to answer.
        meanwhile: is called as soon as Prefect may be imported, while a new server comes up; a server that
            was started for it ends again where it raises.

    Returns:
        The address of the API; the UI is at the same address without `/api`.

    Raises:
        ServerError: Prefect is imported already, a shared server would have no password, no port is free, or
            the new server did not come up; the message then ends with the last lines of its log.
    """
    if "prefect" in sys.modules:
        raise ServerError("ensure_server() has to be called before prefect is imported")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    password = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if password:
        os.environ.setdefault("PREFECT_API_AUTH_STRING", password)
    if shared and ":" not in (password or ""):
        raise ServerError(
            "whoever reaches a Prefect server can run code on its workers: to share it, set "
            "PREFECT_SERVER_API_AUTH_STRING to user:password first"
        )
    meanwhile = meanwhile or (lambda: None)
    if url := os.environ.get("PREFECT_API_URL"):
        meanwhile()
        return url
    say = say or (lambda _: None)
    home = prefect_home()
    with (home / "temper-server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also by kill -9
        running = _running()
        port = running or _start(home, EVERYWHERE if shared else HERE, say, timeout, meanwhile)
    os.environ["PREFECT_API_URL"] = _url(port)
    if running:
        meanwhile()
    return _url(port)


def prefect_home() -> Path:
    """Prefect's folder, where logs and process ids of what runs in the background are too."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    home.mkdir(parents=True, exist_ok=True)
    return home


def running_server() -> str | None:
    """The address of the API that is set or found on this machine, None where there is none."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    port = _running()
    return None if port is None else _url(port)


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/api"


def _ports() -> range:
    text = os.environ.get("TEMPER_PREFECT_PORT", "4200")
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ServerError(f"TEMPER_PREFECT_PORT={text} is not a port number (1 to 65535)")
    return range(int(text), min(int(text) + PORTS, 65536))


def _running() -> int | None:
    """The first port on which a Prefect server answers."""
    return next((port for port in _ports() if _occupant(port) == "prefect"), None)


def _occupant(port: int) -> Literal["prefect", "other"] | None:
    """Who listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return None
    # A busy server may take its time; a second server on the same database would be worse than the wait.
    with suppress(OSError, ValueError), _open(f"{_url(port)}/health", timeout=20) as answer:
        if json.load(answer) is True:
            return "prefect"
    return "other"


# No proxy stands between this process and this machine, whatever the environment says.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def _start(
    home: Path, host: str, say: Callable[[str], None], timeout: float, meanwhile: Callable[[], object]
) -> int:
    port = _first_free(say)
    log = home / "temper-server.log"
    with log.open("wb") as output:
        # Not with --background: that discards the log, and refuses to start after a crash or a reboot.
        server = subprocess.Popen(
            [*PREFECT, "server", "start", "--host", host, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the campaign, not for its server
        )
    (home / PID_FILE).write_text(str(server.pid))
    os.environ["PREFECT_API_URL"] = _url(port)
    deadline = time.monotonic() + timeout
    try:
        meanwhile()
        say(f"Starting a Prefect server on port {port} (log: {log}) ...")
        while time.monotonic() < deadline:
            if _occupant(port) == "prefect":
                with suppress(OSError):  # it makes its routes when the first of them is asked for
                    _open(f"{_url(port)}/admin/version", timeout=20).close()
                return port
            if server.poll() is not None:
                raise ServerError(
                    f"The Prefect server ended with exit code {server.returncode}.{end_of(log)}"
                )
            time.sleep(0.2)
        raise ServerError(f"The Prefect server did not answer within {timeout:.0f} s.{end_of(log)}")
    except BaseException:
        del os.environ["PREFECT_API_URL"]
        server.kill()  # its database has transactions, and to end by itself it takes ten seconds
        server.wait()
        raise


def _first_free(say: Callable[[str], None]) -> int:
    for port in _ports():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                say(f"Port {port} is taken by something that is not a Prefect server; trying the next one.")
            else:
                return port
    first, last = _ports()[0], _ports()[-1]
    raise ServerError(
        f"Ports {first} to {last} are all taken: set TEMPER_PREFECT_PORT to a free one, "
        "or PREFECT_API_URL to the Prefect server that is to be used."
    )


def end_of(log: Path, lines: int = 15) -> str:
    """What a log says last, to be put behind a sentence."""
    return f" The end of {log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
