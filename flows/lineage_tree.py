"""A lineage as a tree on the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.tree import Tree

if TYPE_CHECKING:
    from db.lineage import Node, Step
    from db.retractions import Retraction

SHOWN_PARAMETERS = 10


def draw(node: "Node", tainted: Mapping[str, "Retraction"], tree: Tree | None = None) -> Tree:
    """A node of a lineage as a branch, below it what it was made from."""
    artifact = node.artifact
    role = f"[dim]{escape(node.role)}:[/] " if node.role else ""
    lines = [f"{role}[bold]{escape(artifact.kind)}[/] {escape(artifact.name)} [cyan]{artifact.id[:12]}[/]"]
    facts = [
        str(artifact.metadata[key]) for key in ("level_of_theory", "licence") if key in artifact.metadata
    ]
    if artifact.id in tainted:
        lines.append(f"[bold red]{escape(tainted[artifact.id].about(artifact.id))}[/]")
    if node.repeated:
        lines[0] += " [dim](shown above)[/]"
    else:
        lines += [f"[dim]{escape(line)}[/]" for line in (" · ".join(facts), _origin(node)) if line]
    drawn = Tree("\n".join(lines)) if tree is None else tree.add("\n".join(lines))
    for parent in node.parents:
        draw(parent, tainted, drawn)
    return drawn


def _origin(node: "Node") -> str:
    """Who made it, when, and how."""
    step = node.step
    if step is None:
        return f"imported by {node.artifact.created_by}, {node.artifact.created_at:%Y-%m-%d %H:%M} UTC"
    parts = [f"{step.kind} v{step.version}"]
    if step.seed is not None:
        parts.append(f"seed {step.seed}")
    parts.append(f"{step.user}@{step.host}")
    if step.finished_at is not None and step.seconds is not None:
        parts.append(f"{step.finished_at:%Y-%m-%d %H:%M} UTC, {step.seconds:.0f} s")
    return " · ".join(parts) + _parameters(step)


def _parameters(step: "Step") -> str:
    flat = dict(_flatten(step.parameters))
    shown = [f"{name}={value}" for name, value in list(flat.items())[:SHOWN_PARAMETERS]]
    if len(flat) > SHOWN_PARAMETERS:
        shown.append(f"and {len(flat) - SHOWN_PARAMETERS} more (--json)")
    return "\n" + ", ".join(shown) if shown else ""


def _flatten(parameters: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{prefix}{name}.")
        else:
            flat.append((prefix + name, value))
    return flat
