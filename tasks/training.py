"""E0s and candidates."""

import json
from collections.abc import Mapping
from pathlib import Path

from prefect import task

from db import artifacts, licences
from db.artifacts import NEEDS
from db.steps import Output
from models import checkpoints, e0s, finetuning
from models.campaign import Campaign
from models.e0s import E0Policy
from models.strategies import STRATEGY, TARGET_HEAD, AnyStrategy
from tasks.children import in_child
from tasks.datasets import prefix
from tasks.progress import training
from tasks.records import Kind, Recipe, made


@task(name="refit E0s", task_run_name="refit-e0s-{head}")
def refit_e0s(campaign: Campaign, foundation: str, data: Mapping[str, str], head: str = TARGET_HEAD) -> str:
    """The id of the E0s of this head's level of theory."""
    _, policy = campaign.level(head)
    inputs = {"foundation": foundation}
    inputs |= {role: data[role] for role in ("train", "valid", "isolated") if role in data}
    names = {"e0s": f"{prefix(campaign, head)}-e0s"}
    return made(REFIT_E0S, Recipe(parameters=policy.model_dump(), inputs=inputs, names=names))["e0s"]


def _refit(recipe: Recipe, work: Path) -> dict[str, Output]:
    files = recipe.files()
    policy = E0Policy.model_validate(recipe.parameters)
    path, fit = in_child(
        e0s.refit_file,
        files["foundation"],
        files["train"],
        files.get("isolated"),
        policy,
        work,
        files.get("valid"),
    )
    said = {
        "policy": fit.policy,
        "rank": f"{fit.rank} of {fit.n_elements}",
        "null_space": fit.null_space,
        "level_of_theory": _level(recipe),
    }
    return {"e0s": Output(path=path, kind="e0s", name=recipe.names["e0s"], metadata=said)}


REFIT_E0S = Kind(name="refit_e0s", version=2, compute=_refit)


@task(name="fine-tune", task_run_name="fine-tune-{strategy.name}")
def fine_tune(
    campaign: Campaign,
    strategy: AnyStrategy,
    inputs: Mapping[str, str],
    keep_state: bool = False,
    goes_on_from: str | None = None,
) -> Mapping[str, str]:
    """Ids of a candidate's checkpoint and history and, where it was computed to `keep_state`, of its state.

    `inputs` by role (see `models.finetuning`); those of a further head are called `head.role`.
    `goes_on_from` is the state of the same training with fewer epochs: as after a kill, it changes when the
    training is done, and not what it is.
    """
    names = checkpoint_names(f"{campaign.name}-{strategy.name}")
    recipe = Recipe(
        parameters=strategy.model_dump(mode="json"),
        inputs=inputs,
        names=names | ({"state": f"{names['checkpoint']}-state"} if keep_state else {}),
        seed=strategy.optimisation.seed,
    )
    return made(FINE_TUNE, recipe, goes_on_from=goes_on_from and artifacts.path(goes_on_from))


def _fine_tune(recipe: Recipe, work: Path, goes_on_from: Path | None = None) -> dict[str, Output]:
    strategy = STRATEGY.validate_python(recipe.parameters)
    # Sorted: the record knows the heads, not in which order somebody wrote them down.
    heads = sorted(head for role in recipe.inputs if (head := role.removesuffix(".train")) != role)
    said = heritage(recipe, ("foundation", "train", *(f"{head}.train" for head in heads)))
    files = recipe.files()
    further = {
        head: finetuning.FurtherTarget(
            **{role: files.pop(f"{head}.{role}") for role in ("train", "valid", "e0s")},
            level_of_theory=_level(recipe, f"{head}.train"),
        )
        for head in heads
    }
    total = strategy.optimisation.epochs
    shown = (f"fine-tune {strategy.name}", said["name"], work.name, recipe.parameters, total)
    with training(*shown) as show:
        files = in_child(
            finetuning.fine_tune,
            strategy,
            files,
            said["level_of_theory"],
            said,
            work,
            further=further,
            goes_on_from=goes_on_from,
            compact=True,
            on_progress=show,
        )
    return fitted(files, recipe, said)


FINE_TUNE = Kind(name="fine_tune", version=2, compute=_fine_tune)


def checkpoint_names(checkpoint: str) -> dict[str, str]:
    """What a checkpoint and its history are called."""
    return {"checkpoint": checkpoint, "history": f"{checkpoint}-history"}


def _level(recipe: Recipe, role: str = "train") -> str:
    """The level of theory of a dataset."""
    return str(recipe.input(role).metadata["level_of_theory"])


def fitted(files: Mapping[str, Path], recipe: Recipe, said: dict[str, str]) -> dict[str, Output]:
    """A checkpoint, its history and, where the recipe names it, the training's state as outputs."""
    cost = json.loads(files["cost"].read_text(encoding="utf-8"))
    base = checkpoints.foundation_of(files["checkpoint"])
    known = {
        "checkpoint": ("checkpoint", said if base is None else {**said, NEEDS: base}),
        "history": ("history", cost),
        "state": ("training-state", {}),
    }
    return {
        role: Output(path=files[role], kind=known[role][0], name=name, metadata=known[role][1])
        for role, name in recipe.names.items()
    }


def heritage(recipe: Recipe, roles: tuple[str, ...], output: str = "checkpoint") -> dict[str, str]:
    """Name and level of theory of an output, and the licences and citations of the inputs in `roles`."""
    said = {"name": recipe.names[output], "level_of_theory": _level(recipe)}
    ancestors = [recipe.input(role).metadata for role in roles]
    for key in ("licence", "citation"):
        values = {part for a in ancestors for part in licences.separate(str(a.get(key, "")))}
        said[key] = licences.SEPARATOR.join(sorted(values))
    return said
