"""The doctor on machines that are well, and on machines that are not."""

import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from models import devices
from tasks import doctor
from tasks.doctor import LOOKS, examine, look


@pytest.fixture(autouse=True)
def on_the_cpu() -> Iterator[None]:
    """Whatever a look chose, other tests go on on the CPU."""
    yield
    devices.choose("cpu")


def test_a_machine_that_is_well_needs_no_advice(temper_home: Path) -> None:
    findings = examine(None)
    assert [finding.subject for finding in findings] == list(LOOKS)
    assert [finding for finding in findings if not finding.ok] == []
    said = {finding.subject: finding.said for finding in findings}
    assert said["mace"].startswith("mace-torch 0.3")
    assert "float64 within" in said["numbers"]
    assert str(temper_home) in said["database"]
    assert list((temper_home / "store").rglob("*.probe")) == []
    assert said["Prefect"] == "no server runs; `temper run` and `temper up` start one"


def test_a_gpu_that_is_not_there_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_DEVICE", "cuda:7")
    monkeypatch.setenv("PATH", "/nowhere")
    found = look("GPU", None)
    assert not found.ok
    assert "TEMPER_DEVICE=cuda:7" in found.advice
    assert "install NVIDIA's driver; else leave TEMPER_DEVICE empty" in found.advice
    assert not look("numbers", None).ok


def test_numbers_that_are_off_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.diagnosis, "ENOUGH", {"float64": 1e-8, "float32": 1e-12})
    found = look("numbers", None)
    assert found.advice.startswith("float32: forces differ")


def test_a_package_of_the_wrong_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"fastapi": "0.165.0", "mace-torch": "1.0.0"}
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: versions.get(name) or real(name))
    assert "fastapi is 0.165.0, and has to be <0.151,>=0.139" in look("packages", None).advice
    assert look("mace", None).advice.startswith("Temper needs mace-torch<0.4,>=0.3.16")


def test_a_full_disk_is_named_by_the_variable_that_moves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISK_GB", 1e9)
    found = look("disk", None)
    assert "TEMPER_HOME and TMPDIR and TEMPER_STORE" in found.advice
    assert "temper gc" in found.advice


def test_a_database_of_a_newer_temper_is_one_finding(temper_home: Path) -> None:
    temper_home.mkdir()
    with sqlite3.connect(temper_home / "temper.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
    database.close()
    found = look("database", None)
    assert not found.ok
    assert "made by a newer one. Upgrade Temper" in found.advice


def test_a_store_that_cannot_be_written_to(temper_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temper_home.mkdir()
    (temper_home / "file").write_text("in the way")
    monkeypatch.setenv("TEMPER_STORE", str(temper_home / "file"))
    found = look("store", None)
    assert not found.ok
    assert str(temper_home / "file") in found.advice


def test_a_server_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        api = f"http://127.0.0.1:{closed.getsockname()[1]}/api"
    with temporary_settings({PREFECT_API_URL: api, PREFECT_CLIENT_MAX_RETRIES: 0}):
        found = look("Prefect", api)
    assert found.said.startswith(f"{api} does not answer")
    assert "temper up" in found.advice
