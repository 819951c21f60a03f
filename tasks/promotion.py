"""The gate, and the names that a checkpoint gets behind it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from prefect import task

from db import aliases, artifacts, licences
from db.errors import Retracted
from db.retractions import tainted
from db.steps import Output
from models.campaign import Campaign
from models.validation import acceptance
from tasks.records import read, recorded


@task(name="judge", task_run_name="judge-{role}")
def judge(campaign: Campaign, role: str, inputs: Mapping[str, str]) -> str:
    """The id of the acceptance of `champion` or `engine`.

    `inputs` by role: checkpoint, errors, dynamics, foundation_errors, the pinned test and
    starts_from, and for the engine its speed.
    """

    def compute(work: Path) -> dict[str, Output]:
        measured = {name: read(inputs[name]) for name in ("foundation_errors", "errors", "dynamics")}
        if role == "engine":
            verdicts = acceptance.judge_student(campaign.gate, **measured, speed=read(inputs["speed"]))
        else:
            verdicts = acceptance.judge_specialist(campaign.gate, **measured)
        content = {
            "role": role,
            "checkpoint": inputs["checkpoint"],
            "inputs": dict(inputs),
            "simulation": campaign.simulation.model_dump(),
            "compare_rdf": campaign.comparable_reference is not None,
            "measured": acceptance.headline(measured["errors"], measured["dynamics"]),
            "verdicts": [{**asdict(v), "passed": v.passed} for v in verdicts],
            "passed": all(v.passed for v in verdicts),
        }
        path = work / "acceptance.json"
        path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
        return {"acceptance": Output(path=path, kind="acceptance", name=f"{campaign.name}-{role}-acceptance")}

    parameters = {"role": role, "gate": campaign.gate.model_dump()}
    return recorded("judge", 3, parameters, inputs, compute)["acceptance"]


@task(name="admit inputs", task_run_name="admit-inputs")
def admit(campaign: Campaign, ids: Iterable[str]) -> None:
    """Raise where nothing that is made from these artifacts could be promoted, before anything is.

    ForbiddenLicence: one comes under terms that the campaign forbids. Retracted: one is, or what it was
    made from.
    """
    for id_ in ids:
        licences.check(id_, campaign.forbidden_licences)
        if retraction := tainted(id_):
            raise Retracted(
                f"{campaign.name} would start from {artifacts.get(id_).name} ({id_[:12]}), "
                f"{retraction.about(id_)}; start from something else, or take the retraction back"
            )


@task(name="promote", task_run_name="promote-{role}")
def promote(campaign: Campaign, role: str, acceptance_id: str) -> bool:
    """Let `<campaign>@<role>` stand for the accepted checkpoint; False where the gate did not hold.

    Raises ForbiddenLicence where its terms are not those that the campaign allows.
    """
    accepted = read(acceptance_id)
    if not accepted["passed"]:
        return False
    licences.check(accepted["checkpoint"], campaign.forbidden_licences)
    reason = "; ".join(f"{v['check']} {v['value']:.3g} {v['unit']}" for v in accepted["verdicts"])
    # The acceptance rests on all that was measured: where it cannot be promoted, nothing is.
    aliases.promote(f"{campaign.name}@{role}-acceptance", acceptance_id, reason=f"acceptance of {role}")
    aliases.promote(f"{campaign.name}@{role}", accepted["checkpoint"], reason=reason)
    return True
