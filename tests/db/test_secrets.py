"""The password in TEMPER_DATABASE_URL: in no message, no traceback and no database."""

import os
import subprocess
import traceback
from pathlib import Path

import psycopg
import pytest
from pydantic import ValidationError

from db import artifacts
from db.errors import DatabaseUnavailable
from db.settings import settings

PLANTED = "planted-7Qx"
WRONG = [
    f"mysql://me:{PLANTED}@db.example/temper",
    f"postgres:/me:{PLANTED}@db.example/temper",
    f"postgresql://me:{PLANTED}@part@db.example/temper",  # drivers take what follows the first @ for a host,
    f"postgresql://me:part@{PLANTED}@db.example/temper",
    f"postgresql://me:part/{PLANTED}@db.example/temper",  # what follows a / for a database,
    f"postgresql://me:{PLANTED}?part@db.example/temper",  # and what precedes a ? for a port
    f"postgresql://me:{PLANTED}#part@db.example/temper",
    f"postgresql://me:{PLANTED}/temper",
    f"postgresql://me:{PLANTED}@db.example",
]


@pytest.mark.parametrize("url", WRONG)
def test_an_address_that_is_none_is_refused_without_being_shown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_DATABASE_URL", url)
    with pytest.raises(ValidationError) as caught:
        settings()
    assert PLANTED not in "".join(traceback.format_exception(caught.value))
    assert "database_url" in str(caught.value)
    assert "give " in str(caught.value)


def test_a_database_that_does_not_answer_is_named_without_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEMPER_DATABASE_URL", f"postgresql://me:{PLANTED}@127.0.0.1:1/temper")
    assert PLANTED not in repr(settings())
    with pytest.raises(DatabaseUnavailable, match=r"me:\*\*\*@127.0.0.1:1/temper") as caught:
        artifacts.get("0" * 64)
    assert PLANTED not in "".join(traceback.format_exception(caught.value))


def test_no_password_is_in_the_database_or_the_home(
    postgres: Path, tmp_path: Path, temper_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(host=str(postgres), user="postgres", dbname="postgres", autocommit=True) as admin:
        admin.execute("CREATE DATABASE planted")
        try:
            url = f"postgresql://postgres:{PLANTED}@/planted?host={postgres}"
            monkeypatch.setenv("TEMPER_DATABASE_URL", url)
            (tmp_path / "labels.txt").write_text("labels")
            artifacts.import_file(tmp_path / "labels.txt", "dataset", "labels")
            dumped = subprocess.run(
                ["pg_dump", "planted"],
                env={**os.environ, "PGHOST": str(postgres), "PGUSER": "postgres"},
                capture_output=True,
                check=True,
            )
        finally:
            admin.execute("DROP DATABASE planted WITH (FORCE)")
    assert b"labels" in dumped.stdout
    assert PLANTED.encode() not in dumped.stdout
    written = [path for path in temper_home.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if PLANTED.encode() in path.read_bytes()]
