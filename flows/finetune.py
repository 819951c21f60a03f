"""A whole campaign: from a foundation and labels to a promoted specialist and a fast engine."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from db.settings import settings
from models import devices
from models.campaign import load_campaign
from models.strategies import TARGET_HEAD
from tasks.children import interruptible
from tasks.datasets import ingest_labels, pseudolabel_replay, record_reference
from tasks.foundation import resolve_foundation
from tasks.promotion import admit, judge, promote
from tasks.reporting import conclude, report, summarise
from tasks.structures import record_structures
from tasks.training import distil, fine_tune, label_for_student, refit_e0s
from tasks.validation import measure_errors, measure_speed, rank, simulate

PARALLEL = 2  # children that compute at once, one thread each


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
) -> dict[str, Any]:
    """Fine-tune, validate, distil and promote; what was computed before is not computed again."""
    devices.find(settings().device)  # before anything is started
    plan = load_campaign(
        campaign,
        labels=labels or None,
        level_of_theory=level_of_theory or None,
        foundation=foundation or None,
        seed=seed,
    )

    start = resolve_foundation(plan.foundation)
    data = ingest_labels(plan)
    replay = pseudolabel_replay(plan.replay, start)
    further = {head: ingest_labels(plan, head) for head in plan.further}
    comparable = plan.comparable_reference
    starts = data["test"] if comparable is None else record_reference(comparable)
    parts = [data, replay, *further.values()]
    admit(plan, [start, starts, *(id_ for part in parts for id_ in part.values())])
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

    tests = {"test": data["test"], "replay_test": replay["replay_test"]}
    errors = {"foundation": measure_errors("foundation", start, tests, e0s=e0s)}
    for name, made in candidates.items():
        errors[name] = measure_errors(name, made["checkpoint"], tests)
    winner = rank({name: made["history"] for name, made in candidates.items()})
    champion = candidates[winner]["checkpoint"]

    pinned = {"foundation_errors": errors["foundation"], "test": data["test"], "starts_from": starts}
    dynamics = simulate("champion", plan, champion, starts)
    champion_acceptance = judge(
        plan,
        "champion",
        {**pinned, "checkpoint": champion, "errors": errors[winner], "dynamics": dynamics["dynamics"]},
    )

    met = [dynamics["trajectories"]]
    for number in range(plan.student.rounds + 1):
        lesson = label_for_student(plan, champion, data["train"], met)
        taught = {"train": data["train"], "valid": data["valid"], "teacher_labels": lesson}
        last = number == plan.student.rounds
        student = distil(plan, {"teacher": champion, **taught}, last=last)
        if not last:
            name = f"student of round {number}"
            explored = simulate(name, plan, student["checkpoint"], data["train"], explore=True)
            met.append(explored["trajectories"])
    errors["student"] = measure_errors(
        "student", student["checkpoint"], {"test": data["test"]}, teacher=champion
    )
    student_dynamics = simulate("student", plan, student["checkpoint"], starts)
    speed = measure_speed(champion, student["checkpoint"], starts, plan.simulation.replicas)
    engine_acceptance = judge(
        plan,
        "engine",
        {
            **pinned,
            "checkpoint": student["checkpoint"],
            "errors": errors["student"],
            "dynamics": student_dynamics["dynamics"],
            "speed": speed,
        },
    )

    # The engine is a champion's student: without an accepted champion there is no engine.
    promoted = {"champion": promote(plan, "champion", champion_acceptance)}
    promoted["engine"] = promoted["champion"] and promote(plan, "engine", engine_acceptance)
    acceptances = {"champion": champion_acceptance, "engine": engine_acceptance}
    verdict = conclude(plan, winner, acceptances, promoted)
    outcome = {
        "data": dict(data),
        "replay": dict(replay),
        "e0s": e0s,
        "foundation": start,
        "candidates": {name: dict(made) for name, made in candidates.items()},
        "errors": errors,
        "winner": winner,
        "student": dict(student),
        "dynamics": {"champion": dict(dynamics), "student": dict(student_dynamics)},
        "starts_from": starts,
        "speed": speed,
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
