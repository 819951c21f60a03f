"""The end of a campaign: a summary, and one HTML report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers
from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from db import aliases, artifacts
from db.lineage import Node, tree
from db.settings import settings
from db.steps import Output
from models import report as html
from models.campaign import Campaign
from tasks.display import display
from tasks.records import read, recorded

SHOWN_HASH = 10


@task(name="conclude", task_run_name="conclude")
def conclude(
    campaign: Campaign, winner: str, acceptances: Mapping[str, str], promoted: Mapping[str, bool]
) -> dict[str, Any]:
    """What was promoted, in one sentence (`summary`), and which checks did not hold (`reasons`)."""
    checks = [check for role, id_ in acceptances.items() for check in _checks(role, id_)]
    champion, engine = f"{campaign.name}@champion", f"{campaign.name}@engine"
    if promoted["engine"]:
        summary = f"{winner} is {champion}, its student {engine}."
    elif promoted["champion"]:
        summary = f"{winner} is {champion}; its student did not pass the gate."
    else:
        summary = f"{winner} did not pass the gate; nothing was promoted."
    return {
        "promoted": promoted["champion"],
        "summary": summary,
        "reasons": [_reason(check) for check in checks if not check["passed"]],
    }


def _checks(role: str, acceptance_id: str) -> list[dict[str, Any]]:
    return [
        {
            "subject": role,
            "name": verdict["check"],
            "sense": "at least" if verdict["at_least"] else "at most",
            **{key: verdict[key] for key in ("value", "threshold", "unit", "passed")},
        }
        for verdict in read(acceptance_id)["verdicts"]
    ]


def _reason(check: Mapping[str, Any]) -> str:
    value = "could not be measured" if check["value"] is None else f"is {check['value']:.3g} {check['unit']}"
    asked = f"{check['sense']} {check['threshold']:g} {check['unit']} was asked for"
    return f"{check['subject']}: {check['name']} {value}, {asked}"


@task(name="summarise", task_run_name="summarise")
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
                "change": f"{100.0 * (test['forces']['mae'] / before - 1.0):+.0f} %",
                "energy, meV/atom": f"{test['energy']['mae']:.2f}",
                "replay forces, meV/Å": f"{replay['forces']['mae']:.1f}" if replay else "–",
                "weights": f"{content['n_parameters']:,}",
                "promoted as": alias if outcome["promoted"].get(alias) else "–",
                "checkpoint": checkpoints[name][:SHOWN_HASH],
            }
        )
    display(
        create_table_artifact,
        table=rows,
        key="campaign-summary",
        description="Mean absolute errors of every model of the campaign on the test structures, the change "
        "of the force error against the foundation's, and the foundation's own labels on replay structures",
    )
    return rows


@task(name="report", task_run_name="report")
def report(campaign: Campaign, outcome: Mapping[str, Any]) -> str:
    """Write the report, let `<campaign>@report` stand for it, and give its path."""
    shown = ("errors", "candidates", "student", "dynamics", "acceptance", "e0s", "speed")

    def compute(work: Path) -> dict[str, Output]:
        path = work / "report.html"
        path.write_text(html.render(html.from_json(_data(campaign, outcome))), encoding="utf-8")
        return {"report": Output(path=path, kind="report", name=f"{campaign.name}-report")}

    inputs = {"shown": sorted(set(_ids({key: outcome[key] for key in shown})))}
    parameters = {"promoted": outcome["promoted"], **campaign.model_dump(include={"name", "description"})}
    made = recorded("report", 3, parameters, inputs, compute)["report"]
    aliases.promote(f"{campaign.name}@report", made, reason="last report")
    path = settings().home / "reports" / f"{campaign.name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(artifacts.path(made).read_bytes())
    verdict = outcome["verdict"]
    said = [verdict["summary"], "", *(f"- {reason}" for reason in verdict["reasons"])]
    display(
        create_markdown_artifact,
        "\n".join([*said, "", f"The report is at `{path}`."]),
        key="campaign-report",
        description=verdict["summary"],
    )
    return str(path)


def _ids(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [id_ for item in value.values() for id_ in _ids(item)]


def _data(campaign: Campaign, outcome: Mapping[str, Any]) -> dict[str, Any]:
    errors = {name: read(id_) for name, id_ in outcome["errors"].items()}
    dynamics = {name: read(found["dynamics"]) for name, found in outcome["dynamics"].items()}
    winner = outcome["winner"]
    behind = tree(outcome["student"]["checkpoint"])
    made = {kind: ids["checkpoint"] for kind, ids in outcome["candidates"].items()}
    histories = {kind: read(ids["history"]) for kind, ids in outcome["candidates"].items()}
    histories["student"] = read(outcome["student"]["history"])
    conserved = {n: d["conservation"] for n, d in dynamics.items() if d["conservation"] is not None}
    unconserved = {n: d["conservation_failure"] for n, d in dynamics.items() if n not in conserved}
    distances = {n: d["rdf"] for n, d in dynamics.items() if d["rdf"] is not None}
    shown = {"foundation": errors["foundation"], winner: errors[winner], "student": errors["student"]}
    return {
        "campaign": campaign.name,
        "description": campaign.description,
        "verdict": outcome["verdict"],
        "candidates": [
            {
                "name": name,
                "role": {"foundation": "foundation", winner: "champion"}.get(name, "candidate"),
                "forces": content["errors"]["test"]["forces"]["mae"],
                "forces_interval": content["errors"]["test"]["forces"]["mae_interval"],
                "energy": content["errors"]["test"]["energy"]["mae"],
                "replay_forces": content["errors"]["replay_test"]["forces"]["mae"],
                "replay_left_out": content["left_out"]["replay_test"],
                "trainable_parameters": histories.get(name, {}).get("trained_parameters"),
                "seconds": None if name == "foundation" else _seconds(tree(made[name])),
            }
            for name, content in errors.items()
            if name != "student"
        ],
        "checks": [check for role, id_ in outcome["acceptance"].items() for check in _checks(role, id_)],
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
        "bonds": {name: content["bonds"] for name, content in dynamics.items()},
        "conservation": conserved or None,
        "conservation_failures": unconserved,
        "student": {
            "name": "student",
            "teacher": winner,
            "parameters": errors["student"]["n_parameters"],
            "teacher_parameters": errors[winner]["n_parameters"],
            "speeds": list(read(outcome["speed"]).values()),
            "against_reference": errors["student"]["errors"]["test"],
            "against_teacher": errors["student"]["against_teacher"],
            "seconds": _seconds(behind),
        },
        "e0s": _e0s(outcome["e0s"]),
        "datasets": _datasets(campaign, outcome),
        "provenance": "\n".join(_lines(behind)),
        "software": _software(behind),
        "seeds": {
            "split": campaign.split.seed,
            "replay": campaign.replay.seed,
            "simulation": campaign.simulation.seed,
            "student": campaign.student.optimisation.seed,
            **{c.name: c.optimisation.seed for c in campaign.candidates},
        },
        "notes": _notes(campaign),
    }


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
