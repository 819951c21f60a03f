"""A student of a specialist that is there already: taught, measured, and promoted behind the gate."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from db import artifacts
from db.settings import settings
from flows import forms
from flows.acceptance import SIDE_BY_SIDE, Ground, accept, examine, measured_on, starts_from
from flows.distillation import teach
from flows.interruptions import go_on, listen
from flows.runners import result
from models import campaign_files, devices
from models.validation.gate import Other
from tasks.approval import approve
from tasks.children import interruptible
from tasks.datasets import ingest_labels, pseudolabel_replay, record_evidence
from tasks.foundation import resolve_foundation, resolve_teacher
from tasks.permissions import deployed, permissions
from tasks.promotion import admit, promote, promoted
from tasks.reporting import report_model
from tasks.training import refit_e0s
from tasks.validation import simulate


def run_name() -> str:
    """The campaign's name, also where its file was given."""
    return f"distil-{Path(flow_run.parameters['campaign']).stem}"


@flow(
    name="distil",
    flow_run_name=run_name,
    task_runner=SIDE_BY_SIDE,
    on_running=[listen],
    on_crashed=[go_on],
)
def distil(
    campaign: str = forms.CAMPAIGN,
    teacher: str = forms.TEACHER,
    student: forms.Student = forms.STUDENT,
    seed: int | None = forms.SEED,
    approval: forms.Approval = forms.APPROVAL,
    fields: dict[str, Any] = forms.FIELDS,
) -> dict[str, Any]:
    """Teach a student, measure it, and promote it as engine where its teacher is the campaign's champion."""
    devices.find(settings().device)  # before anything is started
    architecture = student if student == forms.AS_IN_FILE else {"kind": student}
    fields = forms.chosen(fields, {"student.architecture": architecture, "approval": approval})
    allowed = permissions(from_person=not deployed())
    allowed.check_given(teacher, "teacher")
    plan = campaign_files.load_campaign(campaign, seed=seed, fields=fields, permissions=allowed)
    specialist = resolve_teacher(plan, teacher)
    campaign_files.check_known(plan, artifacts.path(specialist), teacher or f"{plan.name}@champion")
    start = resolve_foundation(plan.foundation)
    data = ingest_labels(plan)
    replay = pseudolabel_replay(plan.replay, start)
    evidence = record_evidence(plan)
    admit(plan, [specialist, start, *data.values(), *evidence.values()])

    files = measured_on(data, replay, evidence)
    with interruptible():
        dynamics = simulate("teacher", plan.simulation, specialist, starts_from(files))
        engine = teach(plan, specialist, data, dynamics)["checkpoint"]
        grounds: dict[Other, Ground] = {
            "foundation": (start, {**files, "e0s": refit_e0s(plan, start, data)}),
            "teacher": (specialist, files),
        }
        taught_files = {**files, "teacher": specialist}
        examination = examine("engine", plan.simulation, plan.checks, engine, taught_files)
        acceptance = result(accept(plan, "engine", engine, taught_files, examination, grounds))
    said = report_model(plan, f"{plan.name}-student", acceptance)
    made = False
    if promoted(plan, "champion") == specialist:
        acceptance = approve(plan, {"engine": acceptance}, lambda: str(said["report"]))["engine"]
        made = promote("engine", acceptance)
    return {**said, "engine": engine, "acceptance": acceptance, "promoted": made}
