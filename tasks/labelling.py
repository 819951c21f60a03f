"""Labels by a reference calculator, one step each: computed once, whoever asks."""

import json
import shutil
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ase.io import iread
from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run

from db import artifacts
from db.steps import Output
from models.datasets import fingerprint, read_structures
from models.reference import CALCULATOR, AnyCalculator, Limits, ReferenceCalculator, Unavailable, files
from tasks.children import Interrupted, in_child
from tasks.permissions import permissions
from tasks.records import Kind, Recipe, made, read

_TAIL = 15  # lines of a log in an error


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What became of a selection: ids of artifacts, in its order.

    Attributes:
        labels: one frame each, with the structure's content and its label, and nothing else of its info.
        failures: one file of JSON each, with `error` (NotConverged, OutOfTime, …), `reason` and `structure`.
            What did not converge is done; the others are tried again when somebody asks for them again.
    """

    labels: list[str]
    failures: list[str]


def prepare(calculator: ReferenceCalculator, selection: str) -> list[str]:
    """What the structures of a selection are called, if the calculator can label them all.

    Raises Unavailable or DataError where it cannot, or where the selection is no file of structures, and
    NotPermitted where it would start a program that is not allowed here.
    """
    _permit(calculator)
    structures = read_structures(artifacts.path(selection))
    calculator.check(structures)
    return [f"{atoms.get_chemical_formula()}-{fingerprint(atoms)[:8]}" for atoms in structures]


def _worth_another_try(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return not isinstance(state.data, Interrupted)


@task(name="label", retry_condition_fn=_worth_another_try)
def label(
    calculator: AnyCalculator, selection: str, index: int, name: str, limits: Limits
) -> Mapping[str, str]:
    """Ids by role of structure `index` of a selection: label, or failure where it did not converge; log.

    What a child process raises is raised (see `tasks.children.in_child`), with the end of the log.
    """
    _permit(calculator)
    parameters = {
        "calculator": calculator.model_dump(mode="json"),
        "settings": calculator.settings(),
        "level_of_theory": calculator.level_of_theory,
        "version": calculator.version(),
        "structure": _content(selection, index),
    }
    recipe = Recipe(parameters=parameters, inputs={}, names={"label": name, "failure": name, "log": name})
    return made(replace(LABEL, compute=partial(_label, limits=limits)), recipe)


def _label(recipe: Recipe, work: Path, limits: Limits | None = None) -> dict[str, Output]:
    calculator = CALCULATOR.validate_python(recipe.parameters["calculator"])
    _permit(calculator)  # the recipe may have come with an archive
    version, structure = recipe.parameters["version"], recipe.parameters["structure"]
    if calculator.version() != version:
        raise Unavailable(
            f"{calculator.kind} {version} is asked for, and {calculator.version()} is installed here"
        )
    said = _about(calculator, version)
    folder = work / "calculation"
    shutil.rmtree(folder, ignore_errors=True)  # a label never depends on what a killed try left
    folder.mkdir()
    try:
        given = (calculator, structure, said, folder)
        done = in_child(files.label_file, *given, limits=limits, part_of=flow_run.id)
    except Exception as error:
        error.add_note(_tail(folder / "log.txt"))
        raise
    said |= {"formula": files.structure(structure).get_chemical_formula()}
    said |= {"seconds": round(done.seconds, 3), "cpu_seconds": round(done.cpu_seconds, 3)}
    role, kind = ("label", "label") if done.converged else ("failure", "failed-label")
    outputs = {role: Output(path=done.path, kind=kind, name=recipe.names[role], metadata=said)}
    if done.log is not None:
        outputs["log"] = Output(path=done.log, kind="log", name=recipe.names["log"])
    return outputs


LABEL = Kind(name="label", version=1, compute=_label)


def record_failure(
    calculator: ReferenceCalculator, selection: str, index: int, name: str, error: BaseException
) -> str:
    """The id of the record of a structure that could not be labelled this time."""
    said = _about(calculator, calculator.version())
    why = {"error": type(error).__name__, "reason": "\n".join([str(error), *getattr(error, "__notes__", [])])}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "failure.json")
        path.write_text(json.dumps({**why, **said, "structure": _content(selection, index)}, indent=1))
        return artifacts.import_file(path, "failed-label", name, said).id


def reason(failure: str) -> tuple[str, str]:
    """Why a structure has no label: the name of the error, and its first line."""
    content = read(failure)
    return content["error"], content["reason"].partition("\n")[0]


def _permit(calculator: ReferenceCalculator) -> None:
    permissions(from_person=False).check_programs(calculator)


def _content(selection: str, index: int) -> dict[str, Any]:
    return files.content(next(iread(artifacts.path(selection), index=index, format="extxyz")))


def _about(calculator: ReferenceCalculator, version: str) -> dict[str, Any]:
    return {
        "level_of_theory": calculator.level_of_theory,
        "calculator": calculator.kind,
        "version": version,
    }


def _tail(log: Path) -> str:
    if not log.is_file():
        return f"It left no {log}"
    with log.open(encoding="utf-8", errors="replace") as lines:
        return f"The end of {log}:\n" + "".join(deque(lines, _TAIL))
