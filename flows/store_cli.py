"""Commands that keep the store in order, and carry parts of it to another one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.filesize import decimal
from rich.markup import escape

from flows.console import out

app = typer.Typer()


@app.command()
def gc(
    unreachable: Annotated[
        bool,
        typer.Option(
            "--unreachable", help="Also artifacts and steps that no alias rests on, now or in its history."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without asking.")] = False,
) -> None:
    """Show what nothing on record refers to, and remove it. Nothing younger than a day is touched."""
    from db import garbage

    found = garbage.find(unreachable=unreachable)
    _list("Files that nothing on record refers to", [(f.location, f.size) for f in found.files])
    _list("Copies that were cut off", [(f.location, f.size) for f in found.unfinished])
    folders = [(f"{folder.path}: {folder.reason}", folder.size) for folder in found.folders]
    _list("Scratch folders of steps that nobody computes", folders)
    artifacts = [(f"{a.kind} {a.name} {a.id[:12]}", a.size) for a in found.artifacts]
    _list("Artifacts that no alias rests on", artifacts)
    if found.steps:
        out.print(f"[bold]Steps that no alias rests on:[/] {len(found.steps)}")
    if not (found.files or found.unfinished or found.folders or found.artifacts or found.steps):
        out.print("There is nothing to remove.")
        return
    if not yes:
        typer.confirm(f"Remove all of this, {decimal(found.size)}?", abort=True)
    out.print(f"Removed {decimal(garbage.remove(found))}.")


@app.command()
def push(
    refs: Annotated[
        list[str], typer.Argument(metavar="REF...", help="Aliases (nacl@engine), or beginnings of ids.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="The archive to write.", dir_okay=False)],
) -> None:
    """Write artifacts, with everything they were made from, to one file that another store can pull."""
    from db import archives, artifacts

    pushed = archives.push([artifacts.find(ref).id for ref in refs], file)
    out.print(
        f"{escape(str(file))}, {decimal(pushed.size)}. Artifacts: {pushed.artifacts}, steps: {pushed.steps}."
    )
    if pushed.aliases:
        out.print(f"Aliases: {', '.join(pushed.aliases)}")


@app.command()
def pull(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="An archive that `temper push` wrote.")],
    aliases: Annotated[
        Literal["keep", "replace"] | None,
        typer.Option(help="What becomes of aliases that stand for something else here."),
    ] = None,
) -> None:
    """Take an archive in: every file is checked, and its steps count as done here."""
    from db import archives

    entered = archives.pull(file, aliases)
    out.print(f"New artifacts: {entered.artifacts}, new steps: {entered.steps}.")
    if entered.aliases:
        out.print(f"Aliases set: {', '.join(entered.aliases)}")
    if entered.kept:
        out.print(f"Aliases kept as they are here: {', '.join(entered.kept)}")
    for name, reason in entered.blocked.items():
        out.print(f"[bold red]{name} is not set:[/] {escape(reason)}")


def _list(title: str, parts: Iterable[tuple[str, int]]) -> None:
    """Parts of the garbage, each with its size, the largest first."""
    rows = sorted(parts, key=lambda part: -part[1])
    if rows:
        out.print(f"[bold]{title}:[/] {len(rows)}, {decimal(sum(size for _, size in rows))}")
    for label, size in rows:
        out.print(f"  {decimal(size):>9}  {escape(label)}")
