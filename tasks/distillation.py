"""What a teacher says for its student, and the student."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import task
from pydantic import TypeAdapter

from db import artifacts
from db.steps import Output
from models import losses
from models.campaign import Campaign
from models.distillation import data, hessians
from models.distillation import training as distillation
from models.distillation.objectives import AnyObjective, Curvature
from models.distillation.students import STUDENT
from models.training import Optimisation
from tasks.children import in_child
from tasks.progress import parts, progress, training
from tasks.records import Kind, Recipe, made
from tasks.training import checkpoint_names, fitted, heritage

_OBJECTIVES: TypeAdapter[tuple[AnyObjective, ...]] = TypeAdapter(tuple[AnyObjective, ...])


@task(name="label for student", task_run_name="label-for-student")
def label_for_student(campaign: Campaign, teacher: str, train: str, dynamics: Sequence[str]) -> str:
    """The id of the structures that the teacher labelled for its student; see `models.distillation.data`."""
    recipe = Recipe(
        parameters=campaign.student.model_dump(include={"n_structures", "rattle", "relax_steps"}),
        inputs={"teacher": teacher, "train": train, "dynamics": dynamics},
        names={"labels": f"{campaign.name}-teacher-labels"},
        seed=campaign.student.seed,
    )
    return made(LABEL_FOR_STUDENT, recipe)["labels"]


def _label(recipe: Recipe, work: Path) -> dict[str, Output]:
    path = in_child(
        data.label_pool,
        recipe.file("teacher"),
        recipe.file("train"),
        [artifacts.path(run) for run in recipe.ids("dynamics")],
        **recipe.parameters,
        seed=recipe.seed,
        work=work,
    )
    said = heritage(recipe, ("teacher",), "labels")
    return {"labels": Output(path=path, kind="dataset", name=said["name"], metadata=said)}


LABEL_FOR_STUDENT = Kind(name="label_for_student", version=3, compute=_label)


@task(name="label curvature", task_run_name="label-curvature-{objective.kind}")
def label_curvature(
    campaign: Campaign, objective: Curvature, teacher: str, structures: Mapping[str, str]
) -> str:
    """The id of the products of the teacher's Hessian that an objective learns, of some datasets."""
    recipe = Recipe(
        parameters=objective.sampling.model_dump(),
        inputs={"teacher": teacher, **structures},
        names={"products": f"{campaign.name}-teacher-{objective.kind.replace('_', '-')}"},
    )
    return made(LABEL_CURVATURE, recipe)["products"]


def _label_curvature(recipe: Recipe, work: Path) -> dict[str, Output]:
    files = recipe.files()
    said = heritage(recipe, ("teacher",), "products")
    path = in_child(
        hessians.label_files,
        files.pop("teacher"),
        list(files.values()),
        hessians.Sampling.model_validate(recipe.parameters),
        work,
        on_progress=progress(said["name"], parts),
    )
    return {"products": Output(path=path, kind="hessian", name=said["name"], metadata=said)}


LABEL_CURVATURE = Kind(name="label_curvature", version=1, compute=_label_curvature)


@task(name="distil", task_run_name="distil-student")
def distil(campaign: Campaign, inputs: Mapping[str, str], *, last: bool = True) -> Mapping[str, str]:
    """Ids of the student's checkpoint and history.

    `inputs` are teacher, train, valid, where there are any teacher_labels, and by kind of objective the
    teacher's products. A student that is not the `last` one only explores: half the epochs will do.
    """
    plan = campaign.student if last else campaign.student.exploring()
    recipe = Recipe(
        parameters=plan.model_dump(mode="json", include=_TAUGHT_BY),
        inputs=inputs,
        names=checkpoint_names(f"{campaign.name}-student"),
        seed=plan.optimisation.seed,
    )
    return made(DISTIL, recipe)


_TAUGHT_BY = {"architecture", "objectives", "weights", "optimisation"}


def _distil(recipe: Recipe, work: Path) -> dict[str, Output]:
    optimisation = Optimisation.model_validate(recipe.parameters["optimisation"])
    said = heritage(recipe, ("teacher", "train"))
    with training("distil", said["name"], work.name, recipe.parameters, optimisation.epochs) as show:
        files = in_child(
            distillation.distil,
            STUDENT.validate_python(recipe.parameters["architecture"]),
            _OBJECTIVES.validate_python(recipe.parameters["objectives"]),
            losses.Weights.model_validate(recipe.parameters["weights"]),
            optimisation,
            recipe.files(),
            said,
            work,
            on_progress=show,
        )
    return fitted(files, recipe, said)


DISTIL = Kind(name="distil", version=3, compute=_distil)
