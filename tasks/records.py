"""Steps and artifacts as tasks need them: computed once for whoever asks, read by id."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from db import agent, artifacts
from db.artifacts import Artifact
from db.errors import ProvenanceError
from db.steps import Output, once
from tasks.forks import THREADS

log = logging.getLogger(__name__)

# What `tasks.children` gives every child, and what no child changes.
agent.declare(
    "children",
    **THREADS,
    torch_threads=1,
    torch_deterministic_algorithms=False,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that a step is computed from, whether a campaign asks for it or it is read from the record.

    Attributes:
        parameters: what the person chose, as JSON.
        inputs: role to artifact id, or to several in their order.
        names: role to what the output is called.
        seed: of everything random.
    """

    parameters: Mapping[str, Any]
    inputs: Mapping[str, str | Sequence[str]]
    names: Mapping[str, str]
    seed: int | None = None

    def ids(self, role: str) -> Sequence[str]:
        """The artifacts of a role, in their order."""
        given = self.inputs[role]
        return [given] if isinstance(given, str) else given

    def input(self, role: str) -> Artifact:
        """The one artifact of a role."""
        (id_,) = self.ids(role)
        return artifacts.get(id_)

    def file(self, role: str) -> Path:
        """Where the one artifact of a role is."""
        return artifacts.path(self.input(role).id)

    def files(self) -> dict[str, Path]:
        """Role to file, of a step that has one of each."""
        return {role: self.file(role) for role in self.inputs}

    def imported(self, role: str, work: Path) -> Path:
        """The file of a role, in `work`, under the name it was imported with: for messages."""
        name = self.input(role).name  # which may have come with an archive, and be a path
        link = work / "imported" / Path(f"{role}/{name}").name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(self.file(role))
        return link


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of step that its recipe alone decides; `version` counts the changes of what it computes."""

    name: str
    version: int
    compute: Callable[..., Mapping[str, Output]]


def made(kind: Kind, recipe: Recipe, **shortcut: Any) -> Mapping[str, str]:
    """Role to artifact id of what a step of this kind made (see `recorded`).

    A `shortcut` is given to the computation and changes nothing of what it makes.
    """
    compute = partial(kind.compute, recipe, **shortcut)
    return recorded(kind.name, kind.version, recipe.parameters, recipe.inputs, compute, seed=recipe.seed)


def recorded(
    kind: str,
    version: int,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str | Sequence[str]],
    compute: Callable[[Path], Mapping[str, Output]],
    *,
    seed: int | None = None,
) -> Mapping[str, str]:
    """Role to artifact id of what a step made (see `db.steps.once`), on record with this flow run."""
    done = once(kind, version, parameters, inputs, compute, seed=seed, flow_run_id=flow_run.id)
    if done.reused:
        log.info("%s: on record, not computed again", kind)
    return done.outputs


def checkpoint(text: str) -> Artifact:
    """The checkpoint a person means, by alias or id (see `artifacts.find`).

    Raises ProvenanceError where something else is meant.
    """
    found = artifacts.find(text)
    if found.kind not in ("checkpoint", "foundation"):
        raise ProvenanceError(f"{artifacts.titled(found)} is no checkpoint; give one that is")
    return found


def read(artifact_id: str) -> dict[str, Any]:
    """The content of a JSON artifact."""
    content: dict[str, Any] = json.loads(artifacts.path(artifact_id).read_text(encoding="utf-8"))
    return content


def paths(ids: Mapping[str, str]) -> dict[str, Path]:
    """Role to file, from role to artifact id."""
    return {role: artifacts.path(id_) for role, id_ in ids.items()}
