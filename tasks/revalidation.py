"""Check what is promoted: its bytes, and its acceptance on the pinned inputs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from db import aliases, artifacts
from db.errors import UnknownArtifact
from db.steps import Output, once
from db.verification import verify
from models.validation import acceptance
from models.validation.acceptance import Simulation
from tasks.children import in_child
from tasks.validation import read


@task(task_run_name="accepted-{name}")
def accepted(name: str) -> str | None:
    """The id of the acceptance behind `nacl@champion`; None where nothing is promoted."""
    try:
        return aliases.resolve(f"{name}-acceptance").id
    except UnknownArtifact:
        return None


@task
def verify_bytes(acceptance_id: str) -> list[str]:
    """What is missing or changed among the bytes of an acceptance and everything it was measured on."""
    damaged = verify([acceptance_id])
    if not damaged:
        damaged = verify({*read(acceptance_id)["inputs"].values()})
    return [problem.detail for problem in damaged]


@task(task_run_name="remeasure-{name}")
def remeasure(name: str, acceptance_id: str, tolerance: float) -> list[str]:
    """What differs when a checkpoint is measured again on the inputs of its acceptance.

    Every night is a step of its own: the measurement is never taken from the record.
    """
    before = read(acceptance_id)
    inputs = {role: before["inputs"][role] for role in ("checkpoint", "test", "starts_from")}

    def compute(work: Path) -> dict[str, Output]:
        files: Mapping[str, Path] = {role: artifacts.path(id_) for role, id_ in inputs.items()}
        made = in_child(
            acceptance.remeasure,
            files["checkpoint"],
            files["test"],
            files["starts_from"],
            Simulation.model_validate(before["simulation"]),
            work,
            compare_rdf=before["compare_rdf"],
        )
        return {"measured": Output(path=made, kind="evaluation", name=f"{name}-revalidation")}

    night: dict[str, Any] = {"acceptance": acceptance_id, "flow_run": str(flow_run.get_id())}
    measured = read(once("revalidate", 1, night, inputs, compute).outputs["measured"])
    found = acceptance.changes(before["measured"], measured, tolerance)
    lines = [f"| {key} | {before['measured'][key]} | {value} |" for key, value in measured.items()]
    create_markdown_artifact(
        "\n".join([f"## {name}", "", "| | accepted | tonight |", "|---|---|---|", *lines, "", *found]),
        key="revalidation",
    )
    return found
