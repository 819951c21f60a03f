"""Every database test runs on SQLite and on a real PostgreSQL, each in a home of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

import db
from db import artifacts
from db.artifacts import Artifact
from db.steps import Output, once


def _binaries() -> Path | None:
    """The folder of initdb, the newest one if there are several."""
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda f: int(f.parent.name), reverse=True
    )
    if (config := shutil.which("pg_config")) is not None:
        asked = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
        folders.insert(0, Path(asked.stdout.strip()))
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """A PostgreSQL server for the whole session; the value is the folder of its socket."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server binaries (initdb) on this machine")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket path has at most 107 characters
    as_owner: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        as_owner = ["runuser", "-u", "postgres", "--"]

    def run(*command: str) -> None:
        subprocess.run([*as_owner, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    control = [str(binaries / "pg_ctl"), "-D", data, "-w", "-l", str(folder / "log")]
    try:
        initdb = str(binaries / "initdb")
        run(initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        run(
            *control,
            "-o",
            f"-k {folder} -c listen_addresses='' -c fsync=off -c full_page_writes=off",
            "start",
        )
        try:
            yield folder
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty database; the environment points to it and to an empty home."""
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TEMPER_LEASE_SECONDS", raising=False)
    if request.param == "sqlite":
        address = f"sqlite:///{tmp_path / 'provenance.db'}"
        monkeypatch.setenv("TEMPER_DATABASE_URL", address)
        yield address
        return
    socket = request.getfixturevalue("postgres")
    name = f"temper_{uuid4().hex}"
    with psycopg.connect(host=str(socket), user="postgres", dbname="postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    monkeypatch.setenv("TEMPER_DATABASE_URL", f"postgresql://postgres@/{name}?host={socket}")
    yield f"postgresql+psycopg://postgres@/{name}?host={socket}"
    with psycopg.connect(host=str(socket), user="postgres", dbname="postgres", autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def imported(url: str, tmp_path: Path) -> Callable[..., Artifact]:
    """Import a text as a file: ``imported("text", "name", level_of_theory=…)``."""

    def import_text(text: str, name: str = "labels", **metadata: str) -> Artifact:
        path = tmp_path / f"{name}.txt"
        path.write_text(text)
        return artifacts.import_file(path, "dataset", name, metadata)

    return import_text


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python process of this project from source text; killed at the end if it still runs."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", source, *arguments],
            cwd=Path(db.__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture
def made(url: str) -> Callable[..., str]:
    """Run a step that makes one file and return its id: ``made("student", {"teacher": id}, licence=…)``."""

    def make(name: str, inputs: Mapping[str, str | Sequence[str]], **metadata: str) -> str:
        def compute(work: Path) -> Mapping[str, Output]:
            (work / "out.txt").write_text(name)
            return {"out": Output(path=work / "out.txt", kind="checkpoint", name=name, metadata=metadata)}

        parameters = {"of": name, "optimisation": {"epochs": 20, "rates": [0.1, 0.01]}, "stop": None}
        return once(f"make {name}", 1, parameters, inputs, compute, seed=7).outputs["out"]

    return make


# It ends when its stdin does, so also when the tests are killed.
S3_SERVER = """
import sys
from threading import Thread

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

application = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """URL of an S3 server in a process of its own, for the whole session."""
    server = subprocess.Popen(
        [sys.executable, "-c", S3_SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    server.communicate()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """URL of a store in a bucket of its own; the environment says how to get there."""
    bucket = f"temper-{uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/{bucket}", method="PUT")).close()
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("TEMPER_STORE", f"s3://{bucket}/store")
    return f"s3://{bucket}/store"
