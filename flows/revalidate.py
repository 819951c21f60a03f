"""The night shift: is what was promoted still there, unchanged, and as good as it was accepted?"""

from logging import INFO, WARNING
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.acceptance import PARALLEL, examine
from tasks.children import interruptible
from tasks.display import display
from tasks.revalidation import accepted, compare, pinned, verify_bytes

ROLES = ("champion", "engine")


class Alarm(RuntimeError):
    """Something promoted is not what it was."""


@flow(
    name="revalidate",
    flow_run_name="revalidate",
    task_runner=ThreadPoolTaskRunner[Any](max_workers=PARALLEL),  # type: ignore[arg-type]  # invariant
)
def revalidate(
    campaigns: list[str] = Field(
        ["nacl"],
        description="Whose champion and engine to check",
        json_schema_extra={"title": "Campaigns"},  # Prefect's form passes over `title` itself
    ),
    tolerance: float = Field(
        0.02,
        description="The relative change of a number that raises the alarm",
        json_schema_extra={"title": "Tolerance"},
        ge=0,
    ),
) -> list[str]:
    """One line per champion and engine; fails with Alarm, after all are checked, if any has a finding."""
    lines, alarms = [], []
    for name in (f"{campaign}@{role}" for campaign in campaigns for role in ROLES):
        acceptance = accepted(name)
        findings, line = [], f"{name}: nothing is promoted"
        if acceptance is not None:
            findings = verify_bytes(name, acceptance) or _remeasured(name, acceptance, tolerance)
            line = f"{name}: {'; '.join(findings) or 'unchanged and as accepted'}"
        lines.append(line)
        get_run_logger().log(WARNING if findings else INFO, line)
        if findings:
            alarms.append(line)
            emit_event(
                "temper.revalidation.alarm",
                resource={"prefect.resource.id": f"temper.alias.{name}", "prefect.resource.name": name},
                payload={"findings": findings},
            )
    display(
        create_markdown_artifact,
        "\n".join(f"- {'⚠️ ' if line in alarms else ''}{line}" for line in lines),
        key="revalidation",
        description="Alarm: something promoted is not what it was" if alarms else "No alarm",
    )
    if alarms:
        alarm = Alarm("\n".join(alarms))
        # Callers get it raised. `raise` here would log a traceback above what there is to read.
        return Failed(message=str(alarm), data=alarm)  # type: ignore[return-value]
    return lines


def _remeasured(name: str, acceptance: str, tolerance: float) -> list[str]:
    """What differs when a checkpoint is measured again, never from the record, as for its acceptance."""
    checkpoint, files, simulation, checks = pinned(acceptance)
    with interruptible():
        again = examine(name, simulation, checks, checkpoint, files, occasion=str(flow_run.id))
        return compare(name, acceptance, again.findings(), tolerance)
