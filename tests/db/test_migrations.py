import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, StatementError

from db import aliases, labels, retractions
from db.engine import open_engine
from db.errors import DatabaseUnavailable, SchemaTooNew
from db.labels import Calculation
from db.lineage import tree
from db.migrate import current, upgrade
from db.session import now, session
from db.structures import find
from db.tables import AliasEventRow, Base

NEWEST = "0003"
LABELS, TEACHER, STEP = "1" * 64, "2" * 64, "3" * 64
AT = "'2026-01-02 03:04:05+00:00'"
OLD_RECORD = [
    f"INSERT INTO artifact VALUES ('{LABELS}', 'dataset', 'labels', '.xyz', 7, "
    f"'{{\"licence\": \"MIT\"}}', NULL, {AT}, 'me')",
    f"INSERT INTO step VALUES ('{STEP}', 'train', 1, '{{}}', 3, 'done', NULL, 1, NULL, NULL, {AT}, {AT}, "
    "2.5, '{}', 'here', 'me', NULL)",
    f"INSERT INTO artifact VALUES ('{TEACHER}', 'checkpoint', 'teacher', '', 7, "
    f"'{{}}', '{STEP}', {AT}, 'me')",
    f"INSERT INTO used VALUES ('{STEP}', 'data', 0, '{LABELS}')",
    f"INSERT INTO generated VALUES ('{STEP}', 'model', '{TEACHER}')",
    f"INSERT INTO alias VALUES ('nacl@champion', '{TEACHER}', {AT}, 'me', NULL, 'good')",
]


def test_migrations_give_the_tables_of_the_models(url: str) -> None:
    assert current(url) is None
    upgrade(url)
    upgrade(url)
    assert current(url) == NEWEST
    with session() as s:
        context = MigrationContext.configure(s.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_first_use_makes_the_schema(url: str) -> None:
    assert aliases.all() == []
    assert current(url) == NEWEST


def test_what_an_older_version_recorded_is_kept_and_can_be_retracted(url: str) -> None:
    config = Config()
    config.set_main_option("script_location", "db:migrations")
    with open_engine(url, foreign_keys=False).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in OLD_RECORD:
            connection.exec_driver_sql(statement)
    assert current(url) == "0001"
    (alias,) = aliases.all()
    assert current(url) == NEWEST
    assert (alias.name, alias.artifact_id, alias.reason) == ("nacl@champion", TEACHER, "good")
    assert alias.set_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    (parent,) = tree(TEACHER).parents
    assert (parent.role, parent.artifact.name, parent.artifact.metadata) == (
        "data",
        "labels",
        {"licence": "MIT"},
    )
    retraction = retractions.retract(LABELS, "wrong units")
    assert retractions.tainted(TEACHER) == retraction
    with open_engine(url, foreign_keys=False).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    assert current(url) == "0001"
    with session(read_only=True) as s:
        assert s.scalar(text("SELECT count(*) FROM artifact")) == 2


@dataclass(frozen=True)
class Water:
    """A labelled structure."""

    structure: str = "ab" * 32
    n_atoms: int = 3
    formula: str = "H2O"
    energy: float = -14.0
    forces: float = 0.0
    stress: float | None = None


def test_a_record_with_retractions_is_kept_and_can_hold_structures(url: str) -> None:
    config = Config()
    config.set_main_option("script_location", "db:migrations")
    with open_engine(url, foreign_keys=False).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for statement in [
            *OLD_RECORD,
            f"INSERT INTO retraction_event VALUES (1, '{LABELS}', 'retracted', {AT}, 'me', 'wrong units')",
        ]:
            connection.exec_driver_sql(statement)
    assert current(url) == "0002"
    retraction = retractions.tainted(TEACHER)
    assert current(url) == NEWEST
    assert retraction is not None
    assert (retraction.artifact.id, retraction.reason) == (LABELS, "wrong units")
    labels.record(LABELS, Calculation(level_of_theory="PBE"), [Water()], tolerance=1e-4)
    (label,) = find("ababab").labels
    assert (label.dataset.name, label.energy) == ("labels", -14.0)
    with open_engine(url, foreign_keys=False).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
    assert current(url) == "0002"
    with session(read_only=True) as s:
        assert s.scalar(text("SELECT count(*) FROM artifact")) == 2
        assert s.scalar(text("SELECT count(*) FROM retraction_event")) == 1


def test_newer_schema_is_refused(url: str) -> None:
    upgrade(url)
    with session() as s:
        s.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaTooNew, match=r"at revision '9999'.*Upgrade Temper"):
        upgrade(url)


FIRST_USE = """
import sys
from db.session import session, now
from db.tables import AliasEventRow, ArtifactRow
for count in range(20):
    with session() as s:
        s.add(ArtifactRow(id=f"{sys.argv[1]}-{count}", kind="dataset", name="", suffix="", size=0,
                          metadata_={}, created_at=now(s), created_by=""))
    with session(read_only=True) as s:
        assert s.get(ArtifactRow, f"{sys.argv[1]}-{count}")
"""


def test_processes_that_come_at_once_make_one_schema_and_never_find_it_locked(
    url: str, process: Callable[..., subprocess.Popen[str]]
) -> None:
    children = [process(FIRST_USE, str(number)) for number in range(3)]
    results = [(child.communicate()[1], child.returncode) for child in children]
    assert results == [("", 0)] * 3
    with session(read_only=True) as s:
        assert s.scalar(text("SELECT count(*) FROM artifact")) == 60


def test_new_file_is_never_found_locked_by_those_that_come_at_once(tmp_path: Path) -> None:
    def open_it(number: int) -> str:
        begin.wait()
        with open_engine(f"sqlite:///{tmp_path}/{number}.db").connect() as connection:
            return str(connection.scalar(text("PRAGMA journal_mode")))

    at_once, files = 6, 20
    begin = Barrier(at_once)
    with ThreadPoolExecutor(at_once) as pool:
        modes = list(pool.map(open_it, [number for number in range(files) for _ in range(at_once)]))
    assert modes == ["wal"] * at_once * files


def test_foreign_keys_are_enforced(url: str) -> None:
    with pytest.raises(IntegrityError), session() as s:  # noqa: PT012
        s.add(AliasEventRow(name="a@b", artifact_id="0" * 64, set_at=now(s), set_by="", reason=""))
        s.flush()


def test_time_is_utc_and_aware_on_every_database(url: str, imported: Callable[..., object]) -> None:
    imported("text")
    somewhere = datetime(2024, 2, 29, 1, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    with session() as s:
        id_ = s.scalar(text("SELECT id FROM artifact"))
        s.add(AliasEventRow(name="a@b", artifact_id=id_, set_at=somewhere, set_by="", reason=""))
    event = aliases.history("a@b")[0]
    assert event.set_at == somewhere
    assert event.set_at.tzinfo is UTC
    with session(read_only=True) as s:
        assert now(s).utcoffset() == timedelta(0)


def test_time_without_zone_is_refused(url: str, imported: Callable[..., object]) -> None:
    with pytest.raises(StatementError, match="has no time zone"), session() as s:  # noqa: PT012
        s.add(AliasEventRow(name="a@b", artifact_id="", set_at=datetime(2024, 1, 1), set_by="", reason=""))
        s.flush()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "postgresql://me:secret@/temper?host={home}",
            r"psycopg://me:\*\*\*@/.*No such file.*; check TEMPER_",
        ),
        ("sqlite:///{home}", "unable to open database file; check TEMPER_DATABASE_URL"),
    ],
)
def test_unreachable_database_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    monkeypatch.setenv("TEMPER_DATABASE_URL", url.format(home=tmp_path))
    with pytest.raises(DatabaseUnavailable, match=message) as caught:
        aliases.all()
    assert "\n" not in str(caught.value)


def test_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_DATABASE_URL", "postgresql://db.example/temper")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DatabaseUnavailable, match=r"needs the package psycopg: pip install"):
        aliases.all()
