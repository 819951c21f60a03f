"""The command that computes a lineage again."""

from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from flows.console import out

if TYPE_CHECKING:
    from tasks.reproduction import Outcome

app = typer.Typer()

COLOURS = {"identical": "green", "equal within tolerance": "yellow"}


@app.command()
def reproduce(
    ref: Annotated[
        str, typer.Argument(help="A checkpoint: an alias (nacl@engine), or the beginning of an id.")
    ],
    keep: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Compute in this empty folder, as TEMPER_HOME, and leave it there."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Largest difference, relative to the range of the array it is in, that counts as rounding; "
            "1e-4 where it is not given.",
        ),
    ] = None,
) -> None:
    """Compute everything behind a checkpoint again in a clean store, and compare it with the record.

    Exit code 0: identical, or equal within tolerance. 1: different, or it cannot be computed again.
    """
    from db import artifacts
    from tasks import reproduction
    from tasks.reproduction_plan import prepare

    target = artifacts.find(ref)
    with TemporaryDirectory(prefix="temper-reproduce-") if keep is None else nullcontext(keep) as home:
        plan = prepare(target.id)
        for warning in plan.warnings:
            out.print(f"[yellow]Warning:[/] {escape(warning)}")
        then = sum(step.seconds or 0.0 for step in plan.steps)
        out.print(f"{escape(target.kind)} {escape(target.name)} [cyan]{target.id[:12]}[/]")
        out.print(f"Steps to compute again: {len(plan.steps)}; they took {then:.0f} s.")
        within = reproduction.TOLERANCE if tolerance is None else tolerance
        result = reproduction.reproduce(plan, Path(home).absolute(), within, _show)
    for name, (values, now) in result.environment.items():
        told = " or ".join("not on record" if value is None else str(value) for value in values)
        shown = "on record" if isinstance(now, dict) else now
        out.print(f"  [dim]{escape(f'{name}: {told} then, {shown} now')}[/]")
    if (first := result.first_difference) is not None:
        out.print(f"First difference: {escape(first.kind)} {escape(first.name)}")
    if keep is not None:
        out.print(f"What was computed is in {escape(str(keep))} (TEMPER_HOME).")
    out.print(f"Verdict: {_coloured(result.verdict)}")
    if result.verdict not in COLOURS:
        raise typer.Exit(1)


def _show(outcome: "Outcome") -> None:
    seconds = f"{outcome.then:.1f} s then, {outcome.now:.1f} s now"
    inputs = ", on inputs that had come out differently" if outcome.on_new_inputs else ""
    title = escape(f"{outcome.kind} {outcome.name}")
    out.print(f"{title}: {_coloured(outcome.verdict)}{inputs} [dim]({seconds})[/]")
    for detail in outcome.details:
        out.print(f"  {escape(detail)}")


def _coloured(verdict: str) -> str:
    return f"[bold {COLOURS.get(verdict, 'red')}]{verdict}[/]"
