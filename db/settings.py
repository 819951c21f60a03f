"""Where Temper keeps things, read from the environment (``TEMPER_HOME``, ``TEMPER_DATABASE_URL``, …)."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Tracker = Literal["tensorboard", "wandb", "mlflow"]


class Settings(BaseSettings):
    """Places and times. Every field can be set by an environment variable with the prefix ``TEMPER_``."""

    model_config = SettingsConfigDict(env_prefix="TEMPER_", frozen=True)

    home: Path = Path("~/.temper")
    """Folder of the database, the files and the scratch folders."""
    database_url: str = ""
    """SQLAlchemy URL of a SQLite file or a PostgreSQL database; empty: ``temper.db`` under ``home``."""
    store: str = ""
    """Folder of the files, or a URL of fsspec (``s3://bucket/prefix``); empty: ``store`` under ``home``."""
    lease_seconds: float = Field(default=60.0, gt=0)
    """How long (s) a step stays claimed after the last sign of life of the process that computes it."""
    device: str = "cpu"
    """Where networks compute: ``cpu``, ``cuda``, ``cuda:1``, …, or ``auto``: a GPU where there is one."""

    trackers: Annotated[tuple[Tracker, ...], NoDecode] = ()
    """Where trainings are also shown, separated by commas; each needs its library (extra ``tracking``)."""

    @field_validator("trackers", mode="before")
    @classmethod
    def _separated(cls, names: object) -> object:
        return [n.strip() for n in names.split(",") if n.strip()] if isinstance(names, str) else names

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _supported(cls, url: str) -> str:
        scheme, separator, rest = url.partition("://")
        if scheme in ("postgres", "postgresql"):
            return f"postgresql+psycopg://{rest}"
        if url and not (scheme == "postgresql+psycopg" or (scheme == "sqlite" and rest.strip("/"))):
            raise ValueError(
                f"'{scheme}{separator}…' is not supported; give sqlite:////absolute/path/to/temper.db "
                "or postgresql://user@host/database"
            )
        return url

    @field_validator("store")
    @classmethod
    def _reachable(cls, place: str) -> str:
        scheme, separator, rest = place.partition("://")
        if not separator:
            if re.match("[a-z0-9+.]+:", place):
                raise ValueError("give a folder, or a URL such as s3://bucket/prefix")
            return place and str(Path(place).expanduser().absolute())
        if not rest.strip("/"):
            raise ValueError(f"'{place}' names no place; give a URL such as s3://bucket/prefix")
        if ":" in rest.partition("/")[0].rpartition("@")[0]:
            raise ValueError(
                f"'{scheme}://…' holds a password, which would be shown in messages; leave it out and give "
                "it in the environment"
            )
        return str(Path("/", rest)) if scheme in ("file", "local") else place

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database_url or f"sqlite:///{self.home / 'temper.db'}"

    @property
    def store_place(self) -> Path | str:
        """Where the content-addressed files are: a folder, or a URL."""
        if "://" in self.store:
            return self.store
        return Path(self.store) if self.store else self.home / "store"

    @property
    def cache_root(self) -> Path:
        """Folder of the copies of what is in a store behind a URL."""
        return self.home / "cache"

    @property
    def work_root(self) -> Path:
        """Folder of the scratch folders of steps that are not finished."""
        return self.home / "work"


def settings() -> Settings:
    """Read the settings from the environment as it is now."""
    return Settings()
