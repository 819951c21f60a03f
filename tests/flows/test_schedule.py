"""The deployments of this project on a real server; above all: the night really comes."""

from collections.abc import Callable
from typing import Any
from unittest.mock import ANY

import pytest

from waiting import until

pytestmark = pytest.mark.flow

SCHEDULED = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}


def find(server: Any, flow: str, deployment: str) -> dict[str, Any]:
    body = {"flows": {"name": {"any_": [flow]}}, "deployments": {"name": {"any_": [deployment]}}}
    (found,) = server.post("/deployments/filter", body)
    assert isinstance(found, dict)
    return found


def test_deployments_are_there_with_their_parameters(deployed: Any) -> None:
    campaign = find(deployed, "finetune", "nacl")
    assert campaign["parameters"] == {"campaign": "nacl"}
    assert campaign["entrypoint"] == "flows.finetune.finetune"
    assert campaign["work_pool_name"] == "local-cpu"
    assert campaign["job_variables"]["stream_output"] is False
    assert campaign["global_concurrency_limit"]["limit"] == 1
    assert campaign["pull_steps"] == []
    assert find(deployed, "distil", "ice")["parameters"] == {"campaign": "ice"}
    assert find(deployed, "revalidate", "nightly")["parameters"] == {"campaigns": []}


def test_what_watches_over_runs_is_there(deployed: Any) -> None:
    automations = deployed.post("/automations/filter", {})
    assert all(automation["enabled"] for automation in automations)
    assert {a["name"] for a in automations} >= {"Temper: lost runs", "Temper: alarm of the night"}


def test_the_scheduler_creates_the_runs_of_the_night(deployed: Any) -> None:
    nightly = find(deployed, "revalidate", "nightly")
    runs = until(lambda: deployed.post("/flow_runs/filter", SCHEDULED), "the scheduler creates no run")
    assert {run["deployment_id"] for run in runs} == {nightly["id"]}
    assert all(run["expected_start_time"][11:19] == "02:00:00" for run in runs)


@pytest.mark.slow
def test_a_schedule_that_somebody_has_paused_stays_paused(deployed: Any, temper: Callable[..., Any]) -> None:
    nightly = find(deployed, "revalidate", "nightly")
    (schedule,) = nightly["schedules"]
    switch = ("prefect", "deployment", "schedule")
    paused = deployed.run(*switch, "pause", "revalidate/nightly", schedule["id"])
    assert paused.returncode == 0, paused.stdout + paused.stderr
    again = temper()("deploy", "--pool", "local-cpu")
    assert again.returncode == 0, again.stdout + again.stderr
    now = find(deployed, "revalidate", "nightly")
    assert (now["id"], now["schedules"]) == (nightly["id"], [{**schedule, "active": False, "updated": ANY}])
    assert deployed.run(*switch, "resume", "revalidate/nightly", schedule["id"]).returncode == 0
