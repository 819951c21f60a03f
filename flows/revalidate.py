"""The night shift: is what was promoted still there, unchanged, and as good as it was accepted?"""

from dataclasses import replace
from datetime import UTC, datetime
from logging import INFO, WARNING

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from db import aliases
from db.errors import ProvenanceError
from flows import forms
from flows.acceptance import SIDE_BY_SIDE, examine
from flows.interruptions import go_on, listen
from flows.nights import ALARM, SKIPPED, newer_night
from tasks import alarms
from tasks.children import interruptible
from tasks.display import display
from tasks.promotion import MOVED_BACK
from tasks.revalidation import (
    Health,
    accepted,
    compare,
    earlier,
    misplaced,
    move_back,
    moves_back,
    pinned,
    verify_bytes,
)

CAMPAIGNS = forms.field([], "Campaigns", "Whose champion and engine to check. Empty: of all that have any")
TOLERANCE = forms.field(
    0.02, "Tolerance", "The relative change of a number that matters and raises the alarm", ge=0
)
TRIAL = forms.field(
    False, "Only try the alarm", "Check nothing, and tell whoever hears of alarms that this is a trial"
)
ROLES = ("champion", "engine")


class Alarm(RuntimeError):
    """Something promoted is not what it was."""


class NotTold(RuntimeError):
    """Somebody who is to be told of an alarm would not be."""


def run_name() -> str:
    """The campaigns, and the day."""
    what = ", ".join(flow_run.parameters["campaigns"]) or "everything"
    return f"{what} {flow_run.scheduled_start_time:%Y-%m-%d}"


@flow(
    name="revalidate",
    flow_run_name=run_name,
    task_runner=SIDE_BY_SIDE,
    on_running=[listen],
    on_crashed=[go_on],
)
def revalidate(
    campaigns: list[str] = CAMPAIGNS,
    tolerance: float = TOLERANCE,
    trial: bool = TRIAL,
) -> list[str]:
    """One line per champion and engine, or one in all where there is nothing to say.

    Fails with Alarm, after all are checked, if any is not what it was. Raises BadReceiver before that where
    somebody is to be told of an alarm who could not be, and NotTold where a trial does not reach everybody.
    """
    if newer := newer_night():
        return Completed(name=SKIPPED, message=newer, data=[newer])  # type: ignore[return-value]
    told = alarms.receivers()
    if trial:
        return _tried(told)
    found: dict[str, Health | None] = {}
    for name in (f"{campaign}@{role}" for campaign in campaigns or _promoted() for role in ROLES):
        health = found[name] = _checked(name, tolerance)
        get_run_logger().log(WARNING if health and health.alarms else INFO, "%s: %s", name, _said(health))
    lines = [f"{name}: {_said(health)}" for name, health in found.items()]
    if found and all(health and not (health.alarms or health.notes) for health in found.values()):
        together = Health(identical=all(health and health.identical for health in found.values()))
        lines = [f"Nothing to report: {', '.join(found)}: {together}"]
    raised = {name: health for name, health in found.items() if health and health.alarms}
    display(
        create_markdown_artifact,
        "\n".join(f"- {'⚠️ ' if line.partition(':')[0] in raised else ''}{line}" for line in lines),
        key="revalidation",
        description="Alarm: something promoted is not what it was" if raised else "No alarm",
    )
    if not raised:
        return Completed(message="\n".join(lines), data=lines)  # type: ignore[return-value]
    alarm = alarms.Alarm(
        event=ALARM,
        subject=f"alarm of the night: {', '.join(raised)}",
        text="\n".join(f"{name}: {health}" for name, health in raised.items()),
        about={name: [*health.alarms, *filter(None, [health.done])] for name, health in raised.items()},
        link=flow_run.ui_url or "",
    )
    alarms.tell(alarm, told)
    # Callers get it raised. `raise` here would log a traceback above what there is to read.
    return Failed(message=alarm.text, data=Alarm(alarm.text))  # type: ignore[return-value]


def _tried(told: alarms.Receivers) -> list[str]:
    """Raise an alarm that says it is none; fails with NotTold where it does not reach everybody."""
    text = "This is a trial of the alarm of the night. Nothing is wrong."
    about = {"trial": [text]}
    missed = alarms.tell(
        alarms.Alarm(event=ALARM, subject="trial of the alarm", text=text, about=about), told
    )
    if missed:
        raise NotTold("; ".join(missed))
    return [f"The trial was sent to {told}"]


def _promoted() -> list[str]:
    """The campaigns that have promoted anything."""
    names = (alias.name.partition("@") for alias in aliases.all())
    return sorted({campaign for campaign, _, role in names if role in ROLES})


def _said(health: Health | None) -> str:
    return "nothing is promoted" if health is None else str(health)


def _checked(name: str, tolerance: float) -> Health | None:
    """How what a name stands for is, None where it stands for nothing; moved back where its campaign says so.

    What goes wrong on the way is a reason for an alarm as well, and not for leaving out the others.
    """
    try:
        acceptance = accepted(name)
        if acceptance is None:
            return None
        health = _health(name, acceptance, tolerance)
        if health.unfit and moves_back(acceptance):
            health = replace(health, done=_moved_back(name, acceptance, health, tolerance))
    except Exception as error:
        return Health(alarms=[f"could not be checked ({type(error).__name__}: {error})"])
    return health


def _health(name: str, acceptance: str, tolerance: float) -> Health:
    if damage := verify_bytes(name, acceptance):
        return Health(alarms=damage, unfit=True)
    if elsewhere := misplaced(name, acceptance):
        return Health(alarms=elsewhere)
    return _measured_again(name, acceptance, tolerance)


def _measured_again(name: str, acceptance: str, tolerance: float) -> Health:
    """How a checkpoint is, measured now and never read from the record, as it was for its acceptance."""
    checkpoint, files, simulation, checks = pinned(acceptance)
    with interruptible():
        again = examine(name, simulation, checks, checkpoint, files, occasion=str(flow_run.id))
        return compare(name, acceptance, again.findings(), tolerance)


def _moved_back(name: str, acceptance: str, health: Health, tolerance: float) -> str:
    """Let a name stand for the newest of what it stood for that is as accepted tonight; what came of it."""
    for to in earlier(name, acceptance):
        try:
            if verify_bytes(name, to.acceptance) or _measured_again(name, to.acceptance, tolerance).alarms:
                continue
        except Exception:  # it is on the run's log; what cannot be measured is not as it was accepted
            continue
        reason = f"{MOVED_BACK} {datetime.now(UTC):%Y-%m-%d}: {'; '.join(health.alarms)}"
        try:
            move_back(name, acceptance, to, reason)
        except ProvenanceError as error:
            return f"not moved back: {error}"
        return f"moved back to {to.checkpoint[:12]}, promoted on {to.since}, which is as it was accepted"
    return "not moved back: nothing that it stood for earlier is as it was accepted"
