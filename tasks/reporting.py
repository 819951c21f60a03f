"""The end of a campaign: a summary, and one HTML report."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from db import aliases, artifacts
from db.settings import settings
from db.steps import Output
from models import report as html
from models.campaign import Campaign
from models.report_card import model_card
from tasks.children import in_children
from tasks.display import display
from tasks.promotion import refusal
from tasks.records import read, recorded
from tasks.reporting_content import SHOWN_HASH, figure, of_campaign, of_model, of_sweep, sweep_rows


@task(name="conclude", task_run_name="conclude")
def conclude(
    campaign: Campaign, winner: str, acceptances: Mapping[str, str], promoted: Mapping[str, bool]
) -> dict[str, Any]:
    """What was promoted, in one sentence (`summary`), and which checks did not hold (`reasons`)."""
    champion, engine = f"{campaign.name}@champion", f"{campaign.name}@engine"
    contents = {role: read(id_) for role, id_ in acceptances.items()}
    if promoted["engine"]:
        summary = f"{winner} is {champion}, its student {engine}."
    elif promoted["champion"]:
        summary = f"{winner} is {champion}; its student {_fate(contents.get('engine'))}."
    else:
        summary = f"{winner} {_fate(contents.get('champion'))}; nothing was promoted."
    return {
        "promoted": promoted["champion"],
        "summary": summary,
        "refused": [
            acceptances[role] for role, said in contents.items() if not said["passed"] or refusal(said)
        ],
        "reasons": [line for role, said in contents.items() for line in _reasons(role, said)],
    }


def _fate(acceptance: Mapping[str, Any] | None) -> str:
    """What became of something that is not promoted."""
    if acceptance is None or not acceptance["passed"]:
        return "did not pass the gate"
    if word := refusal(acceptance):
        return f"passed the gate, and {word['by']} decided against it"
    return "passed the gate and waits for a person to decide"


def _reasons(role: str, acceptance: Mapping[str, Any]) -> list[str]:
    word = refusal(acceptance)
    said = [f"{role}: {word['by']} decided against it: {word['reason']}"] if word else []
    return said + [f"{role}: {_missed(v)}" for v in acceptance["verdicts"] if not v["passed"]]


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
    before = figure(outcome["findings"]["foundation"], "accuracy", "forces")
    rows = []
    for name, findings in outcome["findings"].items():
        forces = figure(findings, "accuracy", "forces")
        energy = figure(findings, "accuracy", "energy")
        replay = None if name == "student" else figure(findings, "retention", "forces")
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


@task(name="report", task_run_name="report")
def report(campaign: Campaign, outcome: Mapping[str, Any]) -> str:
    """Write the report, let `<campaign>@report` stand for it, and give its path."""
    shown = ("findings", "candidates", "student", "acceptance", "e0s")
    ids = sorted(set(_ids({key: outcome[key] for key in shown})) | {*filter(None, [outcome["sweep"]])})
    parameters = {"promoted": outcome["promoted"], **campaign.model_dump(include={"name", "description"})}
    if outcome["rounds"] is not None:
        parameters["rounds"] = outcome["rounds"]
    role = "champion" if outcome["promoted"]["champion"] else None
    made = _written(campaign.name, parameters, ids, lambda: of_campaign(campaign, outcome), role)
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
    made = _written(name, parameters, [acceptance_id], lambda: of_model(campaign, name, content), name)
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


@task(name="report sweep", task_run_name="report-sweep")
def report_sweep(campaign: Campaign, sweep: str) -> dict[str, Any]:
    """Write the report of a sweep: rows of all trials, what is recommended and why, and the files' paths."""
    result = read(sweep)
    parameters = {"sweep": campaign.name, **campaign.model_dump(include={"name", "description"})}
    made = _written(f"{campaign.name}-sweep", parameters, [sweep], lambda: of_sweep(campaign, sweep), None)
    path = _shown(f"{campaign.name}-sweep", made)
    rows = sweep_rows(result)
    display(
        create_table_artifact,
        table=rows,
        key="sweep",
        description="Every trial as far as it was trained: force errors on validation trajectories and on "
        "the foundation's own ground, after ± the standard deviation over seeds",
    )
    said = [f"Recommended: **{result['chosen']}**", "", *(f"- {reason}" for reason in result["reasons"])]
    said += ["", f"The report is at `{path}`."]
    display(
        create_markdown_artifact, "\n".join(said), key="sweep-recommendation", description=result["chosen"]
    )
    kept = ("chosen", "strategy", "checkpoint", "reasons", "notes", "epochs", "cpu_seconds")
    return {"summary": rows, **{key: result[key] for key in kept}, "sweep": sweep, "report": str(path)}


def _written(
    name: str, parameters: Mapping[str, Any], ids: Sequence[str], data: Callable[[], Any], card_of: str | None
) -> Mapping[str, str]:
    """Ids of the report as HTML, the same as JSON and, of the acceptance named `card_of`, a model card."""

    def compute(work: Path) -> dict[str, Output]:
        content = html.from_json(data())
        texts = {
            "report": (".html", html.render(content, in_children)),
            "figures": (".json", html.to_json(content)),
        }
        for accepted in content.acceptances:
            if accepted.name == card_of:
                texts["card"] = (".md", model_card(content, accepted))
        found = {}
        for role, (suffix, text) in texts.items():
            path = work / f"{role}{suffix}"
            path.write_text(text, encoding="utf-8")
            found[role] = Output(path=path, kind="report", name=f"{name}-{role}")
        return found

    return recorded("report", 5, parameters, {"shown": list(ids)}, compute)


def _shown(name: str, made: Mapping[str, str]) -> Path:
    """Put the files of a report where a person finds them; the path of the HTML."""
    folder = settings().home / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    for id_ in made.values():
        source = artifacts.path(id_)
        (folder / f"{name}{source.suffix}").write_bytes(source.read_bytes())
    return folder / f"{name}{artifacts.path(made['report']).suffix}"


def _display_verdicts(name: str, content: Mapping[str, Any]) -> None:
    """The verdicts of an acceptance as a table among Prefect's artifacts; what is long comes last."""
    table = [
        {
            "met": "✓" if verdict["passed"] else "✗",
            "value": "–" if verdict["value"] is None else f"{verdict['value']:.4g} {verdict['unit']}",
            "asked for": f"{'≥' if verdict['at_least'] else '≤'} {verdict['threshold']:g} {verdict['unit']}",
            "check": verdict["check"],
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
