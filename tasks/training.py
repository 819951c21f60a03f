"""E0s, candidates, students."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import task

from db import artifacts, licences
from db.steps import Output
from models import e0s, finetuning
from models.campaign import Campaign
from models.distillation import training as distillation
from models.strategies import TARGET_HEAD, AnyStrategy
from tasks.children import in_child
from tasks.datasets import prefix
from tasks.progress import training
from tasks.records import paths, recorded


@task(name="refit E0s", task_run_name="refit-e0s-{head}")
def refit_e0s(campaign: Campaign, foundation: str, data: Mapping[str, str], head: str = TARGET_HEAD) -> str:
    """The id of the E0s of this head's level of theory."""
    labels, policy = campaign.level(head)
    inputs = {"foundation": foundation, "train": data["train"]}
    if "isolated" in data:
        inputs["isolated"] = data["isolated"]

    def compute(work: Path) -> dict[str, Output]:
        files = paths(inputs)
        path, fit = in_child(
            e0s.refit_file, files["foundation"], files["train"], files.get("isolated"), policy, work
        )
        said = {
            "policy": fit.policy,
            "rank": f"{fit.rank} of {fit.n_elements}",
            "null_space": fit.null_space,
            "level_of_theory": labels.level_of_theory,
        }
        return {"e0s": Output(path=path, kind="e0s", name=f"{prefix(campaign, head)}-e0s", metadata=said)}

    return recorded("refit_e0s", 2, policy.model_dump(), inputs, compute)["e0s"]


@task(name="fine-tune", task_run_name="fine-tune-{strategy.name}")
def fine_tune(campaign: Campaign, strategy: AnyStrategy, inputs: Mapping[str, str]) -> Mapping[str, str]:
    """Ids of a candidate's checkpoint and history.

    `inputs` by role (see `models.finetuning`); those of a further head are called `head.role`.
    """
    name = f"{campaign.name}-{strategy.name}"
    parameters = strategy.model_dump(mode="json")

    def compute(work: Path) -> dict[str, Output]:
        taught_by = ["train", *(f"{head}.train" for head in campaign.further)]
        said = heritage(inputs, ("foundation", *taught_by), name, campaign.labels.level_of_theory)
        files = paths(inputs)
        further = {
            head: finetuning.FurtherTarget(
                **{role: files.pop(f"{head}.{role}") for role in ("train", "valid", "e0s")},
                level_of_theory=labels.level_of_theory,
            )
            for head, labels in campaign.further.items()
        }
        total = strategy.optimisation.epochs
        with training(f"fine-tune {strategy.name}", name, work.name, parameters, total) as show:
            made = in_child(
                finetuning.fine_tune,
                strategy,
                files,
                campaign.labels.level_of_theory,
                said,
                work,
                further=further,
                on_progress=show,
            )
        return fitted(made, name, said)

    return recorded("fine_tune", 2, parameters, inputs, compute, seed=strategy.optimisation.seed)


@task(name="label for student", task_run_name="label-for-student")
def label_for_student(campaign: Campaign, teacher: str, train: str, dynamics: Sequence[str]) -> str:
    """The id of the structures that the teacher labelled for its student; see `models.distillation`."""
    plan = campaign.student
    inputs: dict[str, str | Sequence[str]] = {"teacher": teacher, "train": train, "dynamics": dynamics}

    def compute(work: Path) -> dict[str, Output]:
        path = in_child(
            distillation.label_pool,
            artifacts.path(teacher),
            artifacts.path(train),
            [artifacts.path(run) for run in dynamics],
            plan.n_structures,
            plan.rattle,
            plan.seed,
            work,
        )
        name = f"{campaign.name}-teacher-labels"
        said = heritage({"teacher": teacher}, ("teacher",), name, campaign.labels.level_of_theory)
        return {"labels": Output(path=path, kind="dataset", name=said["name"], metadata=said)}

    parameters = plan.model_dump(include={"n_structures", "rattle"})
    return recorded("label_for_student", 2, parameters, inputs, compute, seed=plan.seed)["labels"]


@task(name="distil", task_run_name="distil-student")
def distil(campaign: Campaign, inputs: Mapping[str, str], *, last: bool = True) -> Mapping[str, str]:
    """Ids of the student's checkpoint and history; `inputs` are teacher, train, valid, teacher_labels.

    A student that is not the `last` one only explores: half the epochs will do.
    """
    plan = campaign.student if last else campaign.student.exploring()
    name = f"{campaign.name}-student"

    parameters = plan.model_dump(mode="json", include={"architecture", "optimisation"})

    def compute(work: Path) -> dict[str, Output]:
        files = paths(inputs)
        said = heritage(inputs, ("teacher", "train"), name, campaign.labels.level_of_theory)
        with training("distil", name, work.name, parameters, plan.optimisation.epochs) as show:
            made = in_child(
                distillation.distil,
                plan.architecture,
                plan.optimisation,
                files.pop("teacher"),
                files,
                said,
                work,
                on_progress=show,
            )
        return fitted(made, name, said)

    return recorded("distil", 2, parameters, inputs, compute, seed=plan.optimisation.seed)


def fitted(files: Mapping[str, Path], name: str, said: dict[str, str]) -> dict[str, Output]:
    """A checkpoint and its history as a step's outputs."""
    return {
        "checkpoint": Output(path=files["checkpoint"], kind="checkpoint", name=name, metadata=said),
        "history": Output(path=files["history"], kind="history", name=f"{name}-history"),
    }


def heritage(inputs: Mapping[str, str], roles: tuple[str, ...], name: str, level: str) -> dict[str, str]:
    """Name, level of theory, and the licences and citations of the inputs in `roles`."""
    said = {"name": name, "level_of_theory": level}
    ancestors = [artifacts.get(inputs[role]).metadata for role in roles]
    for key in ("licence", "citation"):
        values = {part for a in ancestors for part in licences.separate(str(a.get(key, "")))}
        said[key] = licences.SEPARATOR.join(sorted(values))
    return said
