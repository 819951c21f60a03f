"""Commands that ask the record what was made from what, under which terms, and what must not be used."""

from collections.abc import Mapping
from enum import StrEnum
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from flows import structure_cli
from flows.console import WIDE, out
from flows.facts import facts, json_text, mark, plain_step, title
from flows.lineage_tree import draw

if TYPE_CHECKING:
    from db.artifacts import Artifact
    from db.lineage import Lineage, Node
    from db.retractions import Retraction

app = typer.Typer()
app.add_typer(structure_cli.app)

Ref = Annotated[str, typer.Argument(help="An alias (nacl@engine), or the beginning of an id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Everything on record, as JSON.")]


class Format(StrEnum):
    """What `temper lineage` can write."""

    tree = "tree"
    json = "json"
    mermaid = "mermaid"
    dot = "dot"
    prov = "prov"
    ro_crate = "ro-crate"


@app.command()
def lineage(
    ref: Ref,
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="mermaid and dot (Graphviz) are diagrams; prov is W3C PROV-JSON; ro-crate is the "
            "ro-crate-metadata.json of an RO-Crate 1.1: metadata only, no data are copied.",
        ),
    ] = Format.tree,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write to this file instead of the terminal.")
    ] = None,
) -> None:
    """Show what something was made from, back to the labels and the foundation."""
    from db import artifacts, exports, retractions
    from db.lineage import ancestors, tree

    id_ = artifacts.find(ref).id
    tainted = retractions.all_tainted()
    shown: Tree | str
    match Format.json if as_json else form:
        case Format.tree:
            shown = draw(tree(id_), tainted)
        case Format.json:
            shown = json_text(_plain(tree(id_), tainted))
        case Format.mermaid:
            shown = exports.mermaid(ancestors(id_), tainted)
        case Format.dot:
            shown = exports.dot(ancestors(id_), tainted)
        case Format.prov:
            shown = json_text(exports.prov(ancestors(id_), tainted))
        case Format.ro_crate:
            shown = json_text(exports.ro_crate(ancestors(id_), id_, tainted))
    if output is not None:
        _save(shown, output)
    elif isinstance(shown, str):
        typer.echo(shown)
    else:
        out.print(shown, soft_wrap=False)


@app.command()
def impact(ref: Ref, as_json: AsJson = False) -> None:
    """Show everything that was made from something, and the aliases that stand on it."""
    from db import aliases, artifacts, retractions
    from db.lineage import descendants

    source = artifacts.find(ref)
    graph = descendants(source.id)
    tainted = retractions.all_tainted()
    names: dict[str, list[str]] = {}
    for alias in aliases.all():
        names.setdefault(alias.artifact_id, []).append(alias.name)
    made = sorted(graph.artifacts.values(), key=lambda a: (a.id != source.id, a.created_at, a.id))
    if as_json:
        typer.echo(json_text([_descendant(artifact, graph, tainted, names) for artifact in made]))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("kind", "name", "id", "made by", "aliases", ""):
        table.add_column(column, overflow="fold")
    for artifact in made:
        key = graph.made_by.get(artifact.id)
        table.add_row(
            escape(artifact.kind),
            escape(artifact.name),
            f"[cyan]{artifact.id[:12]}[/]",
            escape(graph.steps[key].kind) if key else "",
            ", ".join(names.get(artifact.id, [])),
            f"[bold red]{mark(artifact, tainted)}[/]",
        )
    out.print(table, soft_wrap=False)
    n_made, n_names = len(made) - 1, sum(len(names.get(artifact.id, [])) for artifact in made)
    out.print(f"Made from it: {n_made}. Aliases that stand on it: {n_names}.")


@app.command()
def aliases() -> None:
    """List what is promoted."""
    from db import aliases, artifacts, retractions

    promoted = aliases.all()
    for alias in promoted:
        artifact = artifacts.get(alias.artifact_id)
        out.print(f"[bold]{alias.name}[/] {title(artifact)}")
        when = f"since {alias.set_at:%Y-%m-%d %H:%M} UTC, by {alias.set_by}: {alias.reason}"
        out.print(f"  [dim]{escape(when)}[/]")
        if (retraction := retractions.tainted(artifact.id)) is not None:
            out.print(f"  [bold red]{escape(retraction.about(artifact.id))}[/]")
    if not promoted:
        out.print("Nothing is promoted yet.")


@app.command()
def retract(
    ref: Ref, reason: Annotated[str, typer.Option(help="What is wrong with it; kept on record.")]
) -> None:
    """Say that something must not be used. Neither it nor anything made from it can be promoted any more."""
    from db import aliases, artifacts, retractions
    from db.lineage import descendants

    artifact = artifacts.find(ref)
    retractions.retract(artifact.id, reason)
    below = descendants(artifact.id).artifacts
    out.print(
        f"Retracted: {title(artifact)}. Made from it: {len(below) - 1} (temper impact {artifact.id[:12]})."
    )
    standing = [alias for alias in aliases.all() if alias.artifact_id in below]
    if standing:
        out.print("[bold red]These aliases stand on it until something else is promoted:[/]")
    for alias in standing:
        out.print(f"  [bold]{alias.name}[/] {title(below[alias.artifact_id])}")


@app.command()
def reinstate(
    ref: Ref, reason: Annotated[str, typer.Option(help="Why it is sound after all; kept on record.")] = ""
) -> None:
    """Take a retraction back. It stays on record, together with who took it back."""
    from db import artifacts, retractions

    artifact = artifacts.find(ref)
    retractions.reinstate(artifact.id, reason)
    out.print(f"Reinstated: {title(artifact)}.")
    upstream = retractions.tainted(artifact.id)
    if upstream is not None:
        out.print(f"[bold red]It is still {escape(upstream.about(artifact.id))}[/]")


@app.command()
def licence(
    ref: Ref,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Only the citations, as BibTeX entries.")] = False,
) -> None:
    """List the licences and citations behind something, with what brought each of them in."""
    from db import artifacts, licences

    terms = licences.upstream(artifacts.find(ref).id)
    if bibtex:
        typer.echo(licences.bibtex(terms))
        return
    for term in terms:
        out.print(title(term.artifact))
        for text in term.licences:
            out.print(f"  licence: {escape(text)}")
        for text in term.citations:
            out.print(f"  [dim]cite: {escape(text)}[/]")
        if not term.artifact.metadata.get("licence"):
            out.print("  [yellow]states no licence[/]")


def _descendant(
    artifact: "Artifact",
    graph: "Lineage",
    tainted: Mapping[str, "Retraction"],
    names: Mapping[str, list[str]],
) -> dict[str, Any]:
    """A row of an impact in JSON's types."""
    key = graph.made_by.get(artifact.id)
    return {
        **facts(artifact, tainted),
        "aliases": names.get(artifact.id, []),
        "step": plain_step(graph.steps[key]) if key else None,
        "made_from": [edge.artifact_id for edge in graph.used[key]] if key else [],
    }


def _plain(node: "Node", tainted: Mapping[str, "Retraction"]) -> dict[str, Any]:
    """A node and all behind it in JSON's types."""
    return {
        "role": node.role,
        **facts(node.artifact, tainted),
        "repeated": node.repeated,
        "step": node.step and plain_step(node.step),
        "parents": [_plain(parent, tainted) for parent in node.parents],
    }


def _save(shown: Tree | str, output: Path) -> None:
    if isinstance(shown, Tree):
        page = StringIO()
        Console(file=page, width=WIDE, highlight=False, emoji=False).print(shown)
        shown = page.getvalue().rstrip("\n")
    try:
        output.write_text(shown + "\n", encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{output} cannot be written: {error.strerror}") from None
