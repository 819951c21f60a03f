"""What changed between two checkpoints, by name, on record or in files."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from db import artifacts
from models import differences, foundation
from models.pattern import pattern
from models.weight_labels import labels
from tasks.records import checkpoint


def compare(
    before: str, after: str, *, with_pattern: bool = False, elements: Collection[str] | None = None
) -> dict[str, Any]:
    """The difference of two checkpoints as JSON, `with_pattern` also where in the network it lies.

    Each is named by alias, id, path, or as a foundation that ships with Temper. Of `elements`, where given,
    only the weights that belong to them are looked at for the pattern.

    Raises ValueError on an element that the network has no weights of, and what `checkpoint` and
    `models.differences` raise.
    """
    compared = differences.of_files(_file(before), _file(after))
    found = differences.difference(compared)
    said: dict[str, Any] = {
        "before": before,
        "after": after,
        "weights": found.weights,
        "changed": found.changed,
        "share": found.share,
        **asdict(found),
    }
    if with_pattern:
        said["pattern"] = _pattern(compared, elements)
    return said


def _pattern(compared: differences.Pair, elements: Collection[str] | None) -> Mapping[str, Any]:
    known = labels(compared.network)
    symbols = {s for one in known.values() if "element" in one for s in one["element"].names}
    if unknown := sorted(set(elements or ()) - symbols):
        raise ValueError(f"no weights belong to {', '.join(unknown)}; there are {', '.join(sorted(symbols))}")
    found = pattern(compared.changed(), known, elements)
    groups = [
        {
            **asdict(group),
            "share": group.share,
            "stands_out": group.stands_out,
            "listed": group in found.listed,
        }
        for group in found.groups
    ]
    return {**asdict(found), "share": found.share, "sparse": found.sparse, "groups": groups}


def _file(what: str) -> Path:
    path = foundation.shipped().get(what, Path(what))
    return path if path.is_file() else artifacts.path(checkpoint(what).id)
