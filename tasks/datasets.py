"""Labels, replay structures and reference trajectories, frozen on record."""

from collections.abc import Mapping
from pathlib import Path

from prefect import task

from db import artifacts
from db.errors import ConflictingMetadata
from db.steps import Output
from models import datasets, pseudolabels
from models.campaign import Campaign, Labels, Replay
from models.datasets import PARTS, Keys, Part, Splitting, Units
from models.strategies import TARGET_HEAD
from tasks.children import in_child
from tasks.records import Kind, Recipe, made

TERMS = ("level_of_theory", "licence", "citation")
"""What travels with labels to everything that is made from them."""


@task(name="ingest labels", task_run_name="ingest-labels-{head}")
def ingest_labels(campaign: Campaign, head: str = TARGET_HEAD) -> Mapping[str, str]:
    """Ids of the parts train, valid, test and, where there are any, isolated atoms.

    Raises ConflictingMetadata where the same labels are on record at another level of theory.
    """
    labels, _ = campaign.level(head)
    file = artifacts.import_file(labels.path, "labels", labels.path.name, terms(labels))
    recipe = Recipe(
        parameters={
            "names": labels.names.model_dump(),
            "units": labels.units.model_dump(),
            "split": campaign.split.model_dump(exclude_none=True),
            **({} if labels.repeated is None else {"repeated": labels.repeated}),
        },
        inputs={"labels": file.id},
        names={part: f"{prefix(campaign, head)}-{part}" for part in (*PARTS, "isolated")},
        seed=campaign.split.seed,
    )
    parts = made(INGEST_LABELS, recipe)
    for id_ in parts.values():
        part = artifacts.get(id_)
        if part.metadata["level_of_theory"] != labels.level_of_theory:
            raise ConflictingMetadata(
                f"{labels.path}: the same labels are on record as {artifacts.titled(part)} at "
                f"{part.metadata['level_of_theory']}, now {labels.level_of_theory} is given; correct the "
                "one that is wrong"
            )
    return parts


def _ingest(recipe: Recipe, work: Path) -> dict[str, Output]:
    given, said = recipe.parameters, recipe.input("labels").metadata
    parts = datasets.ingest(
        recipe.imported("labels", work),
        Keys.model_validate(given["names"]),
        Units.model_validate(given["units"]),
        Splitting.model_validate(given["split"]),
        work,
        given.get("repeated"),
    )
    return {
        role: _output(recipe, role, part, {key: said[key] for key in TERMS}) for role, part in parts.items()
    }


INGEST_LABELS = Kind(name="ingest_labels", version=1, compute=_ingest)


@task(name="pseudolabel replay", task_run_name="pseudolabel-replay")
def pseudolabel_replay(replay: Replay, foundation_id: str) -> Mapping[str, str]:
    """Ids of the parts replay_train, replay_valid, replay_test; see `models.pseudolabels.replay_set`."""
    source = artifacts.import_file(replay.file, "structures", replay.file.name, replay.terms)
    model = artifacts.get(foundation_id)
    roles = [f"{labels}_{part}" for labels in ("replay", "original") for part in PARTS]
    recipe = Recipe(
        parameters={"n_structures": replay.n_structures, "labels_level": replay.labels_level},
        inputs={"foundation": model.id, "structures": source.id},
        names={role: f"{model.name}-{role}" for role in roles},
        seed=replay.seed,
    )
    return made(PSEUDOLABEL_REPLAY, recipe)


def _pseudolabel(recipe: Recipe, work: Path) -> dict[str, Output]:
    given, model = recipe.parameters, recipe.input("foundation").metadata
    parts = in_child(
        pseudolabels.replay_set,
        recipe.file("foundation"),
        recipe.imported("structures", work),
        given["n_structures"],
        recipe.seed,
        work,
    )
    by_model = {key: model[key] for key in ("level_of_theory", "licence") if key in model}
    own = {"level_of_theory": given["labels_level"] or "unknown"}
    return {
        role: _output(
            recipe, role, part, by_model if part.contents["labels_from"] == "foundation" else by_model | own
        )
        for role, part in parts.items()
    }


PSEUDOLABEL_REPLAY = Kind(name="pseudolabel_replay", version=2, compute=_pseudolabel)


@task(name="record evidence", task_run_name="record-evidence")
def record_evidence(campaign: Campaign) -> Mapping[str, str]:
    """Ids by role of what the checks compare with: reference trajectories, minima, paths, crystals."""
    found = {}
    for role, section in campaign.comparable.items():
        said = section.model_dump(exclude={"path"})
        kind = "trajectories" if role == "reference" else "dataset"
        found[role] = artifacts.import_file(section.path, kind, section.path.name, said).id
    return found


def prefix(campaign: Campaign, head: str) -> str:
    """What the names of artifacts of this head begin with."""
    return campaign.name if head == TARGET_HEAD else f"{campaign.name}-{head}"


def terms(labels: Labels) -> dict[str, str]:
    """What is recorded of labels when they are imported."""
    return labels.model_dump(include=set(TERMS))


def _output(recipe: Recipe, role: str, part: Part, said: Mapping[str, str]) -> Output:
    """A part of a dataset as a step's output."""
    return Output(path=part.path, kind="dataset", name=recipe.names[role], metadata={**said, **part.contents})
