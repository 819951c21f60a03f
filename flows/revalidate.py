"""The night shift: is what was promoted still there, unchanged, and as good as it was accepted?"""

from logging import INFO, WARNING

from prefect import flow, get_run_logger
from prefect.events import emit_event
from pydantic import Field

from tasks.revalidation import accepted, remeasure, verify_bytes

ROLES = ("champion", "engine")


class Alarm(RuntimeError):
    """Something promoted is not what it was."""


@flow(name="revalidate", flow_run_name="revalidate")
def revalidate(
    campaigns: list[str] = Field(
        ["nacl"], title="Campaigns", description="whose champion and engine to check"
    ),
    tolerance: float = Field(
        0.02, title="Tolerance", description="relative change of a number that raises the alarm", ge=0
    ),
) -> list[str]:
    """One line per promoted checkpoint; raises Alarm, after all are checked, if any has a finding."""
    lines, findings = [], []
    for campaign in campaigns:
        for role in ROLES:
            name = f"{campaign}@{role}"
            acceptance = accepted(name)
            if acceptance is None:
                lines.append(f"{name}: nothing is promoted")
                continue
            found = verify_bytes(acceptance) or remeasure(name, acceptance, tolerance)
            lines.append(f"{name}: {'; '.join(found) if found else 'unchanged and as accepted'}")
            get_run_logger().log(WARNING if found else INFO, lines[-1])
            if found:
                findings.append(lines[-1])
                emit_event(
                    "temper.revalidation.alarm",
                    resource={"prefect.resource.id": f"temper.alias.{name}", "prefect.resource.name": name},
                    payload={"findings": found},
                )
    if findings:
        raise Alarm("\n".join(findings))
    return lines
