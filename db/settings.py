"""Where Temper keeps things, read from the environment (``TEMPER_HOME``, ``TEMPER_DATABASE_URL``, …)."""

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Tracker = Literal["tensorboard", "wandb", "mlflow"]

_POSTGRES = re.compile(
    r"([^:/@?#]*(:[^/@?#]*)?@)?([^:/@?#\[\]]*|\[[0-9a-fA-F:.]+\])(:\d+)?/[^/@?#]+(\?[^#]*)?"
)


def _separated(names: object) -> object:
    return [n.strip() for n in names.split(",") if n.strip()] if isinstance(names, str) else names


_BY_COMMAS = BeforeValidator(_separated)


class Settings(BaseSettings):
    """Places and times. Every field can be set by an environment variable with the prefix ``TEMPER_``."""

    # A value that is refused may hold a password.
    model_config = SettingsConfigDict(env_prefix="TEMPER_", frozen=True, hide_input_in_errors=True)

    home: Path = Path("~/.temper")
    """Folder of the database, the files and the scratch folders."""
    database_url: str = Field(default="", repr=False)
    """SQLAlchemy URL of a SQLite file or a PostgreSQL database; empty: ``temper.db`` under ``home``."""
    store: str = ""
    """Folder of the files, or a URL of fsspec (``s3://bucket/prefix``); empty: ``store`` under ``home``."""
    lease_seconds: float = Field(default=60.0, gt=0)
    """How long (s) a step stays claimed after the last sign of life of the process that computes it."""
    patience_seconds: float = Field(default=600.0, ge=0)
    """How long (s) a database that went away or is locked is waited for, so that nothing computed is lost."""
    device: str = "cpu"
    """Where networks compute: ``cpu``, ``cuda``, ``cuda:1``, …, or ``auto``: a GPU where there is one."""
    child_memory_gb: float | None = Field(default=None, gt=0)
    """What each child process may allocate on a CPU (10⁹ bytes); none: all that machine or job have."""

    label_workers: int = Field(default=2, ge=1)
    """How many labels this machine computes at once, on one thread each."""
    dask: str = ""
    """Who deals labels out (extra ``dask``): a YAML file that describes a cluster (``docs/clusters.md``); the
    address of a scheduler, whose workers need the same database and store; ``local``, one on this machine;
    empty: threads of the campaign."""

    data_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders, separated by ``:``, from which campaigns may read besides the folder of their own file."""
    programs: Annotated[tuple[str, ...], NoDecode, _BY_COMMAS] = ()
    """What reference calculators may start, separated by commas (``xtb,orca``); no program: none of them."""

    trackers: Annotated[tuple[Tracker, ...], NoDecode, _BY_COMMAS] = ()
    """Where trainings are also shown, separated by commas; each needs its library (extra ``tracking``)."""

    @field_validator("data_roots", mode="before")
    @classmethod
    def _folders(cls, text: object) -> object:
        return [Path(f).expanduser() for f in text.split(os.pathsep) if f] if isinstance(text, str) else text

    @field_validator("data_roots")
    @classmethod
    def _from_the_root(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        if relative := [str(folder) for folder in folders if not folder.is_absolute()]:
            raise ValueError(f"{', '.join(relative)}: give folders from the root, as /data/labels")
        return folders

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _supported(cls, url: str) -> str:
        scheme, separator, rest = url.partition("://")
        if scheme in ("postgres", "postgresql", "postgresql+psycopg"):
            if not _POSTGRES.fullmatch(rest):  # what a driver says of it could hold a part of the password
                raise ValueError(
                    "give postgresql://user:password@host:5432/database, and in user and password %40 for @, "
                    "%2F for /, %3F for ? and %23 for #"
                )
            return f"postgresql+psycopg://{rest}"
        if url and not (scheme == "sqlite" and rest.strip("/")):
            shown = f"{scheme}://…" if separator else "that"
            raise ValueError(
                f"{shown!r} is not supported; give sqlite:////absolute/path/to/temper.db or "
                "postgresql://user@host/database"
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
    """The settings of the environment as it is now."""
    return _settings(tuple(map(os.environ.get, _VARIABLES)))


_VARIABLES = ("HOME", *(f"TEMPER_{name.upper()}" for name in Settings.model_fields))


@lru_cache(maxsize=1)
def _settings(_: tuple[str | None, ...]) -> Settings:
    """Kept as long as the variables stay: to read them takes a millisecond, and every transaction asks."""
    return Settings()


class AlarmSettings(BaseSettings):
    """Who is told of an alarm. Every field can be set by a variable with the prefix ``TEMPER_ALARM_``."""

    model_config = SettingsConfigDict(env_prefix="TEMPER_ALARM_", frozen=True)

    webhook: SecretStr = SecretStr("")
    """Where a signed message is posted; addresses of chat services are secrets themselves."""
    secret: SecretStr = SecretStr("")
    """What it is signed with: ``whsec_`` and 24 to 64 random bytes in base64."""
    mail_to: Annotated[tuple[str, ...], NoDecode, _BY_COMMAS] = ()
    """Addresses, separated by commas."""
    mail_from: str = ""
    """The sender; empty: the first of ``mail_to``."""
    smtp: str = ""
    """The mail server: ``smtp://mail.example.org``, or ``smtps://ada@mail.example.org:465``."""
    smtp_password: SecretStr = SecretStr("")
    """The password of the user in ``smtp``."""


def alarm_settings() -> AlarmSettings:
    """Read who is told of an alarm from the environment as it is now."""
    return AlarmSettings()
