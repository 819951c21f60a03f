"""What campaigns may read and start here, by the settings of whoever operates this Temper."""

from prefect.context import FlowRunContext
from prefect.runtime import deployment

from db.settings import settings
from models.permissions import Permissions


def permissions(*, from_person: bool) -> Permissions:
    """What campaigns may do here; `from_person`: a person at this machine asks, and no form in a browser."""
    now = settings()
    return Permissions(roots=now.data_roots, programs=now.programs, from_person=from_person)


def deployed() -> bool:
    """Whether a deployment started this run, or the run that it is a part of; False outside of runs."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is not None and run.parent_task_run_id is None:
        return run.deployment_id is not None
    return deployment.id is not None  # asks the server where this is a part of another run
