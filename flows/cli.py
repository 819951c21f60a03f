"""The `temper` command. Whatever is heavy is imported inside the command that needs it."""

import gc
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from flows import diff_cli, export_cli, labels_cli, operate_cli, records_cli, reproduce_cli, store_cli
from flows.console import err, out
from flows.server import ensure_server
from models.campaign_names import existing, find

OURS = ("flows", "tasks", "models", "db")

# What torch and Prefect bring is no garbage: to look through it takes a second of their imports.
gc.set_threshold(100_000, 20, 50)


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
app.add_typer(operate_cli.app)
app.add_typer(records_cli.app)
app.add_typer(store_cli.app)
app.add_typer(export_cli.app)
app.add_typer(diff_cli.app)
app.add_typer(labels_cli.app)
app.add_typer(reproduce_cli.app)

Campaign = Annotated[
    str, typer.Argument(help="A campaign that ships with Temper (nacl), or a path to a YAML file.")
]
Name = Annotated[str, typer.Argument(help="The name of a campaign, as nacl.")]
Labels = Annotated[
    Path | None, typer.Option(help="Use these labels (extended XYZ) in place of those of the campaign file.")
]
LevelOfTheory = Annotated[str | None, typer.Option(help="The level of theory of --labels, as MP2/cc-pVTZ.")]
Foundation = Annotated[str | None, typer.Option(help="Start from this foundation model: a name or a path.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Replace a field of the campaign file; repeatable."),
]
Seed = Annotated[int | None, typer.Option(help="The seed of everything random.")]
Trust = Annotated[bool, typer.Option("--trust", help="Vouch for the model's file, as `temper trust` does.")]


@app.command()
def run(
    campaign: Campaign,
    labels: Labels = None,
    level_of_theory: LevelOfTheory = None,
    foundation: Foundation = None,
    seed: Seed = None,
    set_: Set = None,
    trust: Trust = False,
) -> None:
    """Run a campaign. What an earlier run has finished is not computed again."""
    overrides = _given(labels=labels, level_of_theory=level_of_theory, foundation=foundation, seed=seed)
    overrides |= _fields(set_)
    flow = _flow("finetune", campaign, lambda: _check(campaign, overrides, trust=trust))
    outcome = flow(campaign, **overrides)
    if outcome["rounds"]:
        out.print(_table(outcome["rounds"]))
        out.print(f"No further round: {escape(outcome['outcome']['rounds']['stopped'])}.\n")
    out.print(_table(outcome["summary"]))
    out.print(f"\n{escape(outcome['verdict']['summary'])}")
    for reason in outcome["verdict"]["reasons"]:
        out.print(f"  {escape(reason)}")
    out.print(f"Report: {escape(outcome['report'])}")
    for refused in outcome["verdict"]["refused"]:
        out.print(f"To promote it all the same: temper promote {refused[:12]} --by NAME --reason '…'")


@app.command()
def sweep(
    campaign: Campaign,
    labels: Labels = None,
    level_of_theory: LevelOfTheory = None,
    foundation: Foundation = None,
    seed: Seed = None,
    set_: Set = None,
    trust: Trust = False,
) -> None:
    """Try the strategies and settings that a campaign lists, and recommend one; nothing is promoted."""
    overrides = _given(labels=labels, level_of_theory=level_of_theory, foundation=foundation, seed=seed)
    overrides |= _fields(set_)

    def check() -> None:
        from models.campaign_files import sweep_of

        for line in sweep_of(_check(campaign, overrides, trust=trust), campaign).told():
            out.print(escape(line))

    outcome = _flow("sweep", campaign, check)(campaign, **overrides)
    out.print(_table(outcome["summary"]))
    out.print(f"\nRecommended: {escape(outcome['chosen'])}.")
    for line in (*outcome["reasons"], *outcome["notes"]):
        out.print(f"  {escape(line)}")
    out.print(f"Report: {escape(outcome['report'])}")
    out.print(
        "To run the campaign with it: the same command with `run`, and --set candidates=[]", markup=False
    )


@app.command()
def distil(
    campaign: Campaign,
    teacher: Annotated[
        str, typer.Option(help="A checkpoint on record or a file; default: what the campaign promoted.")
    ] = "",
    seed: Seed = None,
    set_: Set = None,
) -> None:
    """Teach a fast student what a specialist knows; exit code 1 where it does not pass the gate."""
    overrides = _given(seed=seed) | _fields(set_)
    teacher = str(Path(teacher).absolute()) if teacher and Path(teacher).exists() else teacher
    flow = _flow("distil", campaign, lambda: _check(campaign, overrides))
    outcome = flow(campaign, teacher=teacher, **overrides)
    out.print(_verdicts(outcome["verdicts"]))
    out.print(f"\n{escape(outcome['summary'])}")
    for reason in outcome["reasons"]:
        out.print(f"  {escape(reason)}")
    out.print(f"Checkpoint: {outcome['engine'][:12]}")
    out.print(f"Report: {escape(outcome['report'])}")
    if not outcome["passed"]:
        out.print(
            f"To promote it all the same: temper promote {outcome['acceptance'][:12]} --by NAME --reason '…'"
        )
        raise typer.Exit(1)


@app.command()
def check(
    campaign: Campaign,
    labels: Labels = None,
    level_of_theory: LevelOfTheory = None,
    foundation: Foundation = None,
    set_: Set = None,
) -> None:
    """Check a campaign file, its labels and its foundation; nothing is started."""
    overrides = _given(labels=labels, level_of_theory=level_of_theory, foundation=foundation)
    _check(campaign, overrides | _fields(set_))
    out.print(f"{escape(campaign)}: ready to run")


@app.command()
def trust(
    foundation: Annotated[str, typer.Argument(help="A file, or the name of a published model.")],
    reason: Annotated[str, typer.Option(help="Where it comes from, and why it is safe; kept on record.")],
) -> None:
    """Let a foundation's file be opened, though that may run code. Holds for all who share the record."""
    from db.trust import trust as vouch
    from models.foundation import fetch, is_pickle

    file = fetch(foundation)
    if not is_pickle(file):
        out.print(f"{escape(str(file))} is a Temper checkpoint, which runs no code: no trust is needed.")
        return
    given = vouch(file, "model-file", reason)
    out.print(f"Trusted by {given.by}: {escape(str(file))}, sha256 {given.artifact.id}.")
    out.print(f"To take it back: temper retract {given.artifact.id[:12]} --reason '…'")


@app.command()
def validate(
    model: Annotated[str, typer.Argument(help="A .model, a Temper checkpoint, or a foundation's name.")],
    against: Annotated[
        str, typer.Option(help="A campaign, by name or path: its data, checks and gate.")
    ] = "nacl",
    head: Annotated[str | None, typer.Option(help="Which head, where the model has several.")] = None,
    labels: Labels = None,
    level_of_theory: LevelOfTheory = None,
    set_: Set = None,
    trust: Trust = False,
) -> None:
    """Measure any model as a campaign's champion is measured; exit code 1 where it does not pass the gate."""
    overrides = _given(labels=labels, level_of_theory=level_of_theory) | _fields(set_)
    file = Path(model)
    model = str(file.absolute()) if file.exists() else model

    def check() -> None:
        _check(against, overrides, trust=trust)
        _admit(model, trust=trust)

    outcome = _flow("validate", against, check)(model, against, head=head or "", **overrides)
    out.print(_verdicts(outcome["verdicts"]))
    out.print(f"\n{escape(outcome['summary'])}")
    for reason in outcome["reasons"]:
        out.print(f"  {escape(reason)}")
    out.print(f"Report: {escape(outcome['report'])}")
    if not outcome["passed"]:
        raise typer.Exit(1)


@app.command()
def promote(
    acceptance: Annotated[str, typer.Argument(help="The acceptance of what was refused, by hash or alias.")],
    by: Annotated[str, typer.Option(help="Who decides.")],
    reason: Annotated[str, typer.Option(help="Why it may be used all the same.")],
) -> None:
    """Promote what a gate, a person or a night refused; who says so and why stays on record."""
    from tasks.promotion import override

    made = override(acceptance, by, reason)
    out.print(f"Promoted on the word of {escape(by)}; the acceptance that says so is {made[:12]}.")


@app.command()
def revalidate(campaign: Name) -> None:
    """Check what a campaign has promoted: its bytes, and its acceptance on the pinned inputs."""
    for line in _flow("revalidate")([campaign]):
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


def _flow(
    name: str, campaign: str | None = None, check: Callable[[], object] = lambda: None
) -> Callable[..., Any]:
    """The flow `flows.NAME.NAME`, with a server for it; says where to watch it.

    `check` examines the inputs while a new server comes up, the longest part of a cold start; where it
    raises, that server ends again.
    """
    module = f"flows.{name}"
    if campaign is not None:
        existing(find(campaign))  # a slip of the pen is told before anything is started

    def meanwhile() -> None:
        check()
        importlib.import_module(module)

    gc.disable()  # a quarter of a second more
    try:
        url = ensure_server(out.print, meanwhile=meanwhile)
    finally:
        gc.freeze()
        gc.enable()
    out.print(f"Watch it at {url.removesuffix('/api')}/runs")
    flow: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return flow


def _check(campaign: str, overrides: Mapping[str, Any], *, trust: bool = False) -> Any:
    """Examine every input of a campaign, and return it; `trust` vouches for its foundation."""
    from models.campaign_files import load_campaign
    from tasks.permissions import permissions

    plan = load_campaign(campaign, **overrides, permissions=permissions(from_person=True))
    _admit(plan.foundation.name, trust=trust)
    return plan


def _admit(name: str, *, trust: bool) -> None:
    """Raise unless a model's file may be opened; `trust` vouches for it."""
    from db.trust import trust as vouch
    from db.trust import trusted
    from models.foundation import Untrusted, admit, fetch

    try:
        admit(name, trusted)
    except Untrusted:
        if not trust:
            raise
        vouch(fetch(name), "model-file", "said --trust to temper run")


def _fields(assignments: list[str] | None) -> dict[str, Any]:
    """Assignments FIELD=VALUE, the value as in YAML, as the option `fields` of flows."""
    import yaml

    fields = {}
    for assignment in assignments or ():
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{assignment!r}: give FIELD=VALUE, as split.by=trajectory")
        try:
            fields[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"{assignment!r}: the value is not valid YAML ({error})") from error
    return {"fields": fields} if fields else {}


def _given(**overrides: Any) -> dict[str, Any]:
    """The options that were given; the flow's form takes paths as text."""
    return {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in overrides.items()
        if value is not None
    }


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> Table:
    """What a gate said, a line each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "check", "value", "asked for"):
        table.add_column(name, overflow="fold")
    for v in verdicts:
        value = "–" if v["value"] is None else f"{v['value']:.3g} {v['unit']}"
        asked = f"{'≥' if v['at_least'] else '≤'} {v['threshold']:g} {v['unit']}"
        table.add_row("✓" if v["passed"] else "✗", escape(v["check"]), value, asked)
    return table


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
