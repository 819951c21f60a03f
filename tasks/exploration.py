"""What a specialist does not know, the structures it meets there, and those worth a label."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task

from db import artifacts
from db.steps import Output
from models.campaign import Campaign
from models.datasets import describe, read_structures
from models.exploration import EXPLORERS
from models.exploration.files import explore_files
from models.rounds import Rounds, joined
from models.selection import SELECTOR
from models.selection.files import select_files
from models.uncertainty import UNCERTAINTY
from models.uncertainty.files import fit_files
from tasks.children import in_child
from tasks.progress import progress
from tasks.records import Kind, Recipe, made


@task(name="fit uncertainty", task_run_name="fit-uncertainty")
def fit_uncertainty(
    campaign: Campaign, rounds: Rounds, checkpoints: Sequence[str], data: Mapping[str, str]
) -> Mapping[str, str]:
    """Ids of the `uncertainty` of the first of these checkpoints, and of its `calibration`.

    The others are trainings with other seeds; `data` has the parts train and valid.
    """
    recipe = Recipe(
        parameters=rounds.uncertainty.model_dump(mode="json"),
        inputs={"checkpoints": checkpoints, "train": data["train"], "valid": data["valid"]},
        names={role: f"{campaign.name}-{role}" for role in ("uncertainty", "calibration")},
    )
    return made(FIT_UNCERTAINTY, recipe)


def _fit(recipe: Recipe, work: Path) -> dict[str, Output]:
    files = in_child(
        fit_files,
        UNCERTAINTY.validate_python(recipe.parameters),
        [artifacts.path(id_) for id_ in recipe.ids("checkpoints")],
        recipe.file("train"),
        recipe.file("valid"),
        work,
    )
    return {role: Output(path=path, kind=role, name=recipe.names[role]) for role, path in files.items()}


FIT_UNCERTAINTY = Kind(name="fit_uncertainty", version=1, compute=_fit)


@task(name="explore", task_run_name="explore-{number}")
def explore(
    campaign: Campaign,
    rounds: Rounds,
    number: int,
    checkpoints: Sequence[str],
    uncertainty: str,
    train: str,
) -> str:
    """The id of the structures that the first of these checkpoints meets in this round."""
    starts = [train]
    if rounds.starts is not None:
        path, said = rounds.starts.path, rounds.starts.model_dump(include={"licence"})
        starts.append(artifacts.import_file(path, "structures", path.name, said).id)
    recipe = Recipe(
        parameters={"explorers": [explorer.model_dump(mode="json") for explorer in rounds.explorers]},
        inputs={"checkpoints": checkpoints, "uncertainty": uncertainty, "starts": starts},
        names={"pool": f"{campaign.name}-pool-{number}"},
        seed=rounds.seed + number,
    )
    return made(EXPLORE, recipe)["pool"]


def _explore(recipe: Recipe, work: Path) -> dict[str, Output]:
    name = recipe.names["pool"]
    path = in_child(
        explore_files,
        EXPLORERS.validate_python(recipe.parameters["explorers"]),
        [artifacts.path(id_) for id_ in recipe.ids("checkpoints")],
        recipe.file("uncertainty"),
        joined([artifacts.path(id_) for id_ in recipe.ids("starts")], work / "starts.extxyz"),
        recipe.seed,
        work,
        on_progress=progress(name, _walked),
    )
    return {"pool": _structures(path, name)}


def _walked(message: dict[str, Any]) -> tuple[float, str]:
    """The share and the line of an exploration; every explorer begins anew."""
    if "steps" in message:
        share = message["step"] / message["steps"]
        return share, f"{message['explorer']}, step {message['step']}/{message['steps']}"
    return 1.0, f"{message['explorer']}, {message['part']}: {message['frames']} structures"


EXPLORE = Kind(name="explore", version=1, compute=_explore)


@task(name="select", task_run_name="select-{number}")
def select(
    campaign: Campaign,
    rounds: Rounds,
    number: int,
    wanted: int,
    pool: str,
    checkpoint: str,
    data: Mapping[str, str],
    before: Sequence[str],
) -> str | None:
    """The id of at most `wanted` structures of a pool that are to be labelled; None where none is new.

    New is what is not among `data` (train, valid, test), nor in the selections of the rounds `before`.
    """
    recipe = Recipe(
        parameters={
            "selector": rounds.selector.model_dump(mode="json"),
            "control": rounds.control,
            "wanted": wanted,
        },
        inputs={
            "pool": pool,
            "checkpoint": checkpoint,
            "known": [data["train"], data["valid"]],
            "excluded": [data["test"], *before],
        },
        names={"selection": f"{campaign.name}-selection-{number}"},
        seed=rounds.seed + number,
    )
    found = made(SELECT, recipe)["selection"]
    return found if artifacts.get(found).metadata["n_structures"] else None


def _select(recipe: Recipe, work: Path) -> dict[str, Output]:
    given = recipe.parameters
    path = in_child(
        select_files,
        SELECTOR.validate_python(given["selector"]),
        given["control"],
        given["wanted"],
        recipe.file("pool"),
        [artifacts.path(id_) for id_ in recipe.ids("known")],
        recipe.file("checkpoint"),
        recipe.seed,
        work,
        excluded=[artifacts.path(id_) for id_ in recipe.ids("excluded")],
    )
    return {"selection": _structures(path, recipe.names["selection"])}


SELECT = Kind(name="select", version=1, compute=_select)


def _structures(path: Path, name: str) -> Output:
    found = read_structures(path) if path.stat().st_size else []
    return Output(path=path, kind="structures", name=name, metadata=describe(found))
