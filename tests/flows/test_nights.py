"""Nights that come late, never came, or crashed, on a real server."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import CronSchedule, RRuleSchedule
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed

from flows.nights import ALARM, AUTOMATIONS, BLOCK, NIGHTLY, SKIPPED, alarm_automations, catch_up
from waiting import until

pytestmark = pytest.mark.flow

ROOT = Path(__file__).parents[2]
EVERY_NIGHT = CronSchedule(cron="0 2 * * *", timezone="UTC")
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).replace(hour=3)


@pytest.fixture
def client(prefect_server: Any) -> Iterator[Any]:
    """This process as a client of the server."""
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), get_client(sync_client=True) as opened:
        yield opened


def forget(client: Any) -> None:
    """Remove the deployment of the nights with all its runs."""
    try:
        deployment = client.read_deployment_by_name(NIGHTLY)
    except ObjectNotFound:
        return
    for run in runs(client):
        client.delete_flow_run(run.id)
    client.delete_deployment(deployment.id)


@pytest.fixture
def deploy(client: Any) -> Iterator[Callable[..., None]]:
    """Deploy the nights by a schedule, in a work pool that nobody serves."""
    forget(client)
    pool = {"name": "nights", "type": "process", "base_job_template": {}}
    client.request("POST", "/work_pools/", json=pool)

    def put(schedule: CronSchedule | RRuleSchedule) -> None:
        client.create_deployment(
            flow_id=client.create_flow_from_name("revalidate"),
            name="nightly",
            work_pool_name="nights",
            entrypoint="flows.revalidate.revalidate",
            parameters={"campaigns": ["nobody"]},
            schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)],
        )

    yield put
    forget(client)
    client.delete_work_pool("nights")


def runs(client: Any) -> list[FlowRun]:
    """All runs of the nights, the earliest first."""
    id_ = client.read_deployment_by_name(NIGHTLY).id
    query = {"deployments": {"id": {"any_": [str(id_)]}}, "sort": "EXPECTED_START_TIME_ASC"}
    found = client.request("POST", "/flow_runs/filter", json=query).json()
    return [FlowRun.model_validate(run) for run in found]


def test_a_night_that_never_came_is_caught_up_once(client: Any, deploy: Callable[..., None]) -> None:
    assert catch_up() is None, "no night is deployed"
    deploy(EVERY_NIGHT)
    assert catch_up() is None, "none was due since it is deployed"
    until(lambda: runs(client), "the scheduler plans the next nights")
    assert catch_up(TOMORROW) is None, "it is planned, and waits for a worker"

    def unplan() -> None:  # as on a server that was off for long
        for run in runs(client):
            if run.auto_scheduled:
                client.delete_flow_run(run.id)

    def missed() -> FlowRun | None:
        unplan()
        return catch_up(TOMORROW)

    # More than once: the scheduler may have planned the night again right after it was unplanned.
    started = until(missed, "the night that never came is started")
    assert started.parameters == {"campaigns": ["nobody"]}
    assert missed() is None, "once"
    client.set_flow_run_state(started.id, Crashed(), force=True)
    again = until(missed, "one that crashed has not come")
    assert again.id != started.id


@pytest.mark.slow
def test_of_several_late_nights_the_newest_works_and_the_others_say_so(
    client: Any, deploy: Callable[..., None], prefect_server: Any, tmp_path: Path
) -> None:
    start = datetime.now(UTC) + timedelta(seconds=20)
    deploy(RRuleSchedule(rrule=f"DTSTART:{start:%Y%m%dT%H%M%SZ}\nRRULE:FREQ=SECONDLY;INTERVAL=5;COUNT=3"))
    planned = until(lambda: runs(client), "the scheduler plans three nights")
    assert len(planned) == 3
    time.sleep(max(0.0, (start - datetime.now(UTC)).total_seconds() + 12))
    worker = subprocess.run(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "nights", "--run-once"],
        env={
            **prefect_server.env,
            "PREFECT_API_URL": prefect_server.url,
            "PYTHONPATH": str(ROOT),
            "TEMPER_HOME": str(tmp_path / "home"),
        },
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = worker.stdout + worker.stderr
    until(lambda: all(run.state and run.state.is_final() for run in runs(client)), said, 300)
    first, second, third = runs(client)
    assert (first.state_name, second.state_name, third.state_name) == (SKIPPED, SKIPPED, "Completed"), said
    assert "nobody@champion: nothing is promoted" in third.state.message
    assert first.state.message == (
        f"This night came late and is skipped: the newer one of {third.expected_start_time:%Y-%m-%d %H:%M} "
        "UTC does its work"
    )


def test_an_alarm_and_a_crash_are_passed_on_by_automations(client: Any, receiver: Any) -> None:
    assert alarm_automations() == dict.fromkeys(AUTOMATIONS, False)
    block = CustomWebhookNotificationBlock(
        name="receiver", url=receiver.url, method="POST", json_data={"text": "{{subject}} | {{body}}"}
    )
    document = block.save(BLOCK, overwrite=True)
    try:
        assert alarm_automations() == dict.fromkeys(AUTOMATIONS, True)
        for name in AUTOMATIONS:
            assert len(client.read_automations_by_name(name)) == 1, "made once"

        def told() -> list[Any]:
            # Again and again: the server takes a moment until it heeds a new automation.
            emit_event(
                ALARM,
                resource={"prefect.resource.id": "temper.alias.a@b", "prefect.resource.name": "a@b"},
                payload={"findings": ["changed", "damaged"]},
            )
            time.sleep(1)
            return list(receiver.got)

        ((_, body), *_) = until(told, "the alarm is passed on")
        assert b"Temper: alarm of the night | a@b: changed; damaged" in body
        flow_id = client.create_flow_from_name("revalidate")
        run = client.request(
            "POST", "/flow_runs/", json={"flow_id": str(flow_id), "name": "nobody 2026"}
        ).json()
        client.set_flow_run_state(run["id"], Crashed(message="killed"), force=True)
        said = b"Temper: a night that crashed | nobody 2026: killed"
        until(lambda: any(said in body for _, body in receiver.got), "the crash is passed on")
    finally:
        client.delete_block_document(document)
        for name in AUTOMATIONS:
            for automation in client.read_automations_by_name(name):
                client.delete_automation(automation.id)


def test_the_alarm_can_be_tried(receiver: Any, prefect_server: Any, tmp_path: Path) -> None:
    night = subprocess.run(
        [sys.executable, "-c", "from flows.revalidate import revalidate; print(revalidate(trial=True))"],
        env={
            **prefect_server.env,
            "PREFECT_API_URL": prefect_server.url,
            "TEMPER_HOME": str(tmp_path / "home"),
            "TEMPER_ALARM_WEBHOOK": receiver.url,
            "TEMPER_ALARM_SECRET": "whsec_c2l4IHRpbWVzIGZvdXIgaXMgMjQgYnl0ZXM=",
        },
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "['The trial was sent to Prefect, the webhook at 127.0.0.1']" in night.stdout, night.stderr
    ((_, body),) = receiver.got
    assert b"Nothing is wrong." in body
