"""A server with a password, and secrets planted everywhere: who gets in, and what gets out."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PASSWORD = "admin:planted-Auth+1/x"
PLANTED = {
    "PREFECT_SERVER_API_AUTH_STRING": PASSWORD,
    "PREFECT_SERVER_ENCRYPTION_KEY": base64.urlsafe_b64encode(b"planted-key-of-exactly-32-bytes!").decode(),
    "AWS_ACCESS_KEY_ID": "planted-aws-id",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret",
    "AWS_SESSION_TOKEN": "planted-aws-token",
    "PGPASSWORD": "planted-postgres",
    "WANDB_API_KEY": "planted-wandb",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow",
    "TEMPER_ALARM_WEBHOOK": "https://chat.example.org/planted-webhook",
    "TEMPER_ALARM_SECRET": "whsec_" + base64.b64encode(b"planted-signature-of-24-b").decode(),
    "TEMPER_ALARM_SMTP_PASSWORD": "planted-smtp",
}
ENSURE = "from flows.server import ensure_server; print(ensure_server(timeout=600))"
COMMAND = "from flows.command import main; main()"

pytestmark = pytest.mark.flow


@dataclass(frozen=True)
class Guarded:
    """A server with a password, and the command with all the secrets in its environment."""

    url: str
    env: dict[str, str]
    pid: int
    homes: tuple[Path, Path]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            env=self.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    def status(self, path: str, password: str | None = None) -> int:
        """The status of a POST to the API; of health, which asks for no password, of a GET."""
        body = None if path == "/health" else b"{}"
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        if password is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server as `temper run` starts one where a password is set, in homes of its own."""
    homes = tmp_path_factory.mktemp("prefect"), tmp_path_factory.mktemp("temper")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(homes[0]), "TEMPER_HOME": str(homes[1]), "TEMPER_PREFECT_PORT": str(port)}
    env |= PLANTED
    try:
        started = subprocess.run(
            [sys.executable, "-c", ENSURE], env=env, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert started.returncode == 0, started.stderr
        pid = int((homes[0] / "server.pid").read_text())
        yield Guarded(url=started.stdout.split()[-1], env=env, pid=pid, homes=homes)
    finally:
        if (file := homes[0] / "server.pid").exists():
            _end(int(file.read_text()))


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        for _ in range(300):
            time.sleep(0.1)
            os.kill(pid, 0)
        os.kill(pid, signal.SIGKILL)


def test_only_this_machine_reaches_the_server(guarded: Guarded) -> None:
    server = psutil.Process(guarded.pid)
    listening = [
        connection.laddr.ip
        for process in (server, *server.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_only_who_knows_the_password_gets_in(guarded: Guarded) -> None:
    assert guarded.status("/health") == 200  # so that it can be watched
    assert guarded.status("/flows/filter") == 401
    assert guarded.status("/flows/filter", "admin:guessed") == 401
    assert guarded.status("/flows/filter", PASSWORD) == 200
    assert guarded.status("/deployments/") == 401


@pytest.mark.slow
def test_a_command_on_a_guarded_server_needs_no_more_than_the_password(guarded: Guarded) -> None:
    done = guarded.run("revalidate", "nothing")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Watch it at {guarded.url.removesuffix('/api')}/runs" in done.stdout
    again = guarded.run("revalidate", "nothing")  # it finds the server, and starts no other
    assert "Starting" not in again.stdout
    request = urllib.request.Request(
        f"{guarded.url}/flow_runs/filter",
        b"{}",
        {
            "Content-Type": "application/json",
            "Authorization": f"Basic {base64.b64encode(PASSWORD.encode()).decode()}",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        runs = json.load(answer)
    assert [run["state_type"] for run in runs] == ["COMPLETED", "COMPLETED"]
    _nothing_planted(guarded, done.stdout + done.stderr)


@pytest.mark.slow
def test_a_campaign_tells_no_secret(guarded: Guarded, mini: Path) -> None:
    """Not what is printed, nor logs, artifacts, reports, Prefect's database, or Temper's; nor a failure."""
    done = guarded.run("run", str(mini))
    assert done.returncode == 0, done.stdout + done.stderr
    failed = guarded.run("run", str(mini), "--set", "gate=[]", "--set", "foundation.name=absent")
    assert failed.returncode == 1
    printed = done.stdout + done.stderr + failed.stdout + failed.stderr
    _nothing_planted(guarded, printed)
    assert (guarded.homes[0] / "prefect.db").stat().st_size > 1e5
    assert list((guarded.homes[1] / "reports").glob("*.html"))


def _nothing_planted(guarded: Guarded, printed: str) -> None:
    """Neither as it is, nor as it is sent."""
    values = [*PLANTED.values(), PASSWORD.partition(":")[2]]
    needles = {
        needle for v in values for needle in (v, quote(v, safe=""), base64.b64encode(v.encode()).decode())
    }
    texts = {path: path.read_bytes() for home in guarded.homes for path in home.rglob("*") if path.is_file()}
    texts[Path("what was printed")] = printed.encode()
    assert len(texts) > 3
    told = [(path, needle) for path, text in texts.items() for needle in needles if needle.encode() in text]
    assert told == []
