"""Where Temper keeps things, read from the environment (``TEMPER_HOME``, ``TEMPER_DATABASE_URL``, …)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Tracker = Literal["tensorboard", "wandb", "mlflow"]


class Settings(BaseSettings):
    """Places and times. Every field can be set by an environment variable with the prefix ``TEMPER_``."""

    model_config = SettingsConfigDict(env_prefix="TEMPER_", frozen=True)

    home: Path = Path("~/.temper")
    """Folder of the database, the store and the scratch folders."""
    database_url: str = ""
    """SQLAlchemy URL of a SQLite file or a PostgreSQL database; empty: ``temper.db`` under ``home``."""
    lease_seconds: float = Field(default=60.0, gt=0)
    """How long (s) a step stays claimed after the last sign of life of the process that computes it."""

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

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database_url or f"sqlite:///{self.home / 'temper.db'}"

    @property
    def store_root(self) -> Path:
        """Folder of the content-addressed file store."""
        return self.home / "store"

    @property
    def work_root(self) -> Path:
        """Folder of the scratch folders of steps that are not finished."""
        return self.home / "work"


def settings() -> Settings:
    """Read the settings from the environment as it is now."""
    return Settings()
