"""The foundation of a campaign, as a checkpoint on record."""

from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import task

from db import artifacts, trust
from db.errors import ProvenanceError
from db.steps import Output
from models import foundation
from models.campaign import Campaign, FoundationChoice
from models.checkpoints import foundation_of, header
from tasks.children import in_child
from tasks.records import Kind, Recipe, checkpoint, made


@task(name="resolve foundation", task_run_name="resolve-foundation")
def resolve_foundation(choice: FoundationChoice) -> str:
    """The id of the foundation's checkpoint; one head is chosen where it has several."""
    file = foundation.locate(choice.name)
    if file is not None and file.suffix == ".safetensors" and foundation_of(file) is not None:
        with TemporaryDirectory() as scratch:  # a change of something else does not stand on its own
            whole = in_child(
                foundation.save_resolved, choice.name, choice.head, Path(scratch), None, choice.adopt
            )
            return artifacts.import_file(whole, "foundation", file.stem, known(whole)).id
    as_it_is = file is not None and file.suffix == ".safetensors" and not choice.adopt
    if file is not None and as_it_is and len(header(file)["level_of_theory"]) == 1:
        return artifacts.import_file(file, "foundation", file.stem, known(file)).id
    foundation.admit(choice.name, trust.trusted)  # before a copy of it is kept
    source = {} if file is None else {"file": artifacts.import_file(file, "model-file", file.name).id}

    asked = choice.model_dump(exclude=set() if choice.adopt else {"adopt"})
    recipe = Recipe(parameters=asked, inputs=source, names={"foundation": choice.name})
    return made(RESOLVE_FOUNDATION, recipe)["foundation"]


@task(name="resolve teacher", task_run_name="resolve-teacher")
def resolve_teacher(campaign: Campaign, teacher: str) -> str:
    """The id of a checkpoint that is to teach: a file, one on record, or (empty) the campaign's champion.

    Raises UnknownArtifact where there is none, and ProvenanceError where what is found is no checkpoint, or
    one of another level of theory than the campaign's labels.
    """
    if Path(teacher).is_file():
        found = artifacts.get(resolve_foundation.fn(FoundationChoice(name=teacher)))
    else:
        found = checkpoint(teacher or f"{campaign.name}@champion")
    described = header(artifacts.path(found.id))
    level = described["level_of_theory"][described["architecture"]["heads"][-1]]
    if level != campaign.labels.level_of_theory:
        raise ProvenanceError(
            f"{artifacts.titled(found)} is of the level {level}, and the labels of {campaign.name} are of "
            f"{campaign.labels.level_of_theory}; a student learns one level: take another teacher"
        )
    return found.id


def _resolve(recipe: Recipe, work: Path) -> dict[str, Output]:
    given = recipe.parameters
    name = str(recipe.imported("file", work)) if "file" in recipe.inputs else given["name"]
    trusted = foundation.admit(name, trust.trusted)
    adopt = given.get("adopt")
    path = in_child(foundation.save_resolved, name, given["head"], work, trusted, adopt)
    said = recipe.names["foundation"]
    return {"foundation": Output(path=path, kind="foundation", name=said, metadata=known(path))}


RESOLVE_FOUNDATION = Kind(name="resolve_foundation", version=1, compute=_resolve)


def known(file: Path) -> dict[str, str]:
    """Level of theory, licence and whatever else a checkpoint says of itself."""
    described = header(file)
    levels = sorted(set(described["level_of_theory"].values()))
    return {"level_of_theory": ", ".join(levels), **described["provenance"]}
