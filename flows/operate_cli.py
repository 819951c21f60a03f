"""`temper up`, `temper down`, `temper deploy` and `temper doctor`: Temper as a service."""

import json
import os
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from flows import service
from flows.console import out
from flows.server import ensure_server, running_server

app = typer.Typer()

Pool = Annotated[
    str | None,
    typer.Option(
        help="The work pool that runs everything: gpu, local-cpu, or one of yours. Default: what is here."
    ),
]


@app.command()
def up(
    pool: Pool = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="How many runs at once, without a GPU. Default: half the cores.")
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Let other machines reach the server; asks for a password.")
    ] = False,
) -> None:
    """Start the server, the deployments and the workers of this machine. Run it again at any time."""
    pool = pool or service.usual_pool()
    wanted = service.workers(pool, limit)
    url = ensure_server(out.print, shared=shared)
    _deploy(pool)
    from flows import automations, nights

    for line in automations.settle():
        out.print(f"Not finished when this was last stopped: {escape(line)}")
    for worker in wanted:
        started = service.start(worker)
        runs = "one run" if worker.limit == 1 else f"{worker.limit} runs"
        how = "started" if started else "runs already"
        out.print(f"Worker {escape(worker.full_name)} {how}: {runs} at once (log: {escape(str(worker.log))})")
    if night := nights.catch_up():
        out.print(f"The last night was missed and is caught up now: {escape(night.name)}")
    out.print(f"Start campaigns at {url.removesuffix('/api')}/deployments. To stop it all: temper down")


@app.command()
def down() -> None:
    """Stop the workers of this machine with what they run, and its server. What is finished is on record."""
    service.stop(out.print)


@app.command()
def deploy(pool: Pool = None) -> None:
    """Put the deployments on the server of PREFECT_API_URL, or of this machine, without any worker."""
    ensure_server(out.print)
    _deploy(pool or service.usual_pool())


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check whether Temper can work here, and say what to do where it cannot; exit code 1 then."""
    if api := running_server():
        os.environ["PREFECT_API_URL"] = api  # Prefect reads it when it is imported
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "0")
    from tasks.doctor import examine

    findings = examine(api)
    if as_json:
        typer.echo(json.dumps([{**asdict(finding), "ok": finding.ok} for finding in findings], indent=1))
    else:
        for finding in findings:
            mark = "[green]ok[/]" if finding.ok else "[bold red]✗[/] "
            out.print(f"{mark} {finding.subject}: {escape(finding.said)}")
            if not finding.ok:
                out.print(f"   → {escape(finding.advice)}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _deploy(pool: str) -> None:
    made = service.deploy(pool)
    from flows import automations, nights

    watching = [*automations.create_automations(), *nights.alarm_automations()]
    out.print(f"{made} deployments on the work pool {escape(pool)}, {len(watching)} automations")
