"""What becomes of a flow run that is ended from outside: it goes on from its checkpoints, or it is cancelled.

Both are hooks of a flow. Prefect calls `listen` in the process of the run; `go_on` there as well after a
SIGTERM, as that of a batch system whose time is up, and in a process of the worker's after a kill.
"""

import contextvars
import os
import signal
import threading
from contextlib import suppress
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging.loggers import flow_run_logger
from prefect.states import Cancelled

ATTEMPTS = 5  # of a run that is killed again and again, as by the memory that it needs
ATTEMPT = "temper.attempt"  # the label of a run that says which one it is
LOOK_SECONDS = 3.0  # between two looks at the state of the run
TERMINATED = "termination signal"  # stands in the message of what a SIGTERM has ended

_cancelled: set[UUID] = set()


def listen(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """A hook of a run that starts: cancel it when it is to be cancelled, though no worker sees to it.

    Nobody but its own process can cancel a run that was started by the command, or whose worker was killed.
    """
    in_context = contextvars.copy_context().run  # where Prefect keeps its settings
    threading.Thread(target=in_context, args=(_listen, flow_run.id), name="cancellation", daemon=True).start()


def _listen(run_id: UUID) -> None:
    looks = 0
    with get_client(sync_client=True) as client:
        pause = threading.Event()
        while looks < 2:  # a worker comes first
            pause.wait(LOOK_SECONDS)
            with suppress(Exception):  # the server may be away
                state = client.read_flow_run(run_id).state
                if state is None or state.is_final():
                    return
                looks = looks + 1 if state.is_cancelling() else 0
    _cancelled.add(run_id)
    os.kill(os.getpid(), signal.SIGTERM)


def go_on(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """A hook of a run that crashed: submit it again, if a worker can take it and it was not cancelled.

    What is finished is on record, and a training goes on from its checkpoint.
    """
    with get_client(sync_client=True) as client:
        if flow_run.id in _cancelled:
            by_itself: State = Cancelled(message="Cancelled by its own process.")
            client.set_flow_run_state(flow_run.id, by_itself, force=True)
        else:
            submit_again(client, flow_run, state.message or "")


def submit_again(client: SyncPrefectClient, run: FlowRun, reason: str) -> bool:
    """Submit a run that crashed as a new one, and say so in its log.

    Not the same run: its worker may report its crash a second time, after this. False where it has no
    deployment, was being cancelled, or was killed too often.
    """
    say = flow_run_logger(run).warning
    attempt = int(str(run.labels.get(ATTEMPT, 1)))
    if run.deployment_id is None:
        say("%s To go on from the last checkpoint, run it again.", reason)
        return False
    if any(state.is_cancelling() for state in client.read_flow_run_states(run.id)):
        return False
    if attempt >= ATTEMPTS and TERMINATED not in reason:
        say("%s This was attempt %d: it is not tried again by itself.", reason, attempt)
        return False
    again = client.create_flow_run_from_deployment(
        run.deployment_id,
        parameters=run.parameters,
        name=run.name,
        tags=run.tags,
        labels={ATTEMPT: attempt + (TERMINATED not in reason)},
        job_variables=run.job_variables,
        idempotency_key=f"{run.id} goes on {run.run_count}",
    )
    say("%s It goes on from its checkpoints as flow run %s.", reason, again.id)
    return True
