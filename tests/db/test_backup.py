"""The backup of docker/: made with the real tools from a real PostgreSQL, and put back after all was lost."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from db import aliases, artifacts
from db.errors import UnknownArtifact
from db.settings import settings
from db.verification import verify

SCRIPT = Path(__file__).parents[2] / "docker" / "backup.sh"
DATABASES = ("temper", "prefect")

pytestmark = pytest.mark.skipif(shutil.which("pg_dump") is None, reason="pg_dump is not installed")


@pytest.fixture
def admin(
    postgres: Path, monkeypatch: pytest.MonkeyPatch, temper_home: Path
) -> Iterator[Callable[..., None]]:
    """Run SQL on the server, on which there are both databases; Temper uses its own."""

    def run(*statements: str, database: str = "postgres") -> None:
        with psycopg.connect(
            host=str(postgres), user="postgres", dbname=database, autocommit=True
        ) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    run(*(f"CREATE DATABASE {name}" for name in DATABASES))
    monkeypatch.setenv("TEMPER_DATABASE_URL", f"postgresql://postgres@/temper?host={postgres}")
    yield run
    run(*(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for name in DATABASES))


@pytest.fixture
def backup(postgres: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call the script as its container does."""

    def run(*arguments: object, store: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(SCRIPT), *map(str, arguments)],
            env={
                "PATH": os.environ["PATH"],
                "PGHOST": str(postgres),
                "PGUSER": "postgres",
                "STORE": str(settings().store_place) if store is None else store,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def recorded(folder: Path, text: str) -> str:
    """The id of a text on record."""
    path = folder / f"{text}.txt"
    path.write_text(text)
    return artifacts.import_file(path, "checkpoint", text).id


def test_everything_is_back_after_it_was_lost(
    admin: Callable[..., None],
    backup: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    admin("CREATE TABLE flow_run (name text)", "INSERT INTO flow_run VALUES ('nacl')", database="prefect")
    specialist = recorded(tmp_path, "specialist")
    aliases.promote("nacl@champion", specialist, reason="test")
    folder = tmp_path / "backups"

    first = backup("make", folder)
    assert first.returncode == 0, first.stderr
    kept = {path: path.stat().st_ino for path in (folder / "store").rglob("*") if path.is_file()}
    assert len(kept) == 1
    (folder / "store" / "ab").mkdir(exist_ok=True)
    (folder / "store" / "ab" / "cd.extxyz.unfinished").write_text("a backup that was killed")

    another = recorded(tmp_path, "another")
    second = backup("make", folder / "")
    assert second.returncode == 0
    assert all(path.stat().st_ino == inode for path, inode in kept.items())  # none is copied twice
    assert all(path.stat().st_mode & 0o077 == 0o044 for path in kept)
    assert {path.name for path in Path(first.stdout.strip()).iterdir()} == {"temper.dump", "prefect.dump"}

    for name in DATABASES:
        admin(f"DROP DATABASE {name} WITH (FORCE)", f"CREATE DATABASE {name}")
    store = Path(settings().store_place)
    shutil.rmtree(store)
    store.mkdir()

    assert backup("restore", folder / "never").returncode == 1
    restored = backup("restore", first.stdout.strip())
    assert restored.returncode == 0, restored.stderr
    assert verify() == []
    assert aliases.resolve("nacl@champion").id == specialist
    assert artifacts.path(specialist).read_text() == "specialist"
    with pytest.raises(UnknownArtifact):
        artifacts.get(another)
    admin("DO $$ BEGIN ASSERT (SELECT name FROM flow_run) = 'nacl'; END $$", database="prefect")
    assert not list(store.rglob("*.unfinished"))

    again = backup("restore", second.stdout.strip())  # over what is there
    assert again.returncode == 0, again.stderr
    assert artifacts.path(another).read_text() == "another"
    assert verify() == []


def test_a_store_that_is_not_there_is_one_error(
    admin: Callable[..., None], backup: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    missing = backup("make", tmp_path / "backups", store=str(tmp_path / "none"))
    assert missing.returncode == 1
    assert (
        missing.stderr.strip()
        == f"there is no folder {tmp_path}/none; for files in a bucket set STORE to nothing"
    )
    assert [path.suffix for path in (tmp_path / "backups").iterdir()] == [".unfinished"]
    assert backup("make", tmp_path / "elsewhere", store="").returncode == 0
    assert backup("tidy").returncode == 2
