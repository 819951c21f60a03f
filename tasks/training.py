"""E0s, candidates, students."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task

from db import artifacts
from db.steps import Done, Output, once
from models import e0s, finetuning
from models.campaign import Campaign, StudentPlan
from models.distillation import training as distillation
from models.strategies import AnyStrategy
from tasks.children import in_child
from tasks.progress import epochs, progress


@task
def refit_e0s(campaign: Campaign, foundation: str, data: Mapping[str, str]) -> str:
    """The id of the target level's E0s."""
    inputs = {"foundation": foundation, "train": data["train"]}
    if "isolated" in data:
        inputs["isolated"] = data["isolated"]

    def compute(work: Path) -> dict[str, Output]:
        files = {role: artifacts.path(id_) for role, id_ in inputs.items()}
        path, fit = in_child(
            e0s.refit_file, files["foundation"], files["train"], files.get("isolated"), campaign.e0s, work
        )
        said = {
            "policy": fit.policy,
            "rank": f"{fit.rank} of {fit.n_elements}",
            "null_space": fit.null_space,
            "level_of_theory": campaign.labels.level_of_theory,
        }
        return {"e0s": Output(path=path, kind="e0s", name=f"{campaign.name}-e0s", metadata=said)}

    return once("refit_e0s", 1, campaign.e0s.model_dump(), inputs, compute).outputs["e0s"]


@task(task_run_name="fine-tune-{strategy.kind}")
def fine_tune(campaign: Campaign, strategy: AnyStrategy, inputs: Mapping[str, str]) -> Mapping[str, str]:
    """Ids of a candidate's checkpoint and history; `inputs` by role (see `models.finetuning`)."""
    name = f"{campaign.name}-{strategy.kind}"

    def compute(work: Path) -> dict[str, Output]:
        said = heritage(inputs, ("foundation", "train"), name, campaign.labels.level_of_theory)
        files = in_child(
            finetuning.fine_tune,
            strategy,
            {role: artifacts.path(id_) for role, id_ in inputs.items()},
            campaign.labels.level_of_theory,
            said,
            work,
            on_progress=progress(f"fine-tune {strategy.kind}", epochs(strategy.optimisation.epochs)),
        )
        return fitted(files, name, said)

    return _trained(
        "fine_tune", strategy.model_dump(mode="json"), inputs, compute, strategy.optimisation.seed
    )


@task
def label_for_student(campaign: Campaign, teacher: str, train: str, dynamics: str) -> str:
    """The id of the structures that the teacher labelled for its student."""
    plan = campaign.student
    inputs = {"teacher": teacher, "train": train, "dynamics": dynamics}

    def compute(work: Path) -> dict[str, Output]:
        path = in_child(
            distillation.label_pool,
            *(artifacts.path(id_) for id_ in inputs.values()),
            plan.n_structures,
            plan.rattle,
            plan.seed,
            work,
        )
        said = heritage(
            inputs, ("teacher",), f"{campaign.name}-teacher-labels", campaign.labels.level_of_theory
        )
        return {"labels": Output(path=path, kind="dataset", name=said["name"], metadata=said)}

    parameters = plan.model_dump(include={"n_structures", "rattle"})
    return once("label_for_student", 1, parameters, inputs, compute, seed=plan.seed).outputs["labels"]


@task
def distil(campaign: Campaign, inputs: Mapping[str, str]) -> Mapping[str, str]:
    """Ids of the student's checkpoint and history; `inputs` are teacher, train, valid, teacher_labels."""
    plan: StudentPlan = campaign.student
    name = f"{campaign.name}-student"

    def compute(work: Path) -> dict[str, Output]:
        files = {role: artifacts.path(id_) for role, id_ in inputs.items()}
        said = heritage(inputs, ("teacher", "train"), name, campaign.labels.level_of_theory)
        made = in_child(
            distillation.distil,
            plan.architecture,
            plan.optimisation,
            files.pop("teacher"),
            files,
            said,
            work,
            on_progress=progress("distil", epochs(plan.optimisation.epochs)),
        )
        return fitted(made, name, said)

    parameters = plan.model_dump(mode="json", include={"architecture", "optimisation"})
    return _trained("distil", parameters, inputs, compute, plan.optimisation.seed)


def _trained(
    kind: str, parameters: dict[str, Any], inputs: Mapping[str, str], compute: Any, seed: int
) -> Mapping[str, str]:
    done: Done = once(kind, 1, parameters, inputs, compute, seed=seed)
    return done.outputs


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
        values = {part for a in ancestors for part in str(a.get(key, "")).split("; ") if part}
        said[key] = "; ".join(sorted(values))
    return said
