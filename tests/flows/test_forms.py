"""The forms in the browser: flat, explained, and declared once."""

import inspect
from typing import Any, get_args

import pytest
from prefect.utilities.callables import parameter_schema
from pydantic import TypeAdapter

from flows import forms
from flows.distil import distil
from flows.finetune import finetune
from flows.revalidate import revalidate
from flows.sweep import sweep
from flows.validate import validate
from models.campaign import Campaign
from models.distillation.students import AnyStudent
from models.e0s import E0Policy

PLAIN = ("string", "number", "boolean", "array", "object")
FLOWS = {flow.name: flow for flow in (finetune, sweep, distil, validate, revalidate)}


@pytest.fixture(params=FLOWS, scope="module")
def schema(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What Prefect makes a form of."""
    return dict(parameter_schema(FLOWS[request.param]).model_dump())


def test_every_field_has_a_title_and_a_help_text(schema: dict[str, Any]) -> None:
    for name, field in schema["properties"].items():
        assert field["title"][0].isupper(), f"{name} is shown by the name of its parameter"
        assert field["description"], f"{name} has no help text"


def test_every_field_is_flat(schema: dict[str, Any]) -> None:
    assert not schema["definitions"]
    for name, field in schema["properties"].items():
        kinds = [kind.get("type") for kind in field.get("anyOf", [field])]
        assert kinds in [["integer", "null"], *([kind] for kind in PLAIN)], name


def test_only_the_model_has_to_be_filled_in() -> None:
    required = {name: parameter_schema(flow).model_dump()["required"] for name, flow in FLOWS.items()}
    assert required == {"finetune": [], "sweep": [], "distil": [], "validate": ["model"], "revalidate": []}


def test_a_field_that_several_flows_ask_for_is_the_same() -> None:
    shared: dict[str, list[Any]] = {}
    for flow in FLOWS.values():
        for name, parameter in inspect.signature(flow.fn).parameters.items():
            shared.setdefault(name, []).append((parameter.default, parameter.annotation))
    for name, found in shared.items():
        assert all(default is found[0][0] and type_ == found[0][1] for default, type_ in found), name
    assert len(shared["campaign"]) == 3


def test_the_choices_are_those_of_a_campaign() -> None:
    left_to_the_file, *policies = get_args(forms.E0s)
    assert [E0Policy(policy=policy).policy for policy in policies] == policies
    _, *students = get_args(forms.Student)
    union = TypeAdapter(AnyStudent)
    assert [union.validate_python({"kind": kind}).kind for kind in students] == students
    _, *approvals = get_args(forms.Approval)
    assert tuple(approvals) == get_args(Campaign.model_fields["approval"].annotation)
    assert left_to_the_file == forms.AS_IN_FILE


def test_a_choice_replaces_a_field_unless_it_is_left_to_the_file() -> None:
    fields = {"split.by": "trajectory", "approval": "gate"}
    choices = {"e0s.policy": forms.AS_IN_FILE, "approval": "person"}
    assert forms.chosen(fields, choices) == {"split.by": "trajectory", "approval": "person"}
