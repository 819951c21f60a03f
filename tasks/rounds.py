"""Active rounds: labels that came joined to those there were, and whether there is another round."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import task

from db import artifacts, labels, structures
from db.labels import Calculation
from db.steps import Output
from models import datasets, rounds
from models.campaign import Campaign
from models.labels import TOLERANCE
from models.rounds import FIGURE, Decision, Rounds, Standing
from tasks.children import in_child
from tasks.records import Kind, Recipe, made, read

SECONDS = 3600.0


@task(name="merge labels", task_run_name="merge-labels")
def merge_labels(
    campaign: Campaign,
    plan: Rounds,
    data: Mapping[str, str],
    selections: Sequence[str],
    came: Sequence[Sequence[str]],
) -> Mapping[str, str]:
    """Ids of the parts of the first `data` with what `came` in every round; see `models.rounds.merge`."""
    inputs: dict[str, str | Sequence[str]] = {"train": data["train"], "valid": data["valid"]}
    inputs["selections"] = selections
    inputs |= {f"labels-{number}": ids for number, ids in enumerate(came, start=1) if ids}
    roles = ("train", "valid", "acquired", "doubtful", "selected", "control", "tally")
    recipe = Recipe(
        parameters={"valid": plan.valid},
        inputs=inputs,
        names={role: f"{campaign.name}-{role}-{len(came)}" for role in roles},
        seed=plan.seed,
    )
    return made(MERGE_LABELS, recipe)


def _merge(recipe: Recipe, work: Path) -> dict[str, Output]:
    selections = recipe.ids("selections")
    came = [recipe.inputs.get(f"labels-{k}", ()) for k in range(1, len(selections) + 1)]
    parts = in_child(
        rounds.merge,
        recipe.file("train"),
        recipe.file("valid"),
        [artifacts.path(id_) for id_ in selections],
        [[artifacts.path(id_) for id_ in ([ids] if isinstance(ids, str) else ids)] for ids in came],
        recipe.parameters["valid"],
        recipe.seed or 0,
        work,
    )
    said = {key: recipe.input("train").metadata[key] for key in ("level_of_theory", "licence", "citation")}
    return {
        role: Output(
            path=part.path,
            kind="tally" if role == "tally" else "dataset",
            name=recipe.names[role],
            metadata={**said, **part.contents},
        )
        for role, part in parts.items()
    }


MERGE_LABELS = Kind(name="merge_labels", version=1, compute=_merge)


@task(name="record labels", task_run_name="record-labels")
def record_labels(campaign: Campaign, plan: Rounds, acquired: str, test: str) -> None:
    """Enter the labels of all rounds.

    ConflictingLabels: a structure has another label at the same level of theory in a dataset on record.
    OverlappingDatasets: one that is tested on would be trained on.
    """
    calculator = plan.calculator
    made_by = Calculation(
        level_of_theory=calculator.level_of_theory,
        calculator=calculator.kind,
        version=calculator.version(),
        settings=calculator.settings(),
    )
    labels.record(acquired, made_by, datasets.entries(artifacts.path(acquired)), tolerance=TOLERANCE)
    structures.check_disjoint([acquired], [test])


@task(name="decide", task_run_name="decide")
def decide(plan: Rounds, standings: Sequence[Mapping[str, Any]]) -> Decision:
    """Whether there is another round, after those that stand so (see `standing`)."""
    return rounds.decide(plan, [Standing(**one) for one in standings])


@task(name="standing", task_run_name="standing-{number}")
def standing(number: int, acceptance: str, selection: str | None, came: Sequence[str]) -> dict[str, Any]:
    """Where a campaign is after a round: an acceptance, what was sent to be labelled, and what came."""
    accepted = read(acceptance)
    kind, _, name = FIGURE.partition(".")
    seconds = sum(artifacts.get(id_).metadata.get("cpu_seconds", 0.0) for id_ in came)
    found = Standing(
        passed=accepted["passed"],
        sent=artifacts.get(selection).metadata["n_structures"] if selection else 0,
        labels=len(came),
        cpu_hours=seconds / SECONDS,
        samples=read(accepted["findings"][kind])["figures"][name]["samples"],
    )
    return asdict(found)


@task(name="selection gain", task_run_name="selection-gain")
def selection_gain(selected: str, control: str) -> dict[str, Any]:
    """The force error after random labels over that after as many selected ones, from these `findings`."""
    ratio, interval = rounds.selection_gain(read(selected), read(control))
    return {"ratio": ratio, "interval": interval, "findings": {"selected": selected, "control": control}}
