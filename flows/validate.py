"""The acceptance of any model against a campaign's data and gate, without a campaign."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from db import artifacts
from db.settings import settings
from flows import forms
from flows.acceptance import SIDE_BY_SIDE, Ground, accept, examine, measured_on
from flows.interruptions import go_on, listen
from flows.runners import result
from models import campaign_files, devices
from models.campaign import FoundationChoice
from models.validation.gate import Other
from tasks.children import interruptible
from tasks.datasets import ingest_labels, pseudolabel_replay, record_evidence
from tasks.foundation import resolve_foundation
from tasks.permissions import deployed, permissions
from tasks.reporting import report_model
from tasks.training import refit_e0s


def run_name() -> str:
    """The model's file, without its folder."""
    return f"validate-{Path(flow_run.parameters['model']).stem}"


@flow(
    name="validate",
    flow_run_name=run_name,
    task_runner=SIDE_BY_SIDE,
    on_running=[listen],
    on_crashed=[go_on],
)
def validate(
    model: str = forms.MODEL,
    against: str = forms.AGAINST,
    head: str = forms.HEAD,
    labels: str = forms.LABELS,
    level_of_theory: str = forms.LEVEL_OF_THEORY,
    fields: dict[str, Any] = forms.FIELDS,
) -> dict[str, Any]:
    """Measure a model as the champion of a campaign is measured; nothing is promoted."""
    devices.find(settings().device)  # before anything is started
    allowed = permissions(from_person=not deployed())
    allowed.check_given(model, "model")
    plan = campaign_files.load_campaign(
        against,
        labels=labels or None,
        level_of_theory=level_of_theory or None,
        fields=fields,
        permissions=allowed,
    )
    checkpoint = resolve_foundation(FoundationChoice(name=model, head=head or None))
    campaign_files.check_known(plan, artifacts.path(checkpoint), model)
    start = resolve_foundation(plan.foundation)
    data = ingest_labels(plan)
    replay = pseudolabel_replay(plan.replay, start)
    files = measured_on(data, replay, record_evidence(plan))
    with interruptible():
        examination = examine("model", plan.simulation, plan.checks, checkpoint, files)
        e0s = refit_e0s(plan, start, data)
        grounds: dict[Other, Ground] = {"foundation": (start, {**files, "e0s": e0s})}
        acceptance = result(accept(plan, "champion", checkpoint, files, examination, grounds))
    return report_model(plan, Path(model).stem, acceptance)
