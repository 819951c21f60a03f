"""Whether the database and the store can be used: looked at as every step uses them."""

import os
from datetime import UTC, datetime, timedelta
from io import BytesIO

from sqlalchemy import make_url

from db.session import now, session
from db.settings import settings
from db.store import store


def probe_database() -> tuple[str, timedelta]:
    """Where the database is, without its password, and how far its clock is ahead of this machine's.

    Its schema is brought up to date. Raises DatabaseUnavailable or SchemaTooNew.
    """
    with session() as opened:
        ahead = now(opened) - datetime.now(UTC)
    return make_url(settings().url).render_as_string(hide_password=True), ahead


def probe_store() -> str:
    """Where the store is, once a few bytes were put there, read and removed. Raises StoreUnavailable."""
    place = store()
    id_ = place.receive(BytesIO(os.urandom(64)), ".probe")
    try:
        place.path(id_)
    finally:
        place.remove(place.stat(id_))
    return place.place
