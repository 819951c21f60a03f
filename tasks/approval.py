"""A gate that waits for a person, whose word stays on record with a name and a reason."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from prefect import get_run_logger, pause_flow_run, suspend_flow_run
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field

from db.steps import Output, done
from models.campaign import Campaign
from tasks.permissions import deployed
from tasks.records import read, recorded

PATIENCE_SECONDS = 30 * 24 * 3600
_STEP, _VERSION = "approval", 1


class NobodyDecided(RuntimeError):
    """A campaign waited for a person in vain; nothing is lost, and nothing is promoted."""


class Decision(RunInput):
    """What a person fills in."""

    decision: Literal["promote", "do not promote"] = Field(title="Decision", description="Kept on record")
    by: str = Field(title="Name", description="Who decides", pattern=r"\S")
    reason: str = Field(title="Reason", description="Why, in a sentence", pattern=r"\S")


def approve(
    campaign: Campaign, acceptances: Mapping[str, str], report: Callable[[], str]
) -> Mapping[str, str]:
    """The acceptances (ids by role), with a person's word in those that passed, if the campaign asks for one.

    To be called in a flow, not in a task. What was said once of the same acceptances is on record and not
    asked again. A run of a deployment is suspended meanwhile: its process ends, and it is started again when
    somebody has decided. Elsewhere it waits. Nobody is asked where the first of the acceptances did not pass,
    since the others stand on it. `report` writes what the person should read, and gives its path.

    Raises NobodyDecided after 30 days.
    """
    contents = {role: read(id_) for role, id_ in acceptances.items()}
    if campaign.approval == "gate" or not next(iter(contents.values()))["passed"]:
        return acceptances
    asked = {role: id_ for role, id_ in acceptances.items() if contents[role]["passed"]}
    said = done(_STEP, _VERSION, {}, asked)
    if said is not None:
        return {**acceptances, **said.outputs}
    word = _ask(_page(campaign, contents, report()))

    def compute(work: Path) -> dict[str, Output]:
        made: dict[str, Output] = {}
        for role in asked:
            path = work / f"{role}.json"
            content = {**contents[role], "approval": word}
            path.write_text(
                json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8"
            )
            made[role] = Output(path=path, kind="acceptance", name=f"{campaign.name}-{role}-acceptance")
        return made

    return {**acceptances, **recorded(_STEP, _VERSION, {}, asked, compute)}


def _ask(page: str) -> dict[str, Any]:
    """Wait for a person: whether to `promote`, `by` whom, and the `reason`."""
    get_run_logger().info("waiting for a person to decide: press Resume at %s", flow_run.ui_url)
    wait = suspend_flow_run if deployed() else pause_flow_run
    try:
        given = wait(Decision.with_initial_data(description=page), timeout=PATIENCE_SECONDS)
    except FlowPauseTimeout as error:
        raise NobodyDecided(
            "nobody decided on the promotion within 30 days; run the campaign again"
        ) from error
    return {"promote": given.decision == "promote", "by": given.by.strip(), "reason": given.reason.strip()}


def _page(campaign: Campaign, contents: Mapping[str, Mapping[str, Any]], report: str) -> str:
    """What the dialog says: the verdicts of the gate, and where the report is."""
    parts = [f"**Shall what passed the gate of {campaign.name} be promoted?** The report is at `{report}`."]
    for role, content in contents.items():
        how = "passed the gate" if content["passed"] else "did not pass the gate, and will not be promoted"
        lines = [
            f"- {'✓' if v['passed'] else '✗'} {v['check']}: **{_number(v)}** "
            f"({'≥' if v['at_least'] else '≤'} {v['threshold']:g} {v['unit']})"
            for v in content["verdicts"]
        ]
        parts.append("\n".join([f"**{campaign.name}@{role}** {how}:", "", *lines]))
    return "\n\n".join(parts)


def _number(verdict: Mapping[str, Any]) -> str:
    value = verdict["value"]
    return "–" if value is None else f"{value:.4g} {verdict['unit']}"
