"""The end of a campaign: a summary, and one HTML report."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers
from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from db import aliases, artifacts, licences
from db.lineage import Node, tree
from db.settings import settings
from db.steps import Output
from models import report as html
from models.campaign import Campaign
from models.report_card import model_card
from models.validation import CHECKS
from tasks.display import display
from tasks.records import read, recorded

SHOWN_HASH = 10


@task(name="conclude", task_run_name="conclude")
def conclude(
    campaign: Campaign, winner: str, acceptances: Mapping[str, str], promoted: Mapping[str, bool]
) -> dict[str, Any]:
    """What was promoted, in one sentence (`summary`), and which checks did not hold (`reasons`)."""
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
        "refused": [id_ for id_ in acceptances.values() if not read(id_)["passed"]],
        "reasons": [line for role, id_ in acceptances.items() for line in _reasons(role, id_)],
    }


def _reasons(role: str, acceptance_id: str) -> list[str]:
    return [f"{role}: {_missed(v)}" for v in read(acceptance_id)["verdicts"] if not v["passed"]]


def _missed(verdict: Mapping[str, Any]) -> str:
    """What was measured and what was asked for, in words."""
    value = verdict["value"]
    found = "could not be measured" if value is None else f"is {value:.3g} {verdict['unit']}".rstrip()
    if verdict["interval"] is not None:
        low, high = verdict["interval"]
        found += f" (95 %: {low:.3g} to {high:.3g})"
    sense = "at least" if verdict["at_least"] else "at most"
    return f"{verdict['check']} {found}, {sense} {verdict['threshold']:g} {verdict['unit']} was asked for"


@task(name="summarise", task_run_name="summarise")
def summarise(outcome: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for every model of the campaign, as text."""
    candidates = outcome["candidates"]
    checkpoints = {"foundation": outcome["foundation"], "student": outcome["student"]["checkpoint"]}
    checkpoints |= {kind: made["checkpoint"] for kind, made in candidates.items()}
    promoted = {outcome["winner"]: "champion", "student": "engine"}
    before = _figure(outcome["findings"]["foundation"], "accuracy", "forces")
    rows = []
    for name, findings in outcome["findings"].items():
        forces = _figure(findings, "accuracy", "forces")
        energy = _figure(findings, "accuracy", "energy")
        replay = None if name == "student" else _figure(findings, "retention", "forces")
        alias = promoted.get(name, "")
        rows.append(
            {
                "model": name,
                "forces, meV/Å": "–" if forces is None else f"{forces:.1f}",
                "change": "–" if not (forces and before) else f"{100.0 * (forces / before - 1.0):+.0f} %",
                "energy, meV/atom": "–" if energy is None else f"{energy:.2f}",
                "replay forces, meV/Å": "–" if replay is None else f"{replay:.1f}",
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


def _figure(findings: Mapping[str, str], kind: str, name: str) -> float | None:
    """A figure of a check, None where it was not measured."""
    if kind not in findings:
        return None
    value: float | None = read(findings[kind])["figures"].get(name, {"value": None})["value"]
    return value


@task(name="report", task_run_name="report")
def report(campaign: Campaign, outcome: Mapping[str, Any]) -> str:
    """Write the report, let `<campaign>@report` stand for it, and give its path."""
    shown = ("findings", "candidates", "student", "acceptance", "e0s")
    ids = sorted(set(_ids({key: outcome[key] for key in shown})))
    parameters = {"promoted": outcome["promoted"], **campaign.model_dump(include={"name", "description"})}
    role = "champion" if outcome["promoted"]["champion"] else None
    made = _written(campaign.name, parameters, ids, lambda: _data(campaign, outcome), role)
    aliases.promote(f"{campaign.name}@report", made["report"], reason="last report")
    verdict = outcome["verdict"]
    path = _shown(campaign.name, made)
    said = [verdict["summary"], "", *(f"- {reason}" for reason in verdict["reasons"])]
    display(
        create_markdown_artifact,
        "\n".join([*said, "", f"The report is at `{path}`."]),
        key="campaign-report",
        description=verdict["summary"],
    )
    for name, acceptance_id in outcome["acceptance"].items():
        _display_verdicts(f"{campaign.name}@{name}", read(acceptance_id))
    return str(path)


@task(name="report model", task_run_name="report-{name}")
def report_model(campaign: Campaign, name: str, acceptance_id: str) -> dict[str, Any]:
    """Write the report of one model: whether it `passed`, the `reasons` where not, and the files' paths."""
    content = read(acceptance_id)
    parameters = {"model": name, "campaign": campaign.name}
    made = _written(name, parameters, [acceptance_id], lambda: _model_data(campaign, name, content), name)
    path = _shown(f"{name}-against-{campaign.name}", made)
    _display_verdicts(name, content)
    return {
        "passed": content["passed"],
        "summary": f"{name} {'passed' if content['passed'] else 'did not pass'} the gate of {campaign.name}.",
        "reasons": [_missed(v) for v in content["verdicts"] if not v["passed"]],
        "verdicts": content["verdicts"],
        "acceptance": acceptance_id,
        "report": str(path),
    }


def _written(
    name: str, parameters: Mapping[str, Any], ids: Sequence[str], data: Callable[[], Any], card_of: str | None
) -> Mapping[str, str]:
    """Ids of the report as HTML, the same as JSON and, of the acceptance named `card_of`, a model card."""

    def compute(work: Path) -> dict[str, Output]:
        content = html.from_json(data())
        texts = {"report": (".html", html.render(content)), "figures": (".json", html.to_json(content))}
        for accepted in content.acceptances:
            if accepted.name == card_of:
                texts["card"] = (".md", model_card(content, accepted))
        found = {}
        for role, (suffix, text) in texts.items():
            path = work / f"{role}{suffix}"
            path.write_text(text, encoding="utf-8")
            found[role] = Output(path=path, kind="report", name=f"{name}-{role}")
        return found

    return recorded("report", 4, parameters, {"shown": list(ids)}, compute)


def _shown(name: str, made: Mapping[str, str]) -> Path:
    """Put the files of a report where a person finds them; the path of the HTML."""
    folder = settings().home / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    for id_ in made.values():
        source = artifacts.path(id_)
        (folder / f"{name}{source.suffix}").write_bytes(source.read_bytes())
    return folder / f"{name}{artifacts.path(made['report']).suffix}"


def _display_verdicts(name: str, content: Mapping[str, Any]) -> None:
    """The verdicts of an acceptance as a table among Prefect's artifacts."""
    table = [
        {
            "": "✓" if verdict["passed"] else "✗",
            "check": verdict["check"],
            "value": "–" if verdict["value"] is None else f"{verdict['value']:.4g} {verdict['unit']}",
            "asked for": f"{'≥' if verdict['at_least'] else '≤'} {verdict['threshold']:g} {verdict['unit']}",
            "evidence": verdict["evidence"],
        }
        for verdict in content["verdicts"]
    ]
    key = re.sub("[^a-z0-9]+", "-", f"acceptance-{name}".lower()).strip("-")
    passed = sum(verdict["passed"] for verdict in content["verdicts"])
    description = f"{name}: {passed} of {len(table)} lines of the gate hold"
    display(create_table_artifact, table=table, key=key, description=description)


def _ids(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [id_ for item in value.values() for id_ in _ids(item)]


def _acceptance_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """An acceptance as a report shows it."""
    return {
        "passed": content["passed"],
        "overridden": content["override"],
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


def _model_data(campaign: Campaign, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
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


def _data(campaign: Campaign, outcome: Mapping[str, Any]) -> dict[str, Any]:
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
        },
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
        **_terms(outcome["student"]["checkpoint"]),
        "notes": _notes(campaign),
    }


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
        "energy": _figure(findings, "accuracy", "energy"),
        "replay_forces": _figure(findings, "retention", "forces"),
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
