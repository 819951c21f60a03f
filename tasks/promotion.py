"""The gate, and the names that a checkpoint gets behind it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import task

from db import aliases, artifacts, licences
from db.errors import ProvenanceError, Retracted, UnknownArtifact
from db.retractions import tainted
from db.steps import Output
from models.campaign import Campaign
from models.validation import CHECKS, acceptance, gate
from models.validation.gate import Other, PromotedAs
from tasks.records import read, recorded

MOVED_BACK = "moved back in the night of"
"""How the reason begins for which a night has taken a name from what was promoted."""


class NotOverridable(ProvenanceError):
    """A gate that cannot be overridden this way; the message says what to do."""


@task(name="judge", task_run_name="judge-{role}")
def judge(
    campaign: Campaign,
    role: PromotedAs,
    checkpoint: str,
    files: Mapping[str, str],
    findings: Mapping[str, str],
    others: Mapping[Other, Mapping[str, str] | None],
) -> str:
    """The id of the acceptance of a checkpoint as `role`: the verdicts of the gate, and all they rest on.

    `files` by role are what it was measured on; `findings` by kind of check; `others` are the findings of
    the models that it is compared with, None where there is no such model yet.
    """
    inputs = {"checkpoint": checkpoint, **files, **_prefixed("finding", findings)}
    for other, theirs in others.items():
        inputs |= _prefixed(other, theirs or {})
    left_out = {
        check.kind: why
        for check in campaign.checks
        if (why := acceptance.lacking(check, (*files, "trajectories")))
        and {"teacher", "foundation"}.isdisjoint(check.needs)
    }
    compared = {other: theirs is not None for other, theirs in others.items()}

    def compute(work: Path) -> dict[str, Output]:
        measured = {kind: read(id_) for kind, id_ in findings.items()}
        verdicts = gate.judge(
            campaign.gate,
            role,
            measured,
            {
                other: None if theirs is None else {kind: read(id_) for kind, id_ in theirs.items()}
                for other, theirs in others.items()
            },
            {kind: check.quantities for kind, check in CHECKS.items()},
        )
        content = {
            "campaign": campaign.name,
            "role": role,
            "checkpoint": checkpoint,
            "files": dict(files),
            "findings": dict(findings),
            "compared": {other: theirs and dict(theirs) for other, theirs in others.items()},
            "simulation": campaign.simulation.model_dump(),
            "checks": [check.model_dump(mode="json") for check in campaign.checks if check.kind in findings],
            "left_out": left_out,
            "figures": acceptance.figures(measured),
            "verdicts": [asdict(verdict) for verdict in verdicts],
            "passed": all(verdict.passed for verdict in verdicts),
            "override": None,
            "forbidden_licences": list(campaign.forbidden_licences),
            "night": campaign.night.model_dump(),
        }
        return _acceptance(content, work)

    parameters = {
        "campaign": campaign.name,
        "role": role,
        "gate": [threshold.model_dump() for threshold in campaign.gate],
        "checks": [check.model_dump(mode="json") for check in campaign.checks],
        "simulation": campaign.simulation.model_dump(),
        "forbidden_licences": list(campaign.forbidden_licences),
        "night": campaign.night.model_dump(),
        "compared": compared,
    }
    return recorded("judge", 4, parameters, inputs, compute)["acceptance"]


def _prefixed(prefix: str, ids: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{name}": id_ for name, id_ in ids.items()}


def _acceptance(content: Mapping[str, Any], work: Path) -> dict[str, Output]:
    path = work / "acceptance.json"
    path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    name = f"{content['campaign']}-{content['role']}-acceptance"
    return {"acceptance": Output(path=path, kind="acceptance", name=name)}


def override(acceptance_id: str, by: str, reason: str) -> str:
    """Promote what a gate or a person refused, on somebody's word; the id of the acceptance that says so.

    Raises NotOverridable where it is no acceptance, where nobody refused it, and without a name and a reason;
    and as `promote` does.
    """
    found = artifacts.find(acceptance_id)
    if found.kind != "acceptance":
        raise NotOverridable(f"{artifacts.titled(found)} is no acceptance; give one that a report names")
    if not (by.strip() and reason.strip()):
        raise NotOverridable("say who overrides the gate, and why: --by NAME --reason '…'")
    content = read(found.id)
    if content["passed"] and refusal(content) is None:
        raise NotOverridable(f"{artifacts.titled(found)} passed its gate; there is nothing to override")

    def compute(work: Path) -> dict[str, Output]:
        return _acceptance({**content, "override": {"by": by, "reason": reason}}, work)

    said = {"by": by, "reason": reason}
    made = recorded("override", 1, said, {"acceptance": found.id}, compute)["acceptance"]
    _promote(read(made), made, f"{by} overrides the gate: {reason}")
    return made


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


def promoted(campaign: Campaign, role: PromotedAs) -> str | None:
    """The id of the checkpoint that `<campaign>@<role>` stands for, None where there is none to go by.

    None too where it, or what it was made from, is retracted: it is no measure for another.
    """
    try:
        found = aliases.resolve(f"{campaign.name}@{role}").id
    except UnknownArtifact:
        return None
    return None if tainted(found) else found


@task(name="promote", task_run_name="promote-{role}")
def promote(role: PromotedAs, acceptance_id: str) -> bool:
    """Let `<campaign>@<role>` stand for the accepted checkpoint; False where the gate or a person refused it.

    Raises ForbiddenLicence where its terms are not those that the campaign allows.
    """
    accepted = read(acceptance_id)
    if not accepted["passed"] or refusal(accepted):
        return False
    word = accepted.get("approval")
    held = [f"{word['by']} approves: {word['reason']}"] if word else []
    held += [
        f"{v['check']} {v['value']:.3g} {v['unit']}" for v in accepted["verdicts"] if v["value"] is not None
    ]
    _promote(accepted, acceptance_id, "; ".join(held) or f"acceptance of {role}")
    return True


def refusal(acceptance: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Who does not promote what passed the gate (`by`), and the `reason`; None where nobody said so.

    A person who was asked, or the night that took the name from this checkpoint after its last promotion.
    """
    word = acceptance.get("approval")
    if word and not word["promote"]:
        return word
    after = ""
    for event in reversed(aliases.history(f"{acceptance['campaign']}@{acceptance['role']}")):
        if event.artifact_id == acceptance["checkpoint"]:
            break
        after = event.reason
    else:
        return None
    return {"by": "the night", "reason": after} if after.startswith(MOVED_BACK) else None


def _promote(accepted: Mapping[str, Any], acceptance_id: str, reason: str) -> None:
    licences.check(accepted["checkpoint"], accepted["forbidden_licences"])
    name = f"{accepted['campaign']}@{accepted['role']}"
    # The acceptance rests on all that was measured: where it cannot be promoted, nothing is.
    aliases.promote(f"{name}-acceptance", acceptance_id, reason=f"acceptance of {accepted['role']}")
    aliases.promote(name, accepted["checkpoint"], reason=reason)
