"""Labels from somebody else's machines: asked for in a folder, waited for, and put on record as they come."""

import json
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from ase import Atoms
from prefect import task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Running

from db import artifacts
from db.settings import settings
from db.steps import Output, done
from models.datasets import read_structures, write_structures
from models.external import requests
from models.external.requests import Request, identifier
from models.external.results import Came, Inbox, Survey
from models.reference import files as contents
from models.reference.base import NotConverged
from models.reference.external import External
from tasks.display import display
from tasks.labelling import Labelled, prepare, record_failure
from tasks.records import recorded

log = logging.getLogger(__name__)

WAITING = "Waiting for labels"
"""What the state of a flow run is called meanwhile."""
_STEP, _VERSION = "external_label", 1
_SHOWN = 20  # structures in a list
_TAIL = 15  # lines of a log in an error


class NeverCame(RuntimeError):
    """A label that nobody waits for any more; the message is the reason."""


@task(name="obtain labels", task_run_name="labels-{name}")
def obtain(calculator: External, selection: str, name: str) -> Labelled:
    """The labels of a selection (id of an artifact), which somebody else computes; `name` is the request's.

    What is on record is not asked for. For the rest there is a folder under the home, where structures and
    inputs are, and where results are looked for: each goes on record as soon as it is there. This comes back
    when all labels are there or have failed, when somebody says that the rest will not come (`temper labels
    import --complete`), or when `calculator.patience_hours` are over. Called again, it goes on where it was,
    with what came meanwhile.

    Raises DataError where a structure is not suitable, before anything is asked for.
    """
    titles = prepare(calculator, selection)
    structures = read_structures(artifacts.path(selection))
    wanted = {
        identifier(atoms): _Wanted(
            calculator=calculator, selection=selection, index=index, title=title, atoms=atoms
        )
        for index, (title, atoms) in enumerate(zip(titles, structures, strict=True))
    }
    if open_ := [one.atoms for one in wanted.values() if not one.on_record()]:
        place = requests.place(
            settings().home / requests.FOLDER, name, calculator.level_of_theory, structures
        )
        _wait(requests.ask(place, name, calculator, open_), calculator, wanted)
    return Labelled(
        labels=[one.label for one in wanted.values() if one.label],
        failures=[one.failure for one in wanted.values() if not one.label],
    )


@dataclass(kw_only=True)
class _Wanted:
    """A structure of a selection, and its label or failure once that is on record."""

    calculator: External
    selection: str
    index: int
    title: str
    atoms: Atoms
    label: str = ""
    failure: str = ""

    @property
    def _parameters(self) -> dict[str, Any]:
        return {
            "calculator": self.calculator.kind,
            "level_of_theory": self.calculator.level_of_theory,
            "structure": contents.content(self.atoms),
        }

    def on_record(self) -> bool:
        """Whether the structure has a label, whoever asked for it."""
        found = done(_STEP, _VERSION, self._parameters, {})
        self.label = found.outputs["label"] if found else ""
        return found is not None

    def take(self, label: Atoms, came: Came) -> None:
        """Put a label on record, with the file that it comes from."""

        def compute(work: Path) -> dict[str, Output]:
            source = artifacts.import_file(came.path, "log", came.path.name)
            said = {
                "level_of_theory": self.calculator.level_of_theory,
                "calculator": self.calculator.kind,
                "version": self.calculator.version(),
                "formula": self.atoms.get_chemical_formula(),
            }
            # In the file, not beside it: the same label out of another file is another artifact.
            known = json.loads(label.info["convergence"]) | {"source": source.id}
            label.info["convergence"] = json.dumps(known, sort_keys=True)
            path = work / "label.extxyz"
            write_structures(path, [label])
            # It was computed elsewhere: what rests on it is reproduced from it, as from any imported file.
            artifacts.import_file(path, "label", self.title, said)
            return {
                "label": Output(path=path, kind="label", name=self.title, metadata=said),
                "log": Output(path=came.path, kind="log", name=came.path.name),
            }

        self.label = recorded(_STEP, _VERSION, self._parameters, {}, compute)["label"]

    def fail(self, came: Came) -> None:
        """Put on record why there is no label, with the end of the log."""
        error: Exception = NeverCame(came.failure)
        if came.where:
            error = NotConverged(came.failure)
            source = artifacts.import_file(came.path, "log", came.path.name)
            with came.path.open(encoding="utf-8", errors="replace") as lines:
                end = "".join(deque(lines, _TAIL))
            error.add_note(f"The end of {came.path}, on record as {source.id[:12]}:\n{end}")
        self.failure = record_failure(self.calculator, self.selection, self.index, self.title, error)


def _wait(request: Request, calculator: External, wanted: Mapping[str, _Wanted]) -> None:
    """Put labels on record as they come, and failures when all is there that will come."""
    inbox, notice = Inbox(request), _Notice(request=request, of=len(wanted))
    while True:
        found = inbox.look()
        for id_, came in found.labels.items():
            if id_ in wanted and not wanted[id_].label and came.label is not None:
                wanted[id_].take(came.label, came)
        open_ = [id_ for id_, one in wanted.items() if not one.label]
        failed = {id_: found.failures[id_] for id_ in open_ if id_ in found.failures}
        if _overdue(request, calculator):
            reason = f"it did not come within {calculator.patience_hours:g} hours"
            never = Came(path=request.folder, where="", failure=reason)
            failed = {id_: failed.get(id_, never) for id_ in open_}
        waiting = [id_ for id_ in open_ if id_ not in failed]
        notice.show(found, waiting, len(failed))
        if not waiting:
            for id_, came in failed.items():
                wanted[id_].fail(came)
            notice.end()
            return
        time.sleep(calculator.poll_seconds)


def _overdue(request: Request, calculator: External) -> bool:
    hours = calculator.patience_hours
    return hours is not None and datetime.now(UTC) > request.asked_at + timedelta(hours=hours)


@dataclass(kw_only=True)
class _Notice:
    """What a person sees of the waiting: the state of the flow run, a bar, a page, and the log."""

    request: Request
    of: int
    _told: set[str] = field(default_factory=set)
    _shown: str = ""
    _bar: UUID | None = None
    _page: UUID | None = None

    def show(self, found: Survey, waiting: Sequence[str], failed: int) -> None:
        """Say what has changed since it was last said."""
        logger = get_run_logger() if flow_run.id else log
        complaints = [*found.problems, *found.contradictions]
        for complaint in complaints:
            if complaint not in self._told:
                logger.warning("not taken: %s", complaint)
        self._told.update(complaints)
        line = f"{self.of - len(waiting) - failed} of {self.of} labels"
        line += f", {failed} failed" if failed else ""
        page = _page(self.request, line, waiting, found, complaints)
        if page == self._shown:
            return
        self._shown = page
        logger.info("%s; results are looked for in %s", line, self.request.results)
        if flow_run.id is None:
            return
        share, title = 100.0 * (self.of - len(waiting)) / self.of, f"Labels of {self.request.name}: {line}"
        if self._bar is None or self._page is None:
            key = re.sub("[^a-z0-9]+", "-", f"labels-{self.request.name}".lower()).strip("-")
            self._bar = display(_made, create_progress_artifact, share, description=line)
            self._page = display(_made, create_markdown_artifact, page, key=key, description=title)
        else:
            display(_update, self._bar, share, line)
            display(_update, self._page, page, title)
        if waiting:
            display(_set_state, WAITING, f"{line}; results are looked for in {self.request.results}")

    def end(self) -> None:
        """The flow run goes on."""
        if flow_run.id is not None:
            display(_set_state, "Running", "")


def _made(create: Callable[..., Any], data: float | str, **said: str) -> UUID | None:
    """The id of an artifact that is made."""
    id_ = create(data, **said)
    return id_ if isinstance(id_, UUID) else None


def _update(artifact: UUID, data: float | str, description: str) -> None:
    with get_client(sync_client=True) as client:
        client.update_artifact(artifact, ArtifactUpdate(data=data, description=description))


def _set_state(name: str, message: str) -> None:
    """Name the state of this flow run; one that is being cancelled keeps its state."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(flow_run.id)).state
        if state is not None and state.is_running():
            # Without force the server sees no change between two running states, and rejects it.
            client.set_flow_run_state(UUID(flow_run.id), Running(name=name, message=message), force=True)


def _page(
    request: Request, line: str, waiting: Sequence[str], found: Survey, complaints: Sequence[str]
) -> str:
    """A page of markdown on a request: what is waited for, and how it is brought."""
    parts = [
        f"## {request.name}: {line}",
        f"Level of theory: `{request.level_of_theory}`. Structures and inputs are in `{request.folder}`. "
        f"Results are taken from `{request.results}` as they come. To have them checked first:",
        f"```\ntemper labels import {request.folder.name} FILES...\n```",
        f"If the rest will not come:\n```\ntemper labels import {request.folder.name} --complete\n```",
    ]
    if waiting:
        rows = [
            f"| `{id_}` | {request.structures[id_].get_chemical_formula()} | "
            f"{'unfinished' if id_ in found.running else 'nothing yet'} |"
            for id_ in waiting[:_SHOWN]
        ]
        rows += [f"| and {len(waiting) - _SHOWN} more | | |"] if len(waiting) > _SHOWN else []
        parts.append("\n".join(["| waited for | formula | so far |", "|---|---|---|", *rows]))
    failed = [f"- `{id_}`: {came.failure}" for id_, came in found.failures.items()]
    if failed:
        parts.append("\n".join(["Failed:", "", *failed[:_SHOWN]]))
    if complaints:
        parts.append("\n".join(["Not taken:", "", *(f"- {complaint}" for complaint in complaints[:_SHOWN])]))
    return "\n\n".join(parts)
