from pathlib import Path

import pytest
from pydantic import ValidationError

from db.settings import settings


def test_home_holds_everything_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path))
    monkeypatch.delenv("TEMPER_DATABASE_URL", raising=False)
    monkeypatch.delenv("TEMPER_STORE", raising=False)
    now = settings()
    assert now.url == f"sqlite:///{tmp_path}/temper.db"
    assert now.store_place == tmp_path / "store"
    assert now.cache_root == tmp_path / "cache"
    assert now.work_root == tmp_path / "work"


def test_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEMPER_HOME", "here")
    assert settings().home == tmp_path / "here"
    monkeypatch.setenv("TEMPER_HOME", "~/there")
    assert settings().home == Path.home() / "there"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_plain_postgresql_url_gets_the_driver(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_DATABASE_URL", f"{scheme}://me:secret@db.example/temper")
    assert settings().url == "postgresql+psycopg://me:secret@db.example/temper"


@pytest.mark.parametrize(
    "url", ["mysql://me:secret@db.example/temper", "sqlite://", "sqlite:///", "temper.db"]
)
def test_other_databases_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_DATABASE_URL", url)
    with pytest.raises(ValidationError, match="is not supported; give sqlite:") as caught:
        settings()
    assert "secret" not in caught.value.errors()[0]["msg"]


def test_the_store_is_a_folder_or_behind_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, place in {
        "files": tmp_path / "files",
        "~/files": Path.home() / "files",
        "file:///data/files": Path("/data/files"),
        "s3://bucket/prefix": "s3://bucket/prefix",
        "sftp://me@host/files": "sftp://me@host/files",
        "": settings().home / "store",
    }.items():
        monkeypatch.setenv("TEMPER_STORE", given)
        assert settings().store_place == place


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3:/bucket/prefix", "give a folder, or a URL such as s3://bucket/prefix"),
        ("s3://", "'s3://' names no place"),
        ("sftp://me:very-secret@host/files", "'sftp://…' holds a password"),
    ],
)
def test_a_store_that_cannot_be_is_refused(place: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_STORE", place)
    with pytest.raises(ValidationError, match=message) as caught:
        settings()
    assert "secret" not in caught.value.errors()[0]["msg"]


def test_trackers_are_a_list_of_known_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEMPER_TRACKERS", raising=False)
    assert settings().trackers == ()
    monkeypatch.setenv("TEMPER_TRACKERS", "wandb, tensorboard")
    assert settings().trackers == ("wandb", "tensorboard")
    monkeypatch.setenv("TEMPER_TRACKERS", "comet")
    with pytest.raises(ValidationError, match="'tensorboard', 'wandb' or 'mlflow'"):
        settings()


def test_at_least_one_label_is_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEMPER_LABEL_WORKERS", raising=False)
    assert settings().label_workers == 2
    monkeypatch.setenv("TEMPER_LABEL_WORKERS", "16")
    assert settings().label_workers == 16
    monkeypatch.setenv("TEMPER_LABEL_WORKERS", "0")
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        settings()
