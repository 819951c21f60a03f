"""Errors, dynamics and speed of checkpoints."""

from collections.abc import Mapping
from pathlib import Path

from prefect import task

from db import artifacts
from db.steps import Output
from models.campaign import Campaign
from models.validation import acceptance
from models.validation.acceptance import Simulation
from tasks.children import in_child
from tasks.progress import progress, steps
from tasks.records import Kind, Recipe, made, paths, read, recorded


@task(name="measure errors", task_run_name="errors-{name}")
def measure_errors(
    name: str,
    checkpoint: str,
    datasets: Mapping[str, str],
    *,
    e0s: str | None = None,
    teacher: str | None = None,
) -> str:
    """The id of a checkpoint's errors on `datasets` (see `models.validation.acceptance`)."""
    more = {role: id_ for role, id_ in (("e0s", e0s), ("teacher", teacher)) if id_ is not None}

    def compute(work: Path) -> dict[str, Output]:
        path = in_child(
            acceptance.measure_errors,
            artifacts.path(checkpoint),
            paths(datasets),
            work,
            e0s=artifacts.path(e0s) if e0s else None,
            teacher=artifacts.path(teacher) if teacher else None,
        )
        return {"errors": Output(path=path, kind="evaluation", name=f"{name}-errors")}

    inputs = {"checkpoint": checkpoint, **datasets, **more}
    return recorded("measure_errors", 3, {}, inputs, compute)["errors"]


@task(name="simulate", task_run_name="simulate-{name}")
def simulate(
    name: str, campaign: Campaign, checkpoint: str, starts_from: str, *, explore: bool = False
) -> Mapping[str, str]:
    """Ids of the trajectories of a checkpoint, and of what they tell; to `explore` judges nothing."""
    compared = campaign.comparable_reference is not None and not explore
    recipe = Recipe(
        parameters={
            **campaign.simulation.model_dump(exclude={"seed"}),
            "compare_rdf": compared,
            "explore": explore,
        },
        inputs={"checkpoint": checkpoint, "starts_from": starts_from},
        names={"trajectories": f"{name}-trajectories", "dynamics": f"{name}-dynamics"},
        seed=campaign.simulation.seed,
    )
    return made(SIMULATE, recipe)


def _simulate(recipe: Recipe, work: Path) -> dict[str, Output]:
    simulation = {key: value for key, value in recipe.parameters.items() if key in Simulation.model_fields}
    name = recipe.names["trajectories"].removesuffix("-trajectories")
    files = in_child(
        acceptance.simulate,
        recipe.file("checkpoint"),
        recipe.file("starts_from"),
        Simulation(**simulation, seed=recipe.seed),
        work,
        compare_rdf=recipe.parameters["compare_rdf"],
        explore=recipe.parameters["explore"],
        on_progress=progress(f"simulate {name}", steps),
    )
    return {
        role: Output(path=files[role], kind=kind, name=recipe.names[role])
        for role, kind in (("trajectories", "trajectories"), ("dynamics", "evaluation"))
    }


SIMULATE = Kind(name="simulate", version=3, compute=_simulate)


@task(name="measure speed", task_run_name="speed-of-student")
def measure_speed(teacher: str, student: str, starts_from: str, replicas: int) -> str:
    """The id of a measurement of the student's speed over its teacher's, on this machine."""
    inputs = {"teacher": teacher, "student": student, "starts_from": starts_from}

    def compute(work: Path) -> dict[str, Output]:
        path = in_child(acceptance.measure_speed, *paths(inputs).values(), replicas, work)
        return {"speed": Output(path=path, kind="measurement", name="student-speed")}

    return recorded("measure_speed", 1, {"replicas": replicas}, inputs, compute)["speed"]


@task(name="rank", task_run_name="rank-candidates")
def rank(histories: Mapping[str, str]) -> str:
    """The candidate with the lowest force error on the validation set; the test set has no say."""
    best = {}
    for name, id_ in histories.items():
        history = read(id_)
        (row,) = (row for row in history["epochs"] if row["epoch"] == history["best_epoch"])
        best[name] = row["target_forces_mae"]
    return min(best, key=lambda name: best[name])
