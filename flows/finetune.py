"""A whole campaign: from a foundation and labels to a promoted specialist and a fast engine."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from db.settings import settings
from flows.acceptance import PARALLEL, Ground, accept, chosen, examine
from flows.distillation import teach
from models import devices
from models.campaign_files import load_campaign
from models.strategies import TARGET_HEAD
from models.validation.gate import Other
from tasks.children import interruptible
from tasks.datasets import ingest_labels, pseudolabel_replay, record_evidence
from tasks.foundation import resolve_foundation
from tasks.promotion import admit, promote
from tasks.reporting import conclude, report, summarise
from tasks.structures import record_structures
from tasks.training import fine_tune, refit_e0s
from tasks.validation import rank


def run_name() -> str:
    """The campaign's name, also where its file was given."""
    return Path(flow_run.parameters["campaign"]).stem


@flow(
    name="finetune",
    flow_run_name=run_name,
    task_runner=ThreadPoolTaskRunner[Any](max_workers=PARALLEL),  # type: ignore[arg-type]  # invariant
)
def finetune(
    campaign: str = Field(
        "nacl",
        description="A campaign that ships with Temper, or the path of a YAML file",
        json_schema_extra={"title": "Campaign"},  # Prefect's form passes over `title` itself
    ),
    labels: str = Field(
        "",
        description="Use these labels (extended XYZ) in place of the campaign's",
        json_schema_extra={"title": "Labels"},
    ),
    level_of_theory: str = Field(
        "",
        description="The level of theory of the labels given above, as MP2/cc-pVTZ",
        json_schema_extra={"title": "Level of theory"},
    ),
    foundation: str = Field(
        "",
        description="Start from this foundation model, a name or a path, in place of the campaign's",
        json_schema_extra={"title": "Foundation"},
    ),
    seed: int | None = Field(
        None,
        description="The seed of everything random; none: those of the campaign",
        json_schema_extra={"title": "Seed"},
    ),
    fields: dict[str, Any] = Field(
        {},
        description="Other fields of the campaign file by their dotted names, as split.by",
        json_schema_extra={"title": "Other fields"},
    ),
) -> dict[str, Any]:
    """Fine-tune, validate, distil and promote; what was computed before is not computed again."""
    devices.find(settings().device)  # before anything is started
    plan = load_campaign(
        campaign,
        labels=labels or None,
        level_of_theory=level_of_theory or None,
        foundation=foundation or None,
        seed=seed,
        fields=fields,
    )

    start = resolve_foundation(plan.foundation)
    data = ingest_labels(plan)
    replay = pseudolabel_replay(plan.replay, start)
    further = {head: ingest_labels(plan, head) for head in plan.further}
    evidence = record_evidence(plan)
    parts = [data, replay, evidence, *further.values()]
    admit(plan, [start, *(id_ for part in parts for id_ in part.values())])
    record_structures(plan, {TARGET_HEAD: data, **further}, replay, start)

    e0s = refit_e0s(plan, start, data)
    lessons = {"foundation": start, "e0s": e0s, "train": data["train"], "valid": data["valid"]}
    for head, other in further.items():
        lessons |= {f"{head}.{role}": other[role] for role in ("train", "valid")}
        lessons[f"{head}.e0s"] = refit_e0s(plan, start, other, head)
    with interruptible():
        running = {}
        for candidate in plan.candidates:
            given = {role: replay[part] for role, part in candidate.replay_parts.items()}
            running[candidate.name] = fine_tune.submit(plan, candidate, lessons | given)
        candidates = {name: future.result() for name, future in running.items()}

    files = {"test": data["test"], "replay_test": replay["replay_test"], **evidence}
    grounds: dict[Other, Ground] = {"foundation": (start, {**files, "e0s": e0s})}
    with interruptible():
        compared = chosen(plan, ("accuracy", "retention"))
        examined = {"foundation": examine("foundation", plan.simulation, compared, *grounds["foundation"])}
        for name, made in candidates.items():
            examined[name] = examine(name, plan.simulation, compared, made["checkpoint"], files)
        found = {name: examination.findings() for name, examination in examined.items()}
        winner = rank({name: made["history"] for name, made in candidates.items()})
        champion = candidates[winner]["checkpoint"]

        # The champion's checks go on while its student is taught.
        examination = examine("champion", plan.simulation, plan.checks, champion, files, beside=True)
        student = teach(plan, champion, data, examination.trajectories)

        champion_acceptance = accept(plan, "champion", champion, files, examination, grounds)
        engine, taught_files = student["checkpoint"], {**files, "teacher": champion}
        examination = examine("engine", plan.simulation, plan.checks, engine, taught_files)
        grounds["teacher"] = (champion, files)
        engine_acceptance = accept(plan, "engine", engine, taught_files, examination, grounds)
        found["student"] = examination.findings()

    # The engine is a champion's student: without an accepted champion there is no engine.
    promoted = {"champion": promote("champion", champion_acceptance)}
    promoted["engine"] = promoted["champion"] and promote("engine", engine_acceptance)
    acceptances = {"champion": champion_acceptance, "engine": engine_acceptance}
    verdict = conclude(plan, winner, acceptances, promoted)
    outcome = {
        "data": dict(data),
        "replay": dict(replay),
        "e0s": e0s,
        "foundation": start,
        "candidates": {name: dict(made) for name, made in candidates.items()},
        "findings": found,
        "winner": winner,
        "student": dict(student),
        "acceptance": acceptances,
        "promoted": promoted,
        "verdict": verdict,
    }
    return {
        "summary": summarise(outcome),
        "verdict": verdict,
        "report": report(plan, outcome),
        "outcome": outcome,
    }
