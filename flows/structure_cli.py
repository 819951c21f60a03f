"""The command that shows what is inside datasets: structures, and how their labels were made."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from flows.console import out
from flows.facts import facts, json_text, mark, title

if TYPE_CHECKING:
    from db.retractions import Retraction
    from db.structures import Dataset, Structure

app = typer.Typer()

Tainted = Mapping[str, "Retraction"]


@app.command()
def structure(
    refs: Annotated[
        list[str],
        typer.Argument(help="Beginnings of structure hashes, or datasets: aliases or beginnings of ids."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Everything on record, as JSON.")] = False,
) -> None:
    """Show where a structure is used and how its labels were made, or what is inside a dataset."""
    from db import artifacts, retractions, structures

    found: list[Structure | Dataset] = []
    for ref in refs:
        try:
            found.append(structures.find(ref))
        except structures.UnknownStructure:
            found.append(structures.inside(artifacts.find(ref).id))
    tainted = retractions.all_tainted()
    if as_json:
        plain = [
            _plain_structure(one, tainted) if isinstance(one, structures.Structure) else _plain(one, tainted)
            for one in found
        ]
        typer.echo(json_text(plain))
        return
    for one in found:
        if isinstance(one, structures.Structure):
            _show_structure(one, tainted)
        else:
            _show(one, tainted)


def _show_structure(it: "Structure", tainted: Tainted) -> None:
    out.print(f"structure {it.formula} [cyan]{it.hash[:12]}[/]: {it.n_atoms} atoms")
    rows = [
        (
            f"{label.energy:.6f}",
            escape(label.calculation.level_of_theory or "unknown"),
            escape(label.calculation.program or "unknown"),
            title(label.dataset),
            escape(f"{label.step} ({label.role})" if label.step else "imported"),
            f"[bold red]{mark(label.dataset, tainted)}[/]",
        )
        for label in it.labels
    ]
    _print_table(("energy (eV)", "level of theory", "calculator", "in", "made by", ""), rows)


def _show(it: "Dataset", tainted: Tainted) -> None:
    out.print(title(it.artifact))
    out.print(f"  {it.n_structures} structures in {it.n_frames} frames, {it.n_atoms} atoms in all structures")
    out.print(escape(f"  labels: {it.calculation}"))
    if it.artifact.id in tainted:
        out.print(f"  [bold red]{escape(tainted[it.artifact.id].about(it.artifact.id))}[/]")
    rows = [(str(n), title(other), f"[bold red]{mark(other, tainted)}[/]") for other, n in it.shared]
    _print_table(("shares structures", "with", ""), rows)


def _print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table, soft_wrap=False)


def _plain_structure(it: "Structure", tainted: Tainted) -> dict[str, Any]:
    labels = [
        {
            "energy": label.energy,
            "calculation": asdict(label.calculation),
            "dataset": facts(label.dataset, tainted),
            "step": label.step,
            "role": label.role,
        }
        for label in it.labels
    ]
    return {"hash": it.hash, "formula": it.formula, "n_atoms": it.n_atoms, "labels": labels}


def _plain(it: "Dataset", tainted: Tainted) -> dict[str, Any]:
    return {
        **facts(it.artifact, tainted),
        "calculation": asdict(it.calculation),
        "n_frames": it.n_frames,
        "n_structures": it.n_structures,
        "n_atoms": it.n_atoms,
        "shared": [{"n_structures": n, "dataset": facts(other, tainted)} for other, n in it.shared],
    }
