"""What campaigns may read and start here, by the settings of whoever operates this Temper."""

from db.settings import settings
from models.permissions import Permissions


def permissions(*, from_person: bool) -> Permissions:
    """What campaigns may do here; `from_person`: a person at this machine asks, and no form in a browser."""
    now = settings()
    return Permissions(roots=now.data_roots, programs=now.programs, from_person=from_person)
