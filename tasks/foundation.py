"""The foundation of a campaign, as a checkpoint on record."""

from pathlib import Path

from prefect import task

from db import artifacts
from db.steps import Output
from models import foundation
from models.campaign import FoundationChoice
from models.potentials import header
from tasks.children import in_child
from tasks.records import recorded


@task(name="resolve foundation", task_run_name="resolve-foundation")
def resolve_foundation(choice: FoundationChoice) -> str:
    """The id of the foundation's checkpoint; one head is chosen where it has several."""
    file = foundation.locate(choice.name)
    if file is not None and file.suffix == ".safetensors" and len(header(file)["level_of_theory"]) == 1:
        return artifacts.import_file(file, "foundation", file.stem, known(file)).id
    source = {} if file is None else {"file": artifacts.import_file(file, "model-file", file.name).id}

    def compute(work: Path) -> dict[str, Output]:
        made = in_child(foundation.save_resolved, choice.name, choice.head, work)
        return {"foundation": Output(path=made, kind="foundation", name=choice.name, metadata=known(made))}

    return recorded("resolve_foundation", 1, choice.model_dump(), source, compute)["foundation"]


def known(file: Path) -> dict[str, str]:
    """Level of theory, licence and whatever else a checkpoint says of itself."""
    described = header(file)
    levels = sorted(set(described["level_of_theory"].values()))
    return {"level_of_theory": ", ".join(levels), **described["provenance"]}
