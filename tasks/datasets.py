"""Labels, replay structures and reference trajectories, frozen on record."""

from collections.abc import Mapping
from pathlib import Path

from prefect import task

from db import artifacts
from db.steps import Output
from models import datasets, pseudolabels
from models.campaign import Campaign, Labels, ReferenceTrajectories, Replay
from models.datasets import Part
from models.strategies import TARGET_HEAD
from tasks.children import in_child
from tasks.records import recorded


@task(name="ingest labels", task_run_name="ingest-labels-{head}")
def ingest_labels(campaign: Campaign, head: str = TARGET_HEAD) -> Mapping[str, str]:
    """Ids of the parts train, valid, test and, where there are any, isolated atoms."""
    labels, _ = campaign.level(head)
    file = artifacts.import_file(labels.path, "labels", labels.path.name, terms(labels))

    def compute(work: Path) -> dict[str, Output]:
        parts = datasets.ingest(labels.path, labels.names, labels.units, campaign.split, work)
        return outputs(parts, prefix(campaign, head), terms(labels))

    rules = {
        "names": labels.names.model_dump(),
        "units": labels.units.model_dump(),
        "split": campaign.split.model_dump(),
    }
    return recorded("ingest_labels", 1, rules, {"labels": file.id}, compute, seed=campaign.split.seed)


@task(name="pseudolabel replay", task_run_name="pseudolabel-replay")
def pseudolabel_replay(replay: Replay, foundation_id: str) -> Mapping[str, str]:
    """Ids of the parts replay_train, replay_valid, replay_test; see `models.pseudolabels.replay_set`."""
    path = replay.file
    source = artifacts.import_file(path, "structures", path.name, replay.terms)
    model = artifacts.get(foundation_id)

    def compute(work: Path) -> dict[str, Output]:
        parts = in_child(
            pseudolabels.replay_set, artifacts.path(model.id), path, replay.n_structures, replay.seed, work
        )
        made = {key: model.metadata[key] for key in ("level_of_theory", "licence") if key in model.metadata}
        own = {"level_of_theory": replay.labels_level or "unknown"}
        found: dict[str, Output] = {}
        for name, part in parts.items():
            said = made if part.contents["labels_from"] == "foundation" else made | own
            found |= outputs({name: part}, model.name, said)
        return found

    inputs = {"foundation": model.id, "structures": source.id}
    parameters = {"n_structures": replay.n_structures, "labels_level": replay.labels_level}
    return recorded("pseudolabel_replay", 2, parameters, inputs, compute, seed=replay.seed)


@task(name="record reference", task_run_name="record-reference")
def record_reference(reference: ReferenceTrajectories) -> str:
    """The id of the reference trajectories."""
    said = reference.model_dump(include={"level_of_theory", "temperature", "licence"})
    return artifacts.import_file(reference.path, "trajectories", reference.path.name, said).id


def prefix(campaign: Campaign, head: str) -> str:
    """What the names of artifacts of this head begin with."""
    return campaign.name if head == TARGET_HEAD else f"{campaign.name}-{head}"


def terms(labels: Labels) -> dict[str, str]:
    """What travels with the labels to everything that is made from them."""
    return labels.model_dump(include={"level_of_theory", "licence", "citation"})


def outputs(parts: Mapping[str, Part], name_begins: str, said: Mapping[str, str]) -> dict[str, Output]:
    """Parts of a dataset as a step's outputs."""
    return {
        name: Output(
            path=part.path, kind="dataset", name=f"{name_begins}-{name}", metadata={**said, **part.contents}
        )
        for name, part in parts.items()
    }
