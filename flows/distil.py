"""A student of a specialist that is there already: taught, measured, and promoted behind the gate."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from db import artifacts
from db.settings import settings
from flows.acceptance import PARALLEL, Ground, accept, examine
from flows.distillation import teach
from models import campaign_files, devices
from models.validation.gate import Other
from tasks.children import interruptible
from tasks.datasets import ingest_labels, pseudolabel_replay, record_evidence
from tasks.foundation import resolve_foundation, resolve_teacher
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
    task_runner=ThreadPoolTaskRunner[Any](max_workers=PARALLEL),  # type: ignore[arg-type]  # invariant
)
def distil(
    campaign: str = Field(
        "nacl",
        description="A shipped campaign or the path of a YAML file: whose data, student and gate",
        json_schema_extra={"title": "Campaign"},  # Prefect's form passes over `title` itself
    ),
    teacher: str = Field(
        "",
        description="A checkpoint on record (an alias or the beginning of an id), or the path of a model; "
        "empty: what the campaign promoted as champion",
        json_schema_extra={"title": "Teacher"},
    ),
    seed: int | None = Field(
        None,
        description="The seed of everything random; none: those of the campaign",
        json_schema_extra={"title": "Seed"},
    ),
    fields: dict[str, Any] = Field(
        {},
        description="Other fields of the campaign file by their dotted names, as student.n_structures",
        json_schema_extra={"title": "Other fields"},
    ),
) -> dict[str, Any]:
    """Teach a student, measure it, and promote it as engine where its teacher is the campaign's champion."""
    devices.find(settings().device)  # before anything is started
    plan = campaign_files.load_campaign(campaign, seed=seed, fields=fields)
    specialist = resolve_teacher(plan, teacher)
    campaign_files.check_known(plan, artifacts.path(specialist), teacher or f"{plan.name}@champion")
    start = resolve_foundation(plan.foundation)
    data = ingest_labels(plan)
    replay = pseudolabel_replay(plan.replay, start)
    evidence = record_evidence(plan)
    admit(plan, [specialist, start, *data.values(), *evidence.values()])

    files = {"test": data["test"], "replay_test": replay["replay_test"], **evidence}
    with interruptible():
        starts = files.get("reference", files["test"])
        dynamics = simulate("teacher", plan.simulation, specialist, starts)
        engine = teach(plan, specialist, data, dynamics)["checkpoint"]
        grounds: dict[Other, Ground] = {
            "foundation": (start, {**files, "e0s": refit_e0s(plan, start, data)}),
            "teacher": (specialist, files),
        }
        measured_on = {**files, "teacher": specialist}
        examination = examine("engine", plan.simulation, plan.checks, engine, measured_on)
        acceptance = accept(plan, "engine", engine, measured_on, examination, grounds)
    taught_by_champion = promoted(plan, "champion") == specialist
    made = taught_by_champion and promote("engine", acceptance)
    said = report_model(plan, f"{plan.name}-student", acceptance)
    return {**said, "engine": engine, "acceptance": acceptance, "promoted": made}
