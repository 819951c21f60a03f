"""A store on a real S3 server: kills, lost connections, wrong settings, several processes, whole steps."""

import contextlib
import hashlib
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import fsspec
import pytest
from sqlalchemy import select

from db import aliases, archives, artifacts, garbage
from db.artifacts import Artifact
from db.errors import MissingFile
from db.session import session
from db.settings import settings
from db.steps import Done, Output, once
from db.store import DamagedFile, StoreUnavailable, store
from db.tables import StepRow
from db.verification import verify

pytestmark = [pytest.mark.parametrize("url", ["sqlite"], indirect=True), pytest.mark.usefixtures("url", "s3")]

Import = Callable[..., Artifact]
Start = Callable[..., subprocess.Popen[str]]

NO_GRACE = timedelta(0)
SIZE = 3 << 20


@pytest.fixture
def reconnect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Connect anew with other environment variables; None takes one away."""

    def change(**variables: str | None) -> None:
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name)
            else:
                monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()

    yield change
    fsspec.get_filesystem_class("s3").clear_instance_cache()


class Relay:
    """Passes connections on to a server until it has passed on 1 MiB; then it is silent, or hangs up.

    Attributes:
        url: where it listens.
        full: set when it stops.
    """

    def __init__(self, server: str, *, hangs_up: bool) -> None:
        self.full = threading.Event()
        self._server = ("127.0.0.1", int(server.rpartition(":")[2]))
        self._hangs_up = hangs_up
        self._passed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cut all connections."""
        for connection in [self._listener, *self._connections]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(self._server)
                self._connections += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not self.full.is_set() and (bytes_ := source.recv(1 << 16)):
                target.sendall(bytes_)
                self._passed += len(bytes_)
                if self._passed > 1 << 20:
                    self.full.set()
                    if self._hangs_up:
                        self.close()


@pytest.fixture
def relay(s3_server: str) -> Iterator[Callable[..., Relay]]:
    """Start relays to the S3 server."""
    started: list[Relay] = []

    def start(*, hangs_up: bool) -> Relay:
        started.append(Relay(s3_server, hangs_up=hangs_up))
        return started[-1]

    yield start
    for each in started:
        each.close()


def train(text: str = "model", inputs: Mapping[str, str | Sequence[str]] | None = None) -> Done:
    """A step with a checkpoint that makes a file of 3 MiB."""

    def compute(work: Path) -> Mapping[str, Output]:
        with (work / "checkpoint").open("a") as checkpoint:
            checkpoint.write("epoch\n")
        epochs = len((work / "checkpoint").read_text().splitlines())
        (work / "model.pt").write_bytes(text.encode().ljust(SIZE, b"\1"))
        metadata = {"epochs": epochs}
        return {"out": Output(path=work / "model.pt", kind="checkpoint", name=text, metadata=metadata)}

    return once(text, 1, {}, inputs or {}, compute)


def status() -> tuple[str, int]:
    with session(read_only=True) as s:
        row = s.scalars(select(StepRow)).one()
        return row.status, row.attempt


def overwrite(id_: str, bytes_: bytes) -> str:
    """Damage an object and forget the copy of it; its URL."""
    location = store().stat(id_).location
    files, key = fsspec.url_to_fs(location)
    files.pipe_file(key, bytes_)
    (copy,) = settings().cache_root.glob(f"{id_[:2]}/{id_[2:]}*")
    copy.unlink()
    return location


def test_a_step_and_what_it_made_are_found_from_another_machine(
    imported: Import, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = train(inputs={"data": imported("labels").id})
    monkeypatch.setenv("TEMPER_DATABASE_URL", settings().url)
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "another machine"))
    again = train(inputs={"data": imported("labels").id})
    assert again.reused
    path = artifacts.path(again.outputs["out"])
    assert path.is_relative_to(tmp_path / "another machine" / "cache")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == done.outputs["out"]
    assert verify(grace=NO_GRACE) == []
    assert not (tmp_path / "home" / "store").exists()


def test_a_step_whose_object_is_gone_is_computed_again(s3: str) -> None:
    done = train()
    files, key = fsspec.url_to_fs(store().stat(done.outputs["out"]).location)
    files.rm_file(key)
    (problem,) = verify()
    assert problem.kind == "missing"
    assert not train().reused
    assert verify(grace=NO_GRACE) == []


# argv: the file to put, and one that says when.
PUT = """
import sys, time
from pathlib import Path
from db.store import store

print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    time.sleep(0.01)
print(store().put(Path(sys.argv[1]), ".pt"), flush=True)
"""


def test_a_kill_in_the_middle_of_an_upload_leaves_no_object(
    process: Start,
    relay: Callable[..., Relay],
    reconnect: Callable[..., None],
    s3_server: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "model.pt").write_bytes(b"\1" * SIZE)
    silent = relay(hangs_up=False)
    reconnect(AWS_ENDPOINT_URL=silent.url)
    child = process(PUT, str(tmp_path / "model.pt"), str(tmp_path))
    assert silent.full.wait(60)
    child.kill()
    child.communicate()
    silent.close()
    reconnect(AWS_ENDPOINT_URL=s3_server)
    assert list(store().files()) == []
    id_ = store().put(tmp_path / "model.pt", ".pt")
    assert store().verify(id_)


def test_a_connection_lost_in_an_upload_fails_the_step_which_goes_on_later(
    relay: Callable[..., Relay], reconnect: Callable[..., None], s3_server: str
) -> None:
    reconnect(AWS_ENDPOINT_URL=relay(hangs_up=True).url)
    with pytest.raises(
        StoreUnavailable, match=r"the store s3://temper-.*/store cannot be used: .*then run again"
    ):
        train()
    assert status() == ("failed", 1)
    reconnect(AWS_ENDPOINT_URL=s3_server)
    assert list(store().files()) == []
    assert artifacts.get(train().outputs["out"]).metadata == {"epochs": 2}
    assert status() == ("done", 2)
    assert verify(grace=NO_GRACE) == []


def test_a_connection_lost_in_a_download_leaves_no_file(
    relay: Callable[..., Relay], reconnect: Callable[..., None], s3_server: str
) -> None:
    id_ = train().outputs["out"]
    (copy,) = settings().cache_root.glob(f"{id_[:2]}/*")
    copy.unlink()
    reconnect(AWS_ENDPOINT_URL=relay(hangs_up=True).url)
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        artifacts.path(id_)
    assert [
        path for path in settings().cache_root.rglob("*") if path.is_file() and path.name != ".lock"
    ] == []
    reconnect(AWS_ENDPOINT_URL=s3_server)
    assert artifacts.path(id_).stat().st_size == SIZE


def test_two_processes_that_put_the_same_bytes_make_one_object(
    process: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # moto answers 500 while another request replaces the object; S3 does not, and the client tries again.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "10")
    (tmp_path / "model.pt").write_bytes(b"\1" * SIZE)
    children = [process(PUT, str(tmp_path / "model.pt"), str(tmp_path / "go")) for _ in range(2)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    answers = [child.communicate() for child in children]
    (file,) = store().files()
    assert [said for said, _ in answers] == [f"{file.artifact_id}\n"] * 2, answers
    assert store().verify(file.artifact_id)


def refused(message: str) -> None:
    """Every use of the store ends in this one line, which says no secret."""
    uses = [
        lambda: artifacts.import_file(Path(__file__), "dataset", "labels"),
        lambda: artifacts.path("0" * 64),
        lambda: store().has("0" * 64),
        lambda: list(store().files()),
    ]
    for use in uses:
        with pytest.raises(StoreUnavailable, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)
        assert "very-secret" not in str(caught.value)
        assert "check TEMPER_STORE, its server (AWS_ENDPOINT_URL) and the credentials" in str(caught.value)


def test_a_server_that_is_away_is_one_clear_error(reconnect: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    reconnect(AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
    refused(f"Could not connect to the endpoint URL.*{port}")


def test_a_bucket_that_does_not_exist_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_STORE", "s3://temper-absent/store")
    refused("the store s3://temper-absent/store cannot be used: The specified bucket does not exist; check")


def test_missing_credentials_are_one_clear_error(reconnect: Callable[..., None]) -> None:
    reconnect(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    refused("Unable to locate credentials")


@pytest.fixture
def guarded(s3_server: str) -> Iterator[None]:
    """The server knows no key, and asks for one."""

    def let_in(requests: str) -> None:
        plain = {"Content-Type": "text/plain"}
        asked = urllib.request.Request(f"{s3_server}/moto-api/reset-auth", requests.encode(), plain)
        urllib.request.urlopen(asked).close()

    let_in("0")
    yield
    let_in("inf")


def test_wrong_credentials_are_one_clear_error(guarded: None) -> None:
    refused("The AWS Access Key Id you provided does not exist")


def test_a_missing_package_is_one_clear_error(process: Start) -> None:
    child = process(
        """
import sys
sys.modules["s3fs"] = None  # as if it were not installed
from db.errors import ProvenanceError
from db.store import store
try:
    store().has("0" * 64)
except ProvenanceError as error:
    print(error)
"""
    )
    said, errors = child.communicate()
    assert (
        "needs a package that is missing: Install s3fs to access S3; for s3:// it is pip install" in said
    ), errors
    assert said.endswith("'temper-mlip[s3]'\n")


@pytest.mark.parametrize("bytes_", [b"other bytes", b"\1" * (SIZE - 1), b""])
def test_a_damaged_object_is_never_used(imported: Import, bytes_: bytes) -> None:
    id_ = train().outputs["out"]
    location = overwrite(id_, bytes_)
    with pytest.raises(
        DamagedFile, match=rf"^checkpoint 'model' \({id_[:12]}\): the bytes of {location} have"
    ):
        artifacts.path(id_)
    (problem,) = verify()
    assert (problem.kind, problem.detail) == (
        "changed",
        f"checkpoint 'model': the bytes of {location} have changed",
    )


def test_a_damaged_copy_in_the_cache_is_downloaded_again(s3: str) -> None:
    id_ = train().outputs["out"]
    path = artifacts.path(id_)
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    assert artifacts.path(id_) == path
    assert path.stat().st_size == SIZE
    assert verify() == []


def test_verify_finds_what_lies_there_without_a_row(imported: Import, tmp_path: Path, s3: str) -> None:
    imported("labels")
    (tmp_path / "orphan").write_text("orphan")
    orphan = store().put(tmp_path / "orphan", "")
    files, root = fsspec.url_to_fs(s3)
    files.pipe_file(f"{root}/ab/{'0' * 62}.txt", b"half")
    files.pipe_file(f"{root}/ab/notes.txt", b"not the store's")
    bucket = root.partition("/")[0]
    for key in ("store/ab/cd", "other/ab/cd"):
        upload = files.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
    assert {problem.kind: problem.artifact_id for problem in verify(grace=NO_GRACE)} == {
        "orphan": orphan,
        "half-written": "ab" + "0" * 62,
        "unfinished": "",
    }
    found = garbage.find(grace=NO_GRACE)
    assert sorted(file.location for file in found.files) == sorted(
        [store().stat(orphan).location, f"{s3}/ab/{'0' * 62}.txt"]
    )
    assert garbage.remove(found) == found.size == len("orphan") + len("half")
    assert verify(grace=NO_GRACE) == []
    assert [u["UploadId"] for u in files.list_multipart_uploads(bucket)] == [upload["UploadId"]]  # not ours
    assert garbage.remove(found) == 0


def test_what_no_alias_rests_on_goes_and_the_rest_stays(imported: Import, s3: str) -> None:
    kept = train("kept", {"data": imported("labels").id}).outputs["out"]
    lost = train("lost", {"data": imported("other", "other").id}).outputs["out"]
    aliases.promote("nacl@engine", kept, reason="test")
    found = garbage.find(unreachable=True, grace=NO_GRACE)
    assert {artifact.name for artifact in found.artifacts} == {"lost", "other"}
    garbage.remove(found)
    assert verify(grace=NO_GRACE) == []
    assert artifacts.path(kept).stat().st_size == SIZE
    with pytest.raises(MissingFile, match=f"artifact {lost[:12]}: the store {s3} has no file"):
        artifacts.path(lost)


def test_an_archive_goes_from_a_bucket_to_a_folder_and_back(
    imported: Import, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3: str
) -> None:
    model = train(inputs={"data": imported("labels").id}).outputs["out"]
    archives.push([model], tmp_path / "model.tar")
    for name, place in (("folder", ""), ("bucket", f"{s3}-2")):
        monkeypatch.setenv("TEMPER_HOME", str(tmp_path / name))
        monkeypatch.setenv("TEMPER_DATABASE_URL", "")
        monkeypatch.setenv("TEMPER_STORE", place)
        assert archives.pull(tmp_path / "model.tar").artifacts == 2
        assert verify(grace=NO_GRACE) == []
        assert len(list(store().files())) == 2
        archives.push([model], tmp_path / f"{name}.tar")
        assert (tmp_path / f"{name}.tar").read_bytes() == (tmp_path / "model.tar").read_bytes()
    overwrite(model, b"damaged")
    archives.pull(tmp_path / "model.tar")
    assert verify(grace=NO_GRACE) == []
