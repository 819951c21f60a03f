"""Run by Alembic: from ``db.migrate`` with a connection, or from its command line on the current settings."""

from alembic import context
from sqlalchemy import Connection

from db.engine import open_engine
from db.settings import settings
from db.tables import Base


def migrate(connection: Connection) -> None:
    """Run the migrations in one transaction, on SQLite too: a kill leaves the old schema or the new."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transactional_ddl=True,
        render_as_batch=True,  # SQLite cannot alter a table in place
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    with open_engine(settings().url, foreign_keys=False).begin() as opened:
        migrate(opened)
