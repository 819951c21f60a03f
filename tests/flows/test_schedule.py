"""The deployments of this project on a real server; above all: the night really comes."""

import time
from typing import Any

import pytest

pytestmark = pytest.mark.flow

SCHEDULED = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}


@pytest.fixture(scope="module")
def deployed(prefect_server: Any) -> Any:
    """The server, with a work pool and everything in deployments/prefect.yaml, by the README."""
    pool = prefect_server.run(
        "prefect", "work-pool", "create", "local-cpu", "--type", "process", "--overwrite"
    )
    assert pool.returncode == 0, pool.stdout + pool.stderr
    deploy = prefect_server.run(
        "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml"
    )
    assert deploy.returncode == 0, deploy.stdout + deploy.stderr
    return prefect_server


def find(server: Any, flow: str, deployment: str) -> dict[str, Any]:
    body = {"flows": {"name": {"any_": [flow]}}, "deployments": {"name": {"any_": [deployment]}}}
    (found,) = server.post("/deployments/filter", body)
    assert isinstance(found, dict)
    return found


def test_both_deployments_are_there_with_their_parameters(deployed: Any) -> None:
    campaign = find(deployed, "finetune", "nacl")
    assert campaign["parameters"] == {"campaign": "nacl"}
    assert campaign["entrypoint"] == "flows.finetune.finetune"
    assert campaign["job_variables"]["stream_output"] is False
    assert find(deployed, "revalidate", "nightly")["parameters"] == {"campaigns": ["nacl"]}


def test_the_form_of_a_campaign_is_flat_and_explained(deployed: Any) -> None:
    schema = find(deployed, "finetune", "nacl")["parameter_openapi_schema"]
    for name, field in schema["properties"].items():
        assert field["title"] != name, f"{name} has no title of its own"
        assert field.get("description"), f"{name} has no help text"
        assert "discriminator" not in field, f"{name} is a union, which the form cannot show"
        assert "allOf" not in field, f"{name} is a nested model"


def test_the_scheduler_creates_the_runs_of_the_night(deployed: Any) -> None:
    nightly = find(deployed, "revalidate", "nightly")
    runs = []
    deadline = time.monotonic() + 120
    while not runs and time.monotonic() < deadline:
        time.sleep(1)
        runs = deployed.post("/flow_runs/filter", SCHEDULED)
    assert runs, "the scheduler has created no run within 120 s"
    assert {run["deployment_id"] for run in runs} == {nightly["id"]}
    assert all(run["expected_start_time"][11:19] == "02:00:00" for run in runs)
