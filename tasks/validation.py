"""The acceptance of checkpoints: their dynamics, and one step for every check."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task

from db import artifacts
from db.steps import Output
from models.validation import AnyCheck, acceptance
from models.validation.acceptance import Simulation
from tasks.children import in_child
from tasks.progress import progress, steps
from tasks.records import Kind, Recipe, made, paths, read, recorded


@task(name="simulate", task_run_name="simulate-{name}")
def simulate(
    name: str, simulation: Simulation, checkpoint: str, starts_from: str, occasion: str | None = None
) -> str:
    """The id of the trajectories of a checkpoint; on an `occasion`, computed again whatever is on record."""
    recipe = _dynamics(name, simulation, checkpoint, starts_from)
    if occasion is None:
        return made(SIMULATE, recipe)["trajectories"]
    parameters = {**recipe.parameters, "occasion": occasion}
    compute = partial(_simulate, recipe)
    return recorded("simulate again", SIMULATE.version, parameters, recipe.inputs, compute)["trajectories"]


def _dynamics(name: str, simulation: Simulation, checkpoint: str, starts_from: str) -> Recipe:
    return Recipe(
        parameters=simulation.model_dump(exclude={"seed"}),
        inputs={"checkpoint": checkpoint, "starts_from": starts_from},
        names={"trajectories": f"{name}-trajectories"},
        seed=simulation.seed,
    )


def _simulate(recipe: Recipe, work: Path) -> dict[str, Output]:
    name = recipe.names["trajectories"]
    path = in_child(
        acceptance.simulate,
        recipe.file("checkpoint"),
        recipe.file("starts_from"),
        Simulation(**recipe.parameters, seed=recipe.seed or 0),
        work,
        on_progress=progress(f"simulate {name.removesuffix('-trajectories')}", steps),
    )
    return {"trajectories": Output(path=path, kind="trajectories", name=name)}


SIMULATE = Kind(name="simulate", version=4, compute=_simulate)


@task(name="check", task_run_name="{check.kind}-of-{name}")
def measure(
    name: str, check: AnyCheck, checkpoint: str, files: Mapping[str, str], occasion: str | None = None
) -> str:
    """The id of what a check finds of a checkpoint, given artifacts by role; see `models.validation`.

    On an `occasion` it is measured again, whatever is on record.
    """
    used = {role: id_ for role, id_ in files.items() if role in (*check.needs, *check.uses, "e0s")}

    def compute(work: Path) -> dict[str, Output]:
        path = in_child(acceptance.measure, check, artifacts.path(checkpoint), paths(used), work)
        return {"finding": Output(path=path, kind="finding", name=f"{name}-{check.kind}")}

    settings = {**check.model_dump(mode="json"), **({} if occasion is None else {"occasion": occasion})}
    return recorded("check", check.version, settings, {"checkpoint": checkpoint, **used}, compute)["finding"]


@task(name="rank", task_run_name="rank-candidates")
def rank(histories: Mapping[str, str]) -> str:
    """The candidate with the lowest force error on the validation set; the test set has no say."""
    best = {name: best_evaluation(read(id_))["target_forces_mae"] for name, id_ in histories.items()}
    return min(best, key=lambda name: best[name])


def best_evaluation(history: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of the checkpoint that a training gave."""
    (row,) = (row for row in history["epochs"] if row["epoch"] == history["best_epoch"])
    return row
