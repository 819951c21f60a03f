"""No run stays Running for ever: what nobody reports any more is found and ended.

A worker reports the death of a run's process. Where the worker has died as well, an automation of the Prefect
server misses the run's heartbeats. What a server that was killed has forgotten, `settle` finds.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.actions import ChangeFlowRunState
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.states import Cancelled, Crashed

from flows.interruptions import submit_again
from flows.server import SETTINGS

HEARTBEAT = timedelta(seconds=int(SETTINGS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]))
SILENCE = 3 * HEARTBEAT  # of a run that is taken for dead: heartbeats come late on a busy machine
START = timedelta(minutes=10)  # that a worker may take from taking a run to its first line
OURS = ("finetune", "round", "train", "label", "distil", "sweep", "validate", "revalidate")
PAGE = 200

_ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled")}
_WAITS = {f"prefect.flow-run.{state}" for state in ("Scheduled", "AwaitingRetry", "Suspended", "Resuming")}


def automations(
    silence: timedelta = SILENCE, start: timedelta = START, flows: Sequence[str] = OURS
) -> list[AutomationCore]:
    """What ends runs that nobody computes any more."""
    lost, never = "No sign of life: its process has gone.", "It never started: its worker has gone."
    crashed, cancelled = StateType.CRASHED, StateType.CANCELLED
    return [
        _automation("lost runs", lost, "heartbeat", "heartbeat", silence, flows, crashed),
        _automation("runs that never start", never, "Pending", "Running", start, flows, crashed),
        _automation(
            "cancelled runs", "Its process has gone.", "Cancelling", "Cancelled", silence, flows, cancelled
        ),
    ]


def _automation(
    name: str,
    description: str,
    after: str,
    missing: str,
    within: timedelta,
    flows: Sequence[str],
    state: StateType,
) -> AutomationCore:
    """One that changes a run's state, unless something ends the run within a time after an event."""
    return AutomationCore(
        name=f"Temper: {name}",
        description=description,
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": list(flows)},
            for_each={"prefect.resource.id"},
            after={f"prefect.flow-run.{after}"},
            expect={f"prefect.flow-run.{missing}", *_ENDS, *_WAITS},
            threshold=1,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                state=state, message=f"{description} Run it again to go on from its last checkpoint."
            )
        ],
    )


def create_automations(
    silence: timedelta = SILENCE, start: timedelta = START, flows: Sequence[str] = OURS
) -> list[str]:
    """Create them on the server of the settings, or bring them up to date; returns their names.

    `silence` has to be at least three times the heartbeat of the runs.
    """
    wanted = {automation.name: automation for automation in automations(silence, start, flows)}
    with get_client(sync_client=True) as client:
        for name, automation in wanted.items():
            there = client.read_automations_by_name(name)
            for one in there:
                client.update_automation(one.id, automation)
            if not there:
                client.create_automation(automation)
    return list(wanted)


def settle(silence: timedelta = SILENCE, start: timedelta = START, flows: Sequence[str] = OURS) -> list[str]:
    """End the runs that nobody computes any more, and let those with a deployment go on; a line for each.

    For a server that was killed, or stopped with its worker: to be called when it is up again.
    """
    lines = []
    with get_client(sync_client=True) as client:
        for run in _unfinished(client):
            state = run.state
            if state is None or run.flow_id is None or client.read_flow(run.flow_id).name not in flows:
                continue
            quiet = datetime.now(UTC) - _last_sign(client, run, state.timestamp)
            if quiet < (start if state.is_pending() else silence):
                continue
            if state.is_cancelling():
                client.set_flow_run_state(run.id, Cancelled(message="Its process has gone."), force=True)
                lines.append(f"{run.name}: cancelled")
                continue
            reason = f"No sign of life for {quiet.total_seconds():.0f} s."
            client.set_flow_run_state(run.id, Crashed(message=reason))
            again = submit_again(client, run, reason)
            lines.append(f"{run.name}: {reason} {'Submitted again.' if again else 'Crashed.'}")
    return lines


def _unfinished(client: SyncPrefectClient) -> list[FlowRun]:
    types = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    chosen = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)))
    found: list[FlowRun] = []
    while True:
        page = client.read_flow_runs(
            flow_run_filter=chosen, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=len(found)
        )
        found += page
        if len(page) < PAGE:
            return found


def _last_sign(client: SyncPrefectClient, run: FlowRun, since: datetime) -> datetime:
    """When a run was last heard of: its state, or a heartbeat after that."""
    chosen = EventFilter(
        event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
        occurred=EventOccurredFilter(since=since),
    )
    heard = client.read_events(filter=chosen, limit=1).events
    return max([since, *(event.occurred for event in heard)])
