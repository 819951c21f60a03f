"""Check what is promoted: its bytes, whether it is retracted, and its acceptance on the pinned inputs."""

from collections.abc import Mapping

from prefect import task
from prefect.artifacts import create_table_artifact

from db import aliases, retractions
from db.errors import UnknownArtifact
from db.verification import verify
from models.validation import AnyCheck, acceptance
from models.validation.acceptance import Simulation
from tasks.display import display
from tasks.records import read


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
    content = read(acceptance_id)
    if "findings" not in content:
        return ["was accepted by an earlier version, whose checks there are no more: run its campaign again"]
    accepted_checkpoint = content["checkpoint"]
    inputs = {accepted_checkpoint, *content["files"].values(), *content["findings"].values()}
    promoted = aliases.resolve(name).id
    found = [problem.detail for problem in verify({promoted, *inputs})]
    behind = (retractions.tainted(id_) for id_ in (promoted, acceptance_id, *sorted(inputs)))
    found += dict.fromkeys(f"rests on {retraction}" for retraction in behind if retraction is not None)
    if promoted != accepted_checkpoint:
        found.append(f"stands for {promoted[:12]}, but {accepted_checkpoint[:12]} is what was accepted")
    return found


def pinned(acceptance_id: str) -> tuple[str, dict[str, str], Simulation, list[AnyCheck]]:
    """What an acceptance was measured on: checkpoint, files by role, dynamics, and what can be repeated."""
    content = read(acceptance_id)
    checks = [acceptance.check_from(check) for check in content["checks"]]
    return (
        content["checkpoint"],
        content["files"],
        Simulation.model_validate(content["simulation"]),
        [check for check in checks if check.repeatable],
    )


@task(name="compare", task_run_name="compare-{name}")
def compare(name: str, acceptance_id: str, findings: Mapping[str, str], tolerance: float) -> list[str]:
    """What differs between an acceptance and what is found of the same checkpoint today."""
    before = read(acceptance_id)["figures"]
    now = acceptance.figures({kind: read(id_) for kind, id_ in findings.items()})
    display(
        create_table_artifact,
        table=[
            {"": acceptance.described(figure), "accepted": value, "now": now.get(figure)}
            for figure, value in before.items()
        ],
        key=f"revalidation-{name}".replace("@", "-").replace("_", "-"),
        description=f"{name}: what it was accepted with, and what is measured now",
    )
    return acceptance.changes(before, now, tolerance)
