"""The end of a campaign: a summary, and one HTML report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from db import aliases, artifacts
from db.lineage import Node, Step, tree
from db.settings import settings
from db.steps import Output, once
from models import report as html
from models.campaign import Campaign
from tasks.validation import read

SHOWN_HASH = 12


@task
def summarise(outcome: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for every model of the campaign, as text."""
    candidates = outcome["candidates"]
    checkpoints = {"foundation": outcome["foundation"], "student": outcome["student"]["checkpoint"]}
    checkpoints |= {kind: made["checkpoint"] for kind, made in candidates.items()}
    promoted = {outcome["winner"]: "champion", "student": "engine"}
    before = read(outcome["errors"]["foundation"])["errors"]["test"]["forces"]["mae"]
    rows = []
    for name, errors_id in outcome["errors"].items():
        content = read(errors_id)
        test, replay = content["errors"]["test"], content["errors"].get("replay_test")
        alias = promoted.get(name, "")
        rows.append(
            {
                "model": name,
                "forces, meV/Å": f"{test['forces']['mae']:.1f}",
                "against the foundation": f"{100.0 * (test['forces']['mae'] / before - 1.0):+.0f} %",
                "energy, meV/atom": f"{test['energy']['mae']:.2f}",
                "replay forces, meV/Å": f"{replay['forces']['mae']:.1f}" if replay else "–",
                "parameters": f"{content['n_parameters']:,}",
                "promoted as": alias if outcome["promoted"].get(alias) else "–",
                "checkpoint": checkpoints[name][:SHOWN_HASH],
            }
        )
    create_table_artifact(table=rows, key="campaign-summary", description="Every model of the campaign")
    return rows


@task
def report(campaign: Campaign, outcome: Mapping[str, Any]) -> str:
    """Write the report, let `<campaign>@report` stand for it, and give its path."""
    ids = list(
        _ids({key: outcome[key] for key in ("errors", "candidates", "student", "dynamics", "acceptance")})
    )

    def compute(work: Path) -> dict[str, Output]:
        path = work / "report.html"
        path.write_text(html.render(html.from_json(_data(campaign, outcome))), encoding="utf-8")
        return {"report": Output(path=path, kind="report", name=f"{campaign.name}-report")}

    inputs = {"shown": sorted({*ids, outcome["e0s"], outcome["speed"]})}
    parameters = {"promoted": outcome["promoted"], "description": campaign.description}
    made = once("report", 1, parameters, inputs, compute).outputs["report"]
    aliases.promote(f"{campaign.name}@report", made, reason="last report")
    path = settings().home / "reports" / f"{campaign.name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(artifacts.path(made).read_bytes())
    create_markdown_artifact(f"The report is at `{path}`.", key="campaign-report")
    return str(path)


def _ids(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [id_ for item in value.values() for id_ in _ids(item)]


def _data(campaign: Campaign, outcome: Mapping[str, Any]) -> dict[str, Any]:
    errors = {name: read(id_) for name, id_ in outcome["errors"].items()}
    dynamics = {name: read(found["dynamics"]) for name, found in outcome["dynamics"].items()}
    accepted = {role: read(id_) for role, id_ in outcome["acceptance"].items()}
    winner, promoted = outcome["winner"], outcome["promoted"]
    nodes = _nodes(tree(outcome["student"]["checkpoint"]))
    checks = [
        {
            "subject": role,
            "name": v["check"],
            "sense": "at least" if v["at_least"] else "at most",
            **{key: v[key] for key in ("value", "threshold", "unit", "passed")},
        }
        for role, content in accepted.items()
        for v in content["verdicts"]
    ]
    failed = [
        f"{c['subject']}: {c['name']} is {c['value']}, {c['sense']} {c['threshold']}"
        for c in checks
        if not c["passed"]
    ]
    histories = {kind: read(made["history"]) for kind, made in outcome["candidates"].items()}
    histories["student"] = read(outcome["student"]["history"])
    conserved = {n: d["conservation"] for n, d in dynamics.items() if d["conservation"] is not None}
    distances = {n: d["rdf"] for n, d in dynamics.items() if d["rdf"] is not None}
    shown = {"foundation": errors["foundation"], winner: errors[winner], "student": errors["student"]}
    step = nodes[outcome["student"]["checkpoint"]].step
    return {
        "campaign": campaign.name,
        "description": campaign.description,
        "verdict": {
            "promoted": promoted["champion"],
            "summary": _sentence(campaign, winner, promoted),
            "reasons": failed,
        },
        "candidates": [
            {
                "name": name,
                "role": {"foundation": "foundation", winner: "champion"}.get(name, "candidate"),
                "forces": content["errors"]["test"]["forces"]["mae"],
                "forces_interval": content["errors"]["test"]["forces"]["mae_interval"],
                "energy": content["errors"]["test"]["energy"]["mae"],
                "replay_forces": content["errors"]["replay_test"]["forces"]["mae"],
                "trainable_parameters": None if name == "foundation" else content["n_parameters"],
                "seconds": None
                if name == "foundation"
                else _seconds(outcome["candidates"][name]["checkpoint"]),
            }
            for name, content in errors.items()
            if name != "student"
        ],
        "checks": checks,
        "learning_curves": [
            {
                "name": name,
                "epoch": [row["epoch"] for row in history["epochs"]],
                "loss": [row["loss"] for row in history["epochs"]],
                "forces": [row["target_forces_mae"] for row in history["epochs"]],
            }
            for name, history in histories.items()
        ],
        "errors": {name: content["errors"]["test"] for name, content in shown.items()},
        "parity": {name: content["parity"] for name, content in shown.items()},
        "rdfs": distances or None,
        "stability": {name: content["stability"] for name, content in dynamics.items()},
        "conservation": conserved or None,
        "student": {
            "name": "student",
            "teacher": winner,
            "parameters": errors["student"]["n_parameters"],
            "teacher_parameters": errors[winner]["n_parameters"],
            "speed": read(outcome["speed"]),
            "against_reference": errors["student"]["errors"]["test"],
            "against_teacher": errors["student"]["against_teacher"],
            "seconds": step.seconds if step else None,
        },
        "e0s": _e0s(outcome["e0s"]),
        "datasets": _datasets(campaign, outcome),
        "provenance": "\n".join(_lines(tree(outcome["student"]["checkpoint"]))),
        "software": dict(step.software) if step else {},
        "seeds": {
            "split": campaign.split.seed,
            "replay": campaign.replay.seed,
            "simulation": campaign.simulation.seed,
            "student": campaign.student.optimisation.seed,
            **{c.kind: c.optimisation.seed for c in campaign.candidates},
        },
        "notes": _notes(campaign),
    }


def _sentence(campaign: Campaign, winner: str, promoted: Mapping[str, bool]) -> str:
    if promoted["engine"]:
        return f"{winner} is {campaign.name}@champion, its student {campaign.name}@engine."
    if promoted["champion"]:
        return f"{winner} is {campaign.name}@champion; its student did not pass the gate."
    return f"{winner} did not pass the gate; nothing was promoted."


def _notes(campaign: Campaign) -> list[str]:
    if campaign.reference is None:
        return ["No reference trajectories were given: pair distributions were not compared."]
    if campaign.comparable_reference is None:
        return [
            f"The reference trajectories are at {campaign.reference.level_of_theory}, the labels at "
            f"{campaign.labels.level_of_theory}: pair distributions were not compared."
        ]
    return []


def _e0s(artifact_id: str) -> dict[str, Any]:
    from ase.data import atomic_numbers

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


def _nodes(node: Node) -> dict[str, Node]:
    found = {} if node.repeated else {node.artifact.id: node}
    for parent in node.parents:
        found |= _nodes(parent)
    return found


def _seconds(artifact_id: str) -> float | None:
    step: Step | None = tree(artifact_id).step
    return step.seconds if step else None


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
