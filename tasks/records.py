"""Steps and artifacts as tasks need them: computed once for whoever asks, read by id."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from db import artifacts
from db.steps import Output, once

log = logging.getLogger(__name__)


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


def read(artifact_id: str) -> dict[str, Any]:
    """The content of a JSON artifact."""
    content: dict[str, Any] = json.loads(artifacts.path(artifact_id).read_text(encoding="utf-8"))
    return content


def paths(ids: Mapping[str, str]) -> dict[str, Path]:
    """Role to file, from role to artifact id."""
    return {role: artifacts.path(id_) for role, id_ in ids.items()}
