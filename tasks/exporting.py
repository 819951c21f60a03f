"""Checkpoints, on record or in a file, as files that other programs run."""

from collections.abc import Sequence
from pathlib import Path

from db import artifacts, retractions
from models.exports import export
from models.exports.export import Exported
from tasks.records import checkpoint


class CannotExport(ValueError):
    """Something on record that is not exported; the message says why."""


def export_checkpoint(
    what: str, folder: Path, formats: Sequence[str] = (), head: str | None = None
) -> Exported:
    """Write a checkpoint, named by alias, id or path, to `folder` (see `models.exports.export`).

    Raises CannotExport where it is retracted or no file, and what `checkpoint` and `export` raise.
    """
    return export.export(_file(what), folder, formats, head)


def _file(what: str) -> Path:
    path = Path(what)
    if path.is_file():
        return path
    if path.suffix == ".safetensors":
        raise CannotExport(f"{path}: no such file")
    found = checkpoint(what)
    if (retraction := retractions.tainted(found.id)) is not None:
        raise CannotExport(f"{artifacts.titled(found)} is {retraction.about(found.id)}")
    return artifacts.path(found.id)
