"""The `temper` command. Whatever is heavy is imported inside the command that needs it."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree
from typer.core import TyperGroup

from flows.server import ensure_server

if TYPE_CHECKING:
    from db.lineage import Node, Step

OURS = ("flows", "tasks", "models", "db")
SHOWN_PARAMETERS = 10
WIDE = 120  # columns

# A file or a pipe has no width of its own.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
err = Console(highlight=False, soft_wrap=True, stderr=True)


class Commands(TyperGroup):
    """Errors that this project raises on purpose are one line; the rest are defects, with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit code 1 after an error of ours."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in OURS:
                raise
            err.print(f"[bold red]Error:[/] {escape(str(error))}")
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=Commands,
    help="Fine-tune, validate, distil and promote MACE potentials, with complete provenance.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Campaign = Annotated[
    str, typer.Argument(help="A campaign that ships with Temper (nacl), or a path to a YAML file.")
]
Name = Annotated[str, typer.Argument(help="The name of a campaign, as nacl.")]
Labels = Annotated[
    Path | None, typer.Option(help="Use these labels (extended XYZ) in place of those of the campaign file.")
]
LevelOfTheory = Annotated[str | None, typer.Option(help="The level of theory of --labels, as MP2/cc-pVTZ.")]
Foundation = Annotated[str | None, typer.Option(help="Start from this foundation model: a name or a path.")]
Seed = Annotated[int | None, typer.Option(help="The seed of everything random.")]


@app.command()
def run(
    campaign: Campaign,
    labels: Labels = None,
    level_of_theory: LevelOfTheory = None,
    foundation: Foundation = None,
    seed: Seed = None,
) -> None:
    """Run a campaign. What an earlier run has finished is not computed again."""
    overrides = _given(labels=labels, level_of_theory=level_of_theory, foundation=foundation, seed=seed)
    from models.campaign import load_campaign

    load_campaign(campaign, **overrides)  # before anything is started
    url = ensure_server(out.print)
    out.print(f"Watch it at {url.removesuffix('/api')}/runs")
    from flows.finetune import finetune

    outcome = finetune(campaign, **overrides)
    out.print(_table(outcome["summary"]))
    out.print(f"\n{escape(outcome['verdict']['summary'])}")
    for reason in outcome["verdict"]["reasons"]:
        out.print(f"  {escape(reason)}")
    out.print(f"Report: {escape(outcome['report'])}")


@app.command()
def check(
    campaign: Campaign,
    labels: Labels = None,
    level_of_theory: LevelOfTheory = None,
    foundation: Foundation = None,
) -> None:
    """Check a campaign file, its labels and its foundation; nothing is started."""
    from models.campaign import load_campaign

    load_campaign(campaign, **_given(labels=labels, level_of_theory=level_of_theory, foundation=foundation))
    out.print(f"{escape(campaign)}: ready to run")


@app.command()
def lineage(
    ref: Annotated[str, typer.Argument(help="An alias (nacl@engine), or the beginning of an id.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything on record, as JSON.")] = False,
) -> None:
    """Show what something was made from, back to the labels and the foundation."""
    from db import artifacts
    from db.lineage import tree

    node = tree(artifacts.find(ref).id)
    if as_json:
        typer.echo(json.dumps(_plain(node), indent=2, ensure_ascii=False))
    else:
        out.print(_branch(node), soft_wrap=False)


@app.command()
def aliases() -> None:
    """List what is promoted."""
    from db import aliases, artifacts

    promoted = aliases.all()
    for alias in promoted:
        artifact = artifacts.get(alias.artifact_id)
        out.print(
            f"[bold]{alias.name}[/] {artifact.kind} {escape(artifact.name)} [cyan]{artifact.id[:12]}[/]"
        )
        when = f"since {alias.set_at:%Y-%m-%d %H:%M} UTC, by {alias.set_by}: {alias.reason}"
        out.print(f"  [dim]{escape(when)}[/]")
    if not promoted:
        out.print("Nothing is promoted yet.")


@app.command()
def revalidate(campaign: Name) -> None:
    """Check what a campaign has promoted: its bytes, and its acceptance on the pinned inputs."""
    url = ensure_server(out.print)
    out.print(f"Watch it at {url.removesuffix('/api')}/runs")
    from flows.revalidate import revalidate

    for line in revalidate([campaign]):
        out.print(escape(line))


@app.command()
def report(campaign: Name) -> None:
    """Print the path of a campaign's last report."""
    from db import artifacts

    typer.echo(artifacts.path(artifacts.find(f"{campaign}@report").id))


@app.command()
def verify() -> None:
    """Re-hash every file on record."""
    from db.verification import verify

    problems = verify()
    for problem in problems:
        out.print(f"[bold red]{problem.kind}[/] {escape(problem.detail)}")
    if problems:
        raise typer.Exit(1)
    out.print("Everything on record is there and unchanged.")


def _given(**overrides: Any) -> dict[str, Any]:
    """The options that were given; the flow's form takes paths as text."""
    return {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in overrides.items()
        if value is not None
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table that fits into 80 columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    first, *others = rows[0]
    table.add_column(first, vertical="bottom", overflow="fold")
    for name in others:
        table.add_column(name.replace(",", "").replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    return table


def _branch(node: "Node", tree: Tree | None = None) -> Tree:
    """A node of a lineage as a branch, below it what it was made from."""
    artifact = node.artifact
    role = f"[dim]{node.role}:[/] " if node.role else ""
    lines = [f"{role}[bold]{escape(artifact.kind)}[/] {escape(artifact.name)} [cyan]{artifact.id[:12]}[/]"]
    facts = [
        str(artifact.metadata[key]) for key in ("level_of_theory", "licence") if key in artifact.metadata
    ]
    if node.repeated:
        lines[0] += " [dim](shown above)[/]"
    else:
        lines += [f"[dim]{escape(line)}[/]" for line in (" · ".join(facts), _origin(node)) if line]
    branch = Tree("\n".join(lines)) if tree is None else tree.add("\n".join(lines))
    for parent in node.parents:
        _branch(parent, branch)
    return branch


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


def _plain(node: "Node") -> dict[str, Any]:
    """A node and all behind it in JSON's types."""
    step = node.step
    return {
        "role": node.role,
        **{name: getattr(node.artifact, name) for name in ("id", "kind", "name", "size", "created_by")},
        "created_at": node.artifact.created_at.isoformat(),
        "metadata": dict(node.artifact.metadata),
        "repeated": node.repeated,
        "step": None
        if step is None
        else {
            **{
                name: getattr(step, name)
                for name in ("key", "kind", "version", "seed", "seconds", "user", "host")
            },
            "flow_run_id": step.flow_run_id,
            "parameters": dict(step.parameters),
            "software": dict(step.software),
            "started_at": step.started_at.isoformat(),
            "finished_at": step.finished_at and step.finished_at.isoformat(),
        },
        "parents": [_plain(parent) for parent in node.parents],
    }
