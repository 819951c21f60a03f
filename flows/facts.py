"""How commands say what is on record: for the terminal, and as JSON."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape

if TYPE_CHECKING:
    from db.artifacts import Artifact
    from db.lineage import Step
    from db.retractions import Retraction


def title(artifact: "Artifact") -> str:
    """Kind, name and id for the terminal."""
    return f"{escape(artifact.kind)} {escape(artifact.name)} [cyan]{artifact.id[:12]}[/]"


def mark(artifact: "Artifact", tainted: Mapping[str, "Retraction"]) -> str:
    """Whether an artifact must not be used: ``retracted`` itself, ``tainted``, or empty."""
    if artifact.id not in tainted:
        return ""
    return "retracted" if tainted[artifact.id].artifact.id == artifact.id else "tainted"


def facts(artifact: "Artifact", tainted: Mapping[str, "Retraction"]) -> dict[str, Any]:
    """What is on record of an artifact, in JSON's types."""
    return {
        **{name: getattr(artifact, name) for name in ("id", "kind", "name", "size", "created_by")},
        "created_at": artifact.created_at.isoformat(),
        "metadata": dict(artifact.metadata),
        "tainted": tainted[artifact.id].about(artifact.id) if artifact.id in tainted else None,
    }


def plain_step(step: "Step") -> dict[str, Any]:
    """A step in JSON's types."""
    return {
        **{
            name: getattr(step, name)
            for name in ("key", "kind", "version", "seed", "seconds", "user", "host", "flow_run_id")
        },
        "parameters": dict(step.parameters),
        "software": dict(step.software),
        "started_at": step.started_at.isoformat(),
        "finished_at": step.finished_at and step.finished_at.isoformat(),
    }


def json_text(value: Any) -> str:
    """JSON for a person to read."""
    return json.dumps(value, indent=2, ensure_ascii=False)
