"""Check what is promoted: its bytes, whether it is retracted, and its acceptance on the pinned inputs."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from db import aliases, retractions
from db.errors import UnknownArtifact
from db.steps import Output
from db.verification import verify
from models.validation import acceptance
from models.validation.acceptance import Simulation
from tasks.children import in_child
from tasks.display import display
from tasks.records import paths, read, recorded


@task(name="find acceptance", task_run_name="acceptance-{name}")
def accepted(name: str) -> str | None:
    """The id of the acceptance behind `nacl@champion`; None where nothing is promoted."""
    try:
        return aliases.resolve(f"{name}-acceptance").id
    except UnknownArtifact:
        return None


@task(name="verify bytes", task_run_name="verify-{name}")
def verify_bytes(name: str, acceptance_id: str) -> list[str]:
    """What is missing, changed or retracted among an acceptance and everything it was measured on."""
    damaged = verify([acceptance_id])
    if damaged:
        return [problem.detail for problem in damaged]
    inputs = read(acceptance_id)["inputs"]
    promoted = aliases.resolve(name).id
    found = [problem.detail for problem in verify({promoted, *inputs.values()})]
    behind = (retractions.tainted(id_) for id_ in (promoted, acceptance_id, *inputs.values()))
    found += dict.fromkeys(f"rests on {retraction}" for retraction in behind if retraction is not None)
    if promoted != inputs["checkpoint"]:
        found.append(f"stands for {promoted[:12]}, but {inputs['checkpoint'][:12]} is what was accepted")
    return found


@task(name="remeasure", task_run_name="remeasure-{name}")
def remeasure(name: str, acceptance_id: str, tolerance: float) -> list[str]:
    """What differs when a checkpoint is measured again on the inputs of its acceptance.

    Every night is a step of its own: the measurement is never taken from the record.
    """
    before = read(acceptance_id)
    inputs = {role: before["inputs"][role] for role in ("checkpoint", "test", "starts_from")}

    def compute(work: Path) -> dict[str, Output]:
        made = in_child(
            acceptance.remeasure,
            *paths(inputs).values(),
            Simulation.model_validate(before["simulation"]),
            work,
            compare_rdf=before["compare_rdf"],
        )
        return {"measured": Output(path=made, kind="evaluation", name=f"{name}-revalidation")}

    night = {"acceptance": acceptance_id, "flow_run": str(flow_run.id)}
    measured = read(recorded("revalidate", 1, night, inputs, compute)["measured"])
    accepted_with = before["measured"]  # which may be of before there were some of the checks
    display(
        create_table_artifact,
        table=[{"": key, "accepted": accepted_with.get(key), "now": now} for key, now in measured.items()],
        key=f"revalidation-{name}".replace("@", "-").replace("_", "-"),
        description=f"{name}: what it was accepted with, and what is measured now",
    )
    return acceptance.changes(accepted_with, measured, tolerance)
