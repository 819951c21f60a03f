"""The command that makes files of a checkpoint for other programs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flows.console import out

app = typer.Typer()


@app.command()
def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="REF_OR_FILE",
            help="An alias (nacl@engine), the beginning of an id, or a Temper checkpoint (.safetensors).",
        ),
    ],
    to: Annotated[Path, typer.Option(file_okay=False, help="The folder to write; new, or empty.")],
    formats: Annotated[
        str, typer.Option(help="Some of ase,torchscript,lammps,torch-sim; without it, all that can be had.")
    ] = "",
    head: Annotated[str | None, typer.Option(help="Which head, where the checkpoint has several.")] = None,
) -> None:
    """Write a potential for ASE, TorchScript, LAMMPS and torch-sim; every file is tried first."""
    from tasks.exporting import export_checkpoint

    asked = [name.strip() for name in formats.split(",") if name.strip()]
    exported = export_checkpoint(checkpoint, to.absolute(), asked, head)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("format", "file", "forces differ by, eV/Å"):
        table.add_column(name, overflow="fold")
    for made in exported.made:
        table.add_row(made.format, escape(made.file), f"{made.deviation.forces:.1e}")
    out.print(table)
    for reason in exported.left_out:
        out.print(f"Left out: {escape(reason)}")
    out.print(f"How to use them: {escape(str(exported.folder / 'README.md'))}")
