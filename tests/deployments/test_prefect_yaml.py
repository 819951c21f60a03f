"""deployments/prefect.yaml against the flows it names, without a server."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.flows import Flow

ROOT = Path(__file__).parents[2]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())[
    "deployments"
]


SHIPPED = sorted(file.stem for file in (ROOT / "deployments" / "campaigns").glob("*.yaml"))


@pytest.fixture(params=DEPLOYMENTS, ids=lambda deployment: f"{deployment['tags'][0]}-{deployment['name']}")
def deployment(request: pytest.FixtureRequest) -> dict[str, Any]:
    chosen: dict[str, Any] = request.param
    return chosen


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert isinstance(flow, Flow)
    return flow


def test_its_flow_is_imported_as_a_module_and_named_like_its_file(deployment: dict[str, Any]) -> None:
    assert ":" not in deployment["entrypoint"]  # the file form breaks on remote workers
    assert flow_of(deployment).name == deployment["entrypoint"].split(".")[1]


def test_its_parameters_are_accepted_by_its_flow(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    inspect.signature(flow.fn).bind(**deployment["parameters"])
    assert flow.validate_parameters(deployment["parameters"]).items() >= deployment["parameters"].items()


@pytest.mark.parametrize("flow", ["finetune", "distil"])
def test_every_campaign_in_the_box_can_be_started(flow: str) -> None:
    started = [d for d in DEPLOYMENTS if d["entrypoint"] == f"flows.{flow}.{flow}"]
    assert sorted(d["name"] for d in started) == SHIPPED
    assert all(d["parameters"] == {"campaign": d["name"]} for d in started)
    assert all(d["name"] in d["tags"] for d in started)


def test_its_campaigns_are_in_the_box(deployment: dict[str, Any]) -> None:
    parameters = deployment["parameters"]
    named = [*parameters.get("campaigns", []), parameters.get("campaign"), parameters.get("against")]
    assert {name for name in named if name} <= set(SHIPPED)


def test_the_work_pool_is_said_when_it_is_deployed(deployment: dict[str, Any]) -> None:
    assert deployment["work_pool"]["name"] == "{{ $TEMPER_POOL }}"


def test_two_runs_of_it_never_work_at_once(deployment: dict[str, Any]) -> None:
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_one_of_them_runs_by_itself() -> None:
    assert [d["name"] for d in DEPLOYMENTS if "schedules" in d] == ["nightly"]


def test_it_says_what_it_does_and_does_not_die_with_its_worker(deployment: dict[str, Any]) -> None:
    assert deployment["description"]
    assert deployment["tags"]
    assert deployment["work_pool"]["job_variables"]["stream_output"] is False
    assert deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
