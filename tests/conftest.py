"""What holds for every test: one thread, an empty home, nothing sent out."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

# Before any test module imports torch or prefect, which read these once.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    MPLBACKEND="Agg",
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    TEMPER_DATA_ROOTS=tempfile.gettempdir(),  # from where forms may read what tests write
    TEMPER_PROGRAMS=f"{sys.executable},xtb",  # what stands for the programs of reference calculators here
)


# Their tests start from the finished campaign, which takes minutes: it runs in one process only.
FINISHED = ("test_campaign", "test_revalidate", "test_validate", "test_distil", "test_approval")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file is one process's work, and so are those that share the finished campaign.

    Not by `xdist_group`: pytest-xdist 3.8 cannot write the group into the names of pytest 9.2, and splits it.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "finished" if Path(file).stem in FINISHED and "/flows/" in f"/{file}" else file

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the deployments comes last: other tests take them away."""
    items.sort(key=lambda item: "deployed" in getattr(item, "fixturenames", ()))


@pytest.fixture(autouse=True)
def temper_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Temper home of the test's own, with no database and no files in it."""
    home = tmp_path / "temper"
    monkeypatch.setenv("TEMPER_HOME", str(home))
    for elsewhere in ("DATABASE_URL", "STORE", "DEVICE", "DASK", "LABEL_WORKERS"):
        monkeypatch.delenv(f"TEMPER_{elsewhere}", raising=False)
    return home


@pytest.fixture
def sigint() -> Iterator[None]:
    """Ctrl-C as in a terminal, also where the whole run was started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class PrefectServer:
    """A running server, and what two processes that asked for it at the same moment were told."""

    url: str
    env: dict[str, str]
    occupied: int
    answers: list[dict[str, Any]]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a module of this environment against the server, from the root of the repository."""
        return subprocess.run(
            [sys.executable, "-m", *command],
            env={**self.env, "PREFECT_API_URL": self.url},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST to the API and return the answer."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        for _ in range(60):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503:  # a busy SQLite: come again
                    raise
                error.close()
            time.sleep(1)
        raise AssertionError(f"{path}: the server has been busy for a minute")


@dataclass
class Receiver:
    """What a web server was sent, and what it answers: one status after the other, the last for ever."""

    url: str = ""
    answers: list[int] = field(default_factory=lambda: [200])
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A real web server to which messages are posted; its address has something secret in it."""
    received = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(received.answers.pop(0) if len(received.answers) > 1 else received.answers[0])
            self.send_header("location", f"{received.url}/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received.url = f"http://127.0.0.1:{server.server_address[1]}/hook/s3cret-path"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield received
        server.shutdown()
        thread.join()


ENSURE = """
import json
from flows.server import ensure_server
said = []
print(json.dumps({"url": ensure_server(said.append), "said": said}))
"""


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One real server for all tests that need one, with a home and a database of its own.

    It is started the hard way: by two processes at once, while something else has its first port.
    """
    home = tmp_path_factory.mktemp("prefect")
    with socket.create_server(("127.0.0.1", 0)) as other:
        # A listener that closes every connection: a port in use by no web server at all.
        occupied = other.getsockname()[1]
        threading.Thread(target=_hang_up, args=(other,), daemon=True).start()
        env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        env |= {"PREFECT_HOME": str(home), "TEMPER_PREFECT_PORT": str(occupied)}
        try:
            command = [sys.executable, "-c", ENSURE]
            starts = [
                subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True)
                for _ in range(2)
            ]
            answers = [json.loads(start.communicate()[0]) for start in starts]
            yield PrefectServer(url=answers[0]["url"], env=env, occupied=occupied, answers=answers)
        finally:
            _stop(home / "server.pid")


def _hang_up(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def _stop(pid_file: Path) -> None:
    """End the server of a pid file, and come back when it is gone."""
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            time.sleep(0.1)
            os.kill(pid, 0)
        os.kill(pid, signal.SIGKILL)
