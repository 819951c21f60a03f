"""Strategies and settings tried on a campaign's training and validation data; nothing is promoted."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from db.settings import settings
from flows import forms
from flows.acceptance import SIDE_BY_SIDE
from flows.halving import choose
from flows.interruptions import go_on, listen
from flows.runners import check
from flows.specialist import gather
from models import campaign_files, devices
from tasks.forks import prepare_children
from tasks.permissions import deployed, permissions
from tasks.reporting import report_sweep


def run_name() -> str:
    """The campaign's name, also where its file was given."""
    return f"sweep-{Path(flow_run.parameters['campaign']).stem}"


@flow(
    name="sweep",
    flow_run_name=run_name,
    task_runner=SIDE_BY_SIDE,
    on_running=[listen],
    on_crashed=[go_on],
)
def sweep(
    campaign: str = forms.CAMPAIGN,
    labels: str = forms.LABELS,
    level_of_theory: str = forms.LEVEL_OF_THEORY,
    foundation: str = forms.FOUNDATION,
    e0s: forms.E0s = forms.E0S,
    seed: int | None = forms.SEED,
    fields: dict[str, Any] = forms.FIELDS,
) -> dict[str, Any]:
    """Try what the campaign's section `sweep` lists, recommend one, and report them all."""
    prepare_children()
    devices.find(settings().device)  # before anything is started
    check(settings())
    plan = campaign_files.load_campaign(
        campaign,
        labels=labels or None,
        level_of_theory=level_of_theory or None,
        foundation=foundation or None,
        seed=seed,
        fields=forms.chosen(fields, {"e0s.policy": e0s}),
        permissions=permissions(from_person=not deployed()),
    )
    asked = campaign_files.sweep_of(plan, campaign)
    for line in asked.told():
        get_run_logger().info(line)
    return report_sweep(plan, choose(plan, asked, gather(plan)))
