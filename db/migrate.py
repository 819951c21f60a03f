"""Bring a database to the schema of this version of Temper."""

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from db.engine import READ_ONLY, open_engine
from db.errors import SchemaTooNew

# Any number will do as long as every Temper uses the same one.
ADVISORY_LOCK = 7_283_658_301


def upgrade(url: str) -> None:
    """Upgrade the database at ``url`` to the newest schema; safe when several processes do it at once.

    Raises:
        SchemaTooNew: the database is at a revision that this version of Temper does not know.
    """
    config = Config()
    config.set_main_option("script_location", "db:migrations")  # package:folder, wherever it is installed
    scripts = ScriptDirectory.from_config(config)
    revision = current(url)
    if revision == scripts.get_current_head():
        return
    # Foreign keys off: on SQLite changing a table means rebuilding it.
    engine = open_engine(url, foreign_keys=False)
    if revision is not None and revision not in {script.revision for script in scripts.walk_revisions()}:
        raise SchemaTooNew(
            f"database {engine.url.render_as_string(hide_password=True)} is at revision '{revision}', which "
            "this Temper does not know: it was made by a newer one. Upgrade Temper, or point "
            "TEMPER_DATABASE_URL or TEMPER_HOME at another place"
        )
    with engine.begin() as connection:  # on SQLite this alone keeps every other writer out
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def current(url: str) -> str | None:
    """Revision the database at ``url`` is at, or None if it has no schema yet."""
    with open_engine(url).connect().execution_options(**READ_ONLY) as connection:
        return MigrationContext.configure(connection).get_current_revision()
