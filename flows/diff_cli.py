"""The command that shows what changed between two checkpoints."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from flows.console import out

app = typer.Typer()

Checkpoint = Annotated[
    str, typer.Argument(help="An alias (nacl@champion), the beginning of an id, a file, or temper-gfn1.")
]


@app.command()
def diff(
    before: Checkpoint,
    after: Checkpoint,
    pattern: Annotated[
        bool,
        typer.Option("--pattern", help="Also where in the network the changes lie, tested against chance."),
    ] = False,
    elements: Annotated[
        str, typer.Option(help="Look for the pattern only among the weights of these elements, as Fe,Co,Ni.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show which weights, E0s, heads and elements changed from one checkpoint to another."""
    from tasks.differences import compare

    asked = [symbol.strip() for symbol in elements.split(",") if symbol.strip()] or None
    found = compare(before, after, with_pattern=pattern or asked is not None, elements=asked)
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    out.print(_layers(found))
    out.print(f"\nChanged: {found['changed']} of {found['weights']} weights ({100 * found['share']:.3g} %).")
    for line in _said(found):
        out.print(escape(line))
    if "pattern" in found:
        out.print()
        out.print(_groups(found["pattern"]))
        out.print("* by chance in at most 5 % of cases, all groups taken together (--json has them all)")
        if found["pattern"]["left_out"]:
            out.print(f"Without weights of elements not trained: {', '.join(found['pattern']['left_out'])}.")


def _said(found: Mapping[str, Any]) -> list[str]:
    """E0s, heads, elements, levels of theory and constants, a line each where they changed."""
    lines = []
    for head, shifts in found["e0s"].items():
        moved = [f"{symbol} {shift:+.4f}" for symbol, shift in shifts.items() if shift]
        lines += [f"E0s of head {head}, eV: {', '.join(moved) if moved else 'unchanged'}."]
    for name in ("heads", "elements"):
        before, after = found[name]
        if list(before) != list(after):
            lines.append(f"{name.capitalize()}: {' '.join(before)} → {' '.join(after)}.")
    before, after = (sorted(set(levels.values())) for levels in found["level_of_theory"])
    if before != after:
        lines.append(f"Level of theory: {', '.join(before)} → {', '.join(after)}.")
    if found["constants"]:
        lines.append(f"Not trained, but different: {', '.join(found['constants'])}.")
    return lines


def _layers(found: Mapping[str, Any]) -> Table:
    table = _table("layer", "weights", "changed", "%", "largest change", "relative norm")
    for layer in found["layers"]:
        anew = layer["stored_anew"]
        table.add_row(
            escape(layer["name"]),
            str(layer["weights"]),
            str(layer["changed"]),
            f"{100 * layer['changed'] / layer['weights']:.3g}",
            "new or of another shape" if anew else _number(layer["largest"]),
            "" if anew else _number(layer["relative"]),
        )
    return table


def _groups(pattern: Mapping[str, Any]) -> Table:
    """The groups of dimensions with few of them, and those that stand out of the others."""
    table = _table("of", "group", "weights", "changed", "%", "times chance", "95 %", "p, adjusted")
    for group in pattern["groups"]:
        if not group["listed"]:
            continue
        interval = group["interval"]
        table.add_row(
            group["dimension"],
            escape(group["name"]) + (" *" if group["stands_out"] else ""),
            str(group["weights"]),
            str(group["changed"]),
            f"{100 * group['share']:.3g}",
            _number(group["enrichment"]),
            "–" if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}",
            _number(group["adjusted"]),
        )
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="left" if name == "group" else "right", overflow="fold")
    return table
