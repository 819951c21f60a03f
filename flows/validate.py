"""The acceptance of any model against a campaign's data and gate, without a campaign."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from db import artifacts
from db.settings import settings
from flows.acceptance import PARALLEL, Ground, accept, examine
from models import campaign_files, devices
from models.campaign import FoundationChoice
from models.validation.gate import Other
from tasks.children import interruptible
from tasks.datasets import ingest_labels, pseudolabel_replay, record_evidence
from tasks.foundation import resolve_foundation
from tasks.reporting import report_model
from tasks.training import refit_e0s


def run_name() -> str:
    """The model's file, without its folder."""
    return f"validate-{Path(flow_run.parameters['model']).stem}"


@flow(
    name="validate",
    flow_run_name=run_name,
    task_runner=ThreadPoolTaskRunner[Any](max_workers=PARALLEL),  # type: ignore[arg-type]  # invariant
)
def validate(
    model: str = Field(
        description="The path of a .model or a Temper checkpoint, or the name of a foundation",
        json_schema_extra={"title": "Model"},  # Prefect's form passes over `title` itself
    ),
    against: str = Field(
        "nacl",
        description="A shipped campaign or the path of a YAML file: whose data, checks and gate",
        json_schema_extra={"title": "Against"},
    ),
    head: str = Field(
        "", description="Which head, where the model has several", json_schema_extra={"title": "Head"}
    ),
    labels: str = Field(
        "",
        description="Test on these labels (extended XYZ) in place of the campaign's",
        json_schema_extra={"title": "Labels"},
    ),
    level_of_theory: str = Field(
        "",
        description="The level of theory of the labels given above, as MP2/cc-pVTZ",
        json_schema_extra={"title": "Level of theory"},
    ),
    fields: dict[str, Any] = Field(
        {},
        description="Other fields of the campaign file by their dotted names, as split.by",
        json_schema_extra={"title": "Other fields"},
    ),
) -> dict[str, Any]:
    """Measure a model as the champion of a campaign is measured; nothing is promoted."""
    devices.find(settings().device)  # before anything is started
    plan = campaign_files.load_campaign(
        against, labels=labels or None, level_of_theory=level_of_theory or None, fields=fields
    )
    checkpoint = resolve_foundation(FoundationChoice(name=model, head=head or None))
    campaign_files.check_known(plan, artifacts.path(checkpoint), model)
    start = resolve_foundation(plan.foundation)
    data = ingest_labels(plan)
    replay = pseudolabel_replay(plan.replay, start)
    files = {"test": data["test"], "replay_test": replay["replay_test"], **record_evidence(plan)}
    with interruptible():
        examination = examine("model", plan.simulation, plan.checks, checkpoint, files)
        e0s = refit_e0s(plan, start, data)
        grounds: dict[Other, Ground] = {"foundation": (start, {**files, "e0s": e0s})}
        acceptance = accept(plan, "champion", checkpoint, files, examination, grounds)
    return report_model(plan, Path(model).stem, acceptance)
