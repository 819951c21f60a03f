"""The nights as Prefect sees them: runs that come late or never came, and automations for an alarm."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from cronsim import CronSim
from prefect.automations import AutomationCore, DoNothing, EventTrigger, SendNotification
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

NIGHTLY = "revalidate/nightly"
ALARM = "temper.revalidation.alarm"
SKIPPED = "Skipped"
BLOCK = "temper-alarm"
"""The name of the notification block by which Prefect passes an alarm on, if there is one."""

MONTH = timedelta(days=30)
NOTHING_DONE = (StateType.CRASHED, StateType.CANCELLED, StateType.CANCELLING)


def newer_night() -> str:
    """Why this run of a schedule has nothing to do: a newer one was due meanwhile. Empty where it has.

    Several nights that come late, as after a week without a worker, are one night of work. A run that
    somebody has started by hand always works.
    """
    with get_client(sync_client=True) as client:
        this = client.read_flow_run(flow_run.id)
        if not this.auto_scheduled or this.deployment_id is None or this.expected_start_time is None:
            return ""
        others = _due(client, this.deployment_id, this.expected_start_time, datetime.now(UTC))
    for other in others:
        newer = other.expected_start_time is not None and other.expected_start_time > this.expected_start_time
        if newer and other.parameters == this.parameters and _works(other):
            return (
                f"This night came late and is skipped: the newer one of "
                f"{other.expected_start_time:%Y-%m-%d %H:%M} UTC does its work"
            )
    return ""


def catch_up(now: datetime | None = None) -> FlowRun | None:
    """Start one run where the last night that was due never came, as when the server was off; else None.

    One run, however many nights were missed and whoever else asks at the same time. A night that waits for a
    worker has come; one that crashed or was cancelled has not. To be called before a worker is started.
    """
    now = now or datetime.now(UTC)
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(NIGHTLY)
        except ObjectNotFound:
            return None
        due = _last_due(deployment, now)
        if due is None or deployment.created is None or deployment.created > due:
            return None
        runs = _due(client, deployment.id, due - MONTH, now)
        for run in runs:
            waits = run.state_type in (StateType.SCHEDULED, StateType.PENDING)
            times = (time for time in (run.expected_start_time, run.start_time) if time is not None)
            if _works(run) and (waits or max(times, default=due - MONTH) >= due):
                return None
        return client.create_flow_run_from_deployment(
            deployment.id, tags=deployment.tags, idempotency_key=f"{due.isoformat()}, after {len(runs)} runs"
        )


def _works(run: FlowRun) -> bool:
    """Whether a night does its work, or has done it, or will."""
    return run.state_type not in NOTHING_DONE and run.state_name != SKIPPED


def _due(client: SyncPrefectClient, deployment_id: UUID, since: datetime, now: datetime) -> list[FlowRun]:
    """The runs of a deployment that were to start between two times, the newest first."""
    between = FlowRunFilterExpectedStartTime(after_=since, before_=now)
    wanted = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]), expected_start_time=between
    )
    return client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC)


def _last_due(deployment: DeploymentResponse, now: datetime) -> datetime | None:
    """When a deployment was last to start by its schedules; None where it has none, or is paused."""
    if deployment.paused:
        return None
    crons = (entry.schedule for entry in deployment.schedules if entry.active)
    return max(
        (
            next(CronSim(cron.cron, now.astimezone(ZoneInfo(cron.timezone or "UTC")), reverse=True))
            for cron in crons
            if isinstance(cron, CronSchedule)
        ),
        default=None,
    )


def alarm_automations() -> Mapping[str, bool]:
    """Make the automations of the nights, or bring them up to date; their names, and whether they notify.

    They send what happened by the notification block `temper-alarm`, of any kind (Slack, Teams, mail, …).
    Without such a block they only note in Prefect's event feed that they have fired.
    """
    with get_client(sync_client=True) as client:
        blocks = [document for document in client.read_block_documents() if document.name == BLOCK]
        made = {}
        for name, (trigger, body) in AUTOMATIONS.items():
            action = (
                SendNotification(block_document_id=blocks[0].id, subject=name, body=body)
                if blocks
                else DoNothing()
            )
            known = client.read_automations_by_name(name)
            enabled = all(automation.enabled for automation in known)  # somebody may have switched it off
            wanted = AutomationCore(name=name, enabled=enabled, trigger=trigger, actions=[action])
            if known:
                # An update sends only what was said, and the server wants to be told everything.
                said = wanted.model_dump(exclude={"owner_resource"})
                client.update_automation(known[0].id, AutomationCore.model_validate(said))
            else:
                client.create_automation(wanted)
            made[name] = bool(blocks)
    return made


AUTOMATIONS = {
    "Temper: alarm of the night": (
        EventTrigger(expect={ALARM}),
        "{{ event.resource.name }}: {{ event.payload.findings | join('; ') }}",
    ),
    "Temper: a night that crashed": (
        EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": "revalidate"},
        ),
        "{{ flow_run.name }}: {{ flow_run.state.message }}",
    ),
}
"""By name: what starts an automation, and what it says."""
