"""A whole campaign: from a foundation and labels to a promoted specialist and a fast engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from db.settings import settings
from flows import forms
from flows.acceptance import SIDE_BY_SIDE, Ground, accept, examine, starts_from
from flows.distillation import teach
from flows.halving import choose
from flows.interruptions import go_on, listen
from flows.rounds import approach, said
from flows.runners import check, result
from flows.specialist import foundation_ground, gather, specialise
from models import devices
from models.campaign_files import load_campaign, sweep_of
from models.validation.gate import Other
from tasks.approval import approve
from tasks.children import interruptible
from tasks.forks import prepare_children
from tasks.permissions import deployed, permissions
from tasks.promotion import promote
from tasks.sweeps import recommended
from tasks.validation import simulate


def run_name() -> str:
    """The campaign's name, also where its file was given."""
    return Path(flow_run.parameters["campaign"]).stem


@flow(
    name="finetune",
    flow_run_name=run_name,
    task_runner=SIDE_BY_SIDE,
    on_running=[listen],
    on_crashed=[go_on],
)
def finetune(
    campaign: str = forms.CAMPAIGN,
    labels: str = forms.LABELS,
    level_of_theory: str = forms.LEVEL_OF_THEORY,
    foundation: str = forms.FOUNDATION,
    e0s: forms.E0s = forms.E0S,
    seed: int | None = forms.SEED,
    approval: forms.Approval = forms.APPROVAL,
    fields: dict[str, Any] = forms.FIELDS,
) -> dict[str, Any]:
    """Fine-tune, validate, distil and promote; what was computed before is not computed again."""
    prepare_children()
    devices.find(settings().device)  # before anything is started
    check(settings())
    plan = load_campaign(
        campaign,
        labels=labels or None,
        level_of_theory=level_of_theory or None,
        foundation=foundation or None,
        seed=seed,
        fields=forms.chosen(fields, {"e0s.policy": e0s, "approval": approval}),
        permissions=permissions(from_person=not deployed()),
    )

    given = gather(plan)
    swept = None
    if not plan.candidates:
        swept = choose(plan, sweep_of(plan, campaign), given)
        plan = recommended(plan, swept)
    if plan.rounds is None:
        specialist, course = specialise(plan, given, given.data), None
    else:
        course = approach(plan, plan.rounds, given)
        specialist = course.rounds[-1].specialist

    files, champion = given.files, specialist.checkpoint
    own = given.specialist_files
    grounds: dict[Other, Ground] = {"foundation": foundation_ground(given, specialist.e0s)}
    with interruptible():
        # The champion's checks go on while its student is taught.
        examination = examine("champion", plan.simulation, plan.checks, champion, own, beside=True)
        from tasks.reporting import conclude, report, summarise  # half a second, while children compute
        from tasks.reporting_rounds import summarise_rounds

        starts = starts_from(files)
        dynamics = examination.trajectories or simulate("champion", plan.simulation, champion, starts)
        student = teach(plan, champion, specialist.data, dynamics)

        champion_acceptance = accept(plan, "champion", champion, own, examination, grounds)
        engine, taught_files = student["checkpoint"], {**files, "teacher": champion}
        examination = examine("engine", plan.simulation, plan.checks, engine, taught_files)
        grounds["teacher"] = (champion, files)
        engine_acceptance = accept(plan, "engine", engine, taught_files, examination, grounds)

    made = {
        "data": dict(specialist.data),
        "replay": dict(given.replay),
        "e0s": specialist.e0s,
        "foundation": given.foundation,
        "candidates": {name: dict(made) for name, made in specialist.candidates.items()},
        "findings": {**specialist.found, "student": examination.findings()},
        "winner": specialist.winner,
        "rounds": course and said(course),
        "sweep": swept,
        "student": dict(student),
    }

    def concluded(acceptances: Mapping[str, str], promoted: Mapping[str, bool]) -> dict[str, Any]:
        verdict = conclude(plan, specialist.winner, acceptances, promoted)
        return {**made, "acceptance": dict(acceptances), "promoted": dict(promoted), "verdict": verdict}

    measured = {"champion": result(champion_acceptance), "engine": result(engine_acceptance)}
    undecided = dict.fromkeys(measured, False)
    accepted = approve(plan, measured, lambda: report(plan, concluded(measured, undecided)))
    # The engine is a champion's student: without an accepted champion there is no engine.
    promoted = {"champion": promote("champion", accepted["champion"])}
    promoted["engine"] = promoted["champion"] and promote("engine", accepted["engine"])
    outcome = concluded(accepted, promoted)
    return {
        "summary": summarise(outcome),
        "rounds": course and summarise_rounds(plan, said(course)),
        "verdict": outcome["verdict"],
        "report": report(plan, outcome),
        "outcome": outcome,
    }
