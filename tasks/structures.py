"""What is inside a campaign's datasets, put on record: each structure, and how its label was made."""

from collections.abc import Mapping

from prefect import task

from db import artifacts, labels, structures
from db.labels import Calculation
from models import datasets
from models.campaign import Campaign, Labels
from models.labels import TOLERANCE


@task(name="record labels", task_run_name="record-labels")
def record_labels(campaign: Campaign, data: Mapping[str, Mapping[str, str]]) -> None:
    """Enter the structures and labels of `data`, the parts of each head.

    ConflictingLabels: a structure has another label at the same level of theory in a dataset on record.
    """
    for head, parts in data.items():
        made = calculation(campaign.level(head)[0])
        for id_ in parts.values():
            _record(id_, made)


@task(name="record replay", task_run_name="record-replay")
def record_replay(
    replay: Mapping[str, str], foundation_id: str, data: Mapping[str, Mapping[str, str]]
) -> None:
    """Enter the structures and labels of the replay set, beside those of `data`, the parts of each head.

    OverlappingDatasets: a structure would be trained on in one part and tested on in another.
    """
    for id_ in replay.values():
        _record(id_, _of_replay(id_, foundation_id))
    parts_of_all = [*data.values(), replay]
    structures.check_disjoint(_in_role(parts_of_all, "train", "valid"), _in_role(parts_of_all, "test"))


def calculation(given: Labels) -> Calculation:
    """How labels were made, as far as the campaign says."""
    known = given.calculator
    if known is None:
        return Calculation(level_of_theory=given.level_of_theory)
    return Calculation(
        level_of_theory=given.level_of_theory,
        calculator=known.name,
        version=known.version,
        settings=known.settings,
    )


def _of_replay(id_: str, foundation_id: str) -> Calculation:
    said = artifacts.get(id_).metadata
    level = said.get("level_of_theory", "unknown")
    known = None if level == "unknown" else level
    if said["labels_from"] == "reference":
        return Calculation(level_of_theory=known)
    model = artifacts.get(foundation_id)
    return Calculation(level_of_theory=known, calculator=model.name, model_id=model.id)


def _record(id_: str, made: Calculation) -> None:
    labels.record(id_, made, datasets.entries(artifacts.path(id_)), tolerance=TOLERANCE)


def _in_role(parts: list[Mapping[str, str]], *roles: str) -> list[str]:
    """Ids of the parts whose role ends so, as replay_test does."""
    return [id_ for part in parts for role, id_ in part.items() if role.split("_")[-1] in roles]
