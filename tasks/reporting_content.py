"""What a report shows, read from the record."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ase.data import atomic_numbers

from db import artifacts, licences
from db.lineage import Node, tree
from models.campaign import Campaign
from models.validation import CHECKS
from tasks.records import read
from tasks.reporting_rounds import of_rounds

SHOWN_HASH = 10  # characters


def of_campaign(campaign: Campaign, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What the report of a campaign shows of its outcome."""
    winner = outcome["winner"]
    behind = tree(outcome["student"]["checkpoint"])
    made = {kind: ids["checkpoint"] for kind, ids in outcome["candidates"].items()}
    histories = {kind: read(ids["history"]) for kind, ids in outcome["candidates"].items()}
    histories["student"] = read(outcome["student"]["history"])
    accepted = {role: read(id_) for role, id_ in outcome["acceptance"].items()}
    subjects = {"champion": f"{winner}, fine-tuned", "engine": f"student of {winner}"}
    return {
        "title": campaign.name,
        "description": campaign.description,
        "acceptances": [
            *(
                {
                    **_acceptance_of(content),
                    "name": role,
                    "subject": f"{subjects[role]}, {content['checkpoint'][:SHOWN_HASH]}",
                }
                for role, content in accepted.items()
            ),
            {"name": "foundation", "checks": _measured(outcome["findings"]["foundation"])},
        ],
        "campaign": {
            "verdict": {key: outcome["verdict"][key] for key in ("promoted", "summary")},
            "candidates": [
                {
                    "name": name,
                    "role": {"foundation": "foundation", winner: "champion", "student": "student"}.get(
                        name, "candidate"
                    ),
                    **_errors(findings),
                    "trainable_parameters": histories.get(name, {}).get("trained_parameters"),
                    "seconds": None
                    if name == "foundation"
                    else _seconds(behind if name == "student" else tree(made[name])),
                }
                for name, findings in outcome["findings"].items()
            ],
            "learning_curves": [
                {
                    "name": name,
                    "epoch": [row["epoch"] for row in history["epochs"]],
                    "loss": [row["loss"] for row in history["epochs"]],
                    "forces": [row["target_forces_mae"] for row in history["epochs"]],
                }
                for name, history in histories.items()
            ],
            "e0s": _e0s(outcome["e0s"]),
            "rounds": outcome["rounds"] and of_rounds(campaign, outcome["rounds"]),
        },
        "sweep": outcome["sweep"] and read(outcome["sweep"]),
        "datasets": _datasets(campaign, outcome),
        "provenance": "\n".join(_lines(behind)),
        "software": _software(behind),
        "seeds": {
            "split": campaign.split.seed,
            "replay": campaign.replay.seed,
            "simulation": campaign.simulation.seed,
            "student": campaign.student.optimisation.seed,
            **({"rounds": campaign.rounds.seed} if campaign.rounds else {}),
            **{c.name: c.optimisation.seed for c in campaign.candidates},
        },
        **_terms(outcome["student"]["checkpoint"]),
        "notes": _notes(campaign),
    }


def of_model(campaign: Campaign, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """What the report of one model shows; `content` is its acceptance."""
    behind = tree(content["checkpoint"])
    judged = {**_acceptance_of(content), "name": name, "subject": content["checkpoint"][:SHOWN_HASH]}
    return {
        "title": name,
        "description": f"Measured as a champion of {campaign.name}: {campaign.description}",
        "acceptances": [judged, *_compared(content)],
        **_terms(content["checkpoint"]),
        "provenance": "\n".join(_lines(behind)),
        "software": _software(behind),
        "seeds": {"split": campaign.split.seed, "simulation": campaign.simulation.seed},
        "notes": _notes(campaign),
    }


def of_sweep(campaign: Campaign, sweep: str) -> dict[str, Any]:
    """What the report of a sweep shows of its result."""
    result = read(sweep)
    behind = tree(result["checkpoint"])
    return {
        "title": f"{campaign.name}, a sweep",
        "description": campaign.description,
        "sweep": result,
        "provenance": "\n".join(_lines(behind)),
        "software": _software(behind),
        "seeds": {"split": campaign.split.seed, "replay": campaign.replay.seed},
        **_terms(result["checkpoint"]),
    }


def figure(findings: Mapping[str, str], kind: str, name: str) -> float | None:
    """A figure of a check, None where it was not measured."""
    if kind not in findings:
        return None
    value: float | None = read(findings[kind])["figures"].get(name, {"value": None})["value"]
    return value


def sweep_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for each trial of a sweep, and one for the foundation, as text."""
    foundation = {"name": "foundation", "rung": "–", "epochs": 0, "seeds": "–", **result["foundation"]}
    return [
        {
            "trial": one["name"],
            "rung": str(one["rung"]),
            "epochs": str(one["epochs"]),
            "seeds": str(one["seeds"]),
            "forces, meV/Å": _spread(one, "error"),
            "kept, meV/Å": _spread(one, "retention"),
            "trained": "–" if one.get("parameters") is None else f"{one['parameters']:,}",
            "CPU s": "–" if one.get("cpu_seconds") is None else f"{one['cpu_seconds']:.0f}",
            "choice": "recommended" * (one["name"] == result["chosen"]) or _place(one),
        }
        for one in (foundation, *result["standings"])
    ]


def _spread(one: Mapping[str, Any], key: str) -> str:
    if one[key] is None:
        return "–"
    spread = one.get(f"{key}_spread")
    return f"{one[key]:.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def _place(one: Mapping[str, Any]) -> str:
    """What there is to say of a trial that is not recommended."""
    if one.get("failure"):
        return "failed"
    said = [word for key, word in (("tied", "as good"), ("on_front", "front")) if one.get(key)]
    return ", ".join(said)


def _acceptance_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """An acceptance as a report shows it."""
    return {
        "passed": content["passed"],
        "overridden": content["override"],
        "approval": content.get("approval"),
        "verdicts": content["verdicts"],
        "checks": _measured(content["findings"]),
        "left_out": [{"kind": kind, "why": why} for kind, why in content["left_out"].items()],
    }


def _measured(findings: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the checks found, in the order of the registry, with the words to show it by."""
    return [
        {
            "kind": kind,
            "title": check.title,
            "explanation": check.explanation,
            "quantities": {name: asdict(quantity) for name, quantity in check.quantities.items()},
            "finding": read(findings[kind]),
        }
        for kind, check in CHECKS.items()
        if kind in findings
    ]


def _compared(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The foundation, as far as an acceptance was compared with it."""
    findings = content["compared"].get("foundation") or {}
    return [{"name": "foundation", "checks": _measured(findings)}] if findings else []


def _terms(artifact_id: str) -> dict[str, Any]:
    """The licences and citations of everything that an artifact was made from."""
    terms = licences.upstream(artifact_id)
    found = {part for one in terms for part in one.licences}
    return {"licences": sorted(found), "bibtex": licences.bibtex(terms)}


def _errors(findings: Mapping[str, str]) -> dict[str, Any]:
    """The errors of a candidate, for the ranking."""
    forces = read(findings["accuracy"])["figures"]["forces"]
    return {
        "forces": forces["value"],
        "forces_interval": forces["interval"],
        "energy": figure(findings, "accuracy", "energy"),
        "replay_forces": figure(findings, "retention", "forces"),
    }


def _notes(campaign: Campaign) -> list[str]:
    given = dict(campaign.evidence) | ({"reference": campaign.reference} if campaign.reference else {})
    return [
        f"{section.path.name} ({role}) is at {section.level_of_theory}, the labels at "
        f"{campaign.labels.level_of_theory}: it was not compared with."
        for role, section in given.items()
        if role not in campaign.comparable
    ]


def _e0s(artifact_id: str) -> dict[str, Any]:
    content = read(artifact_id)
    for key in ("e0s", "shifts"):
        content[key] = {atomic_numbers[symbol]: energy for symbol, energy in content[key].items()}
    return content


def _datasets(campaign: Campaign, outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, parts in ((f"{campaign.name} labels", outcome["data"]), ("replay", outcome["replay"])):
        said = {part: artifacts.get(id_).metadata for part, id_ in parts.items()}
        first = next(iter(said.values()))
        found.append(
            {
                "name": name,
                "level_of_theory": first.get("level_of_theory", "unknown"),
                "licence": first.get("licence", "unknown"),
                "frames": {part: about["n_structures"] for part, about in said.items()},
                "trajectories": {part: about["n_trajectories"] for part, about in said.items()},
                "hash": next(iter(parts.values()))[:SHOWN_HASH],
            }
        )
    return found


def _seconds(node: Node) -> float | None:
    return node.step.seconds if node.step else None


def _software(node: Node) -> dict[str, str]:
    """Versions, the state of the checkout and the hardware, in words."""
    said = dict(node.step.software) if node.step else {}
    shown = {name: value for name, value in said.items() if isinstance(value, str)}
    if git := said.get("git"):
        shown["git"] = git["commit"][:SHOWN_HASH] + (", changed since" if git["dirty"] else "")
    if machine := said.get("machine"):
        shown["machine"] = ", ".join([machine["processor"], *machine["gpus"]])
    return shown


def _lines(node: Node, depth: int = 0) -> list[str]:
    made = f" by {node.step.kind}" if node.step else ""
    role = f"{node.role}: " if node.role else ""
    level = node.artifact.metadata.get("level_of_theory", "")
    line = (
        f"{'  ' * depth}{role}{node.artifact.kind} {node.artifact.name} {node.artifact.id[:SHOWN_HASH]}{made}"
    )
    line += f" [{level}]" if level else ""
    if node.repeated:
        return [f"{line} (above)"]
    return [line, *(text for parent in node.parents for text in _lines(parent, depth + 1))]
