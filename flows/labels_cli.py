"""Commands for labels that somebody else's machines compute: what is waited for, and bringing it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flows.console import out

labels = typer.Typer(no_args_is_help=True, help="Labels that somebody else computes.")
app = typer.Typer()
app.add_typer(labels, name="labels")

SHOWN = 10  # lines of a list


@labels.command()
def waiting() -> None:
    """List the requests for labels that are open: what is there, and what is waited for."""
    from db.settings import settings
    from models.external.requests import FOLDER, requests
    from models.external.results import Inbox

    root = settings().home / FOLDER
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("request", "level of theory", "labels", "failed", "unfinished", "missing", "since"):
        table.add_column(name, overflow="fold")
    for request in requests(root):
        found = Inbox(request).look()
        if found.waiting:
            counts = [found.labels, found.failures, found.running, found.missing]
            table.add_row(
                request.folder.name,
                escape(request.level_of_theory),
                *(str(len(part)) for part in counts),
                f"{request.asked_at.astimezone():%Y-%m-%d %H:%M}",
            )
    if not table.rows:
        out.print("No labels are waited for.")
        return
    out.print(table)
    out.print(f"\nEach has a folder with a README in {escape(str(root))}")


@labels.command("import")
def import_(
    request: Annotated[str, typer.Argument(help="The name of a request, its beginning, or its folder.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Extended XYZ, outputs of VASP, ORCA, CP2K or Quantum ESPRESSO, or folders."),
    ] = None,
    level_of_theory: Annotated[
        str | None, typer.Option(help="What the results were computed at; has to be what is asked for.")
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(
            help="Of extended XYZ, if not eV and Å: energy,forces[,stress], as Hartree,Hartree/Bohr"
        ),
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="What is missing now will not come; it counts as failed.")
    ] = False,
) -> None:
    """Bring results: they are checked, matched, and copied to where they are waited for."""
    from db.agent import who
    from db.settings import settings
    from models.external.imports import bring, units_of
    from models.external.requests import FOLDER, find
    from models.external.results import Inbox

    if not files and not complete:
        raise typer.BadParameter("give files to import, or --complete where nothing more will come")
    asked = find(settings().home / FOLDER, request)
    taken = 0
    if files:
        brought = bring(asked, files, level_of_theory, units_of(units))
        taken = len(brought.labels) + len(brought.failures)
        out.print(f"Taken: {len(brought.labels)} labels, {len(brought.failures)} failures.")
        _list("Failed", [f"{id_}: {reason}" for id_, reason in brought.failures.items()])
        _list("[bold red]Not taken[/]", brought.problems)
    if complete:
        asked.give_up(Inbox(asked).look().waiting, f"{who()} said that it will not come")
    now = Inbox(asked).look()
    out.print(
        f"{asked.folder.name}: {len(now.labels)} of {len(asked.structures)} labels are there, "
        f"{len(now.failures)} failed, {len(now.waiting)} are waited for."
    )
    missing = [f"{id_} {asked.structures[id_].get_chemical_formula()}" for id_ in now.missing]
    _list("Missing", missing)
    _list("Unfinished", [f"{id_}: {came.where}" for id_, came in now.running.items()])
    if files and not taken:
        raise typer.Exit(1)


def _list(title: str, lines: Sequence[str]) -> None:
    """A few lines under a title, and how many more there are."""
    if lines:
        out.print(f"{title}:")
    for line in lines[:SHOWN]:
        out.print(f"  {escape(line)}")
    if len(lines) > SHOWN:
        out.print(f"  and {len(lines) - SHOWN} more")
