"""Sweeps: who goes on after a rung, and what is recommended in the end."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from prefect import task

from db import artifacts
from db.steps import Output
from models import halving
from models.campaign import Campaign
from models.strategies import STRATEGY
from models.sweeps import Rung, Sweep
from tasks.records import read, recorded
from tasks.validation import best_evaluation


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Ids of what one training of a trial made, or why it `failure` made nothing; see `halving.Training`."""

    trial: str
    rung: int
    epochs: int
    seed: int
    goes_on: bool
    history: str = ""
    checkpoint: str = ""
    retention: str = ""
    failure: str = ""


@task(name="pick", task_run_name="pick-after-rung-{rung.number}")
def pick(sweep: Sweep, rung: Rung, trained: Sequence[Trained]) -> list[str]:
    """The names of the trials that go on."""
    return halving.survivors(sweep, rung, [_measured(one) for one in trained])


@task(name="conclude sweep", task_run_name="conclude-sweep")
def conclude_sweep(
    campaign: Campaign, sweep: Sweep, trained: Sequence[Trained], foundation: Mapping[str, str]
) -> str:
    """The id of a `halving.Result`; `foundation` are findings of the foundation by kind of check."""
    ids = ("history", "checkpoint", "retention")
    told = [{key: value for key, value in asdict(one).items() if key not in ids} for one in trained]
    inputs = {role: [getattr(one, role) for one in trained if not one.failure] for role in ids}

    def compute(work: Path) -> dict[str, Output]:
        baseline = halving.Baseline(
            error=_forces(foundation["accuracy"]), retention=_forces(foundation["retention"])
        )
        result = halving.conclude(sweep, [_measured(one) for one in trained], baseline)
        path = work / "sweep.json"
        path.write_text(json.dumps(asdict(result), indent=1, ensure_ascii=False), encoding="utf-8")
        return {"sweep": Output(path=path, kind="sweep", name=f"{campaign.name}-sweep")}

    parameters = {"sweep": sweep.model_dump(mode="json"), "trained": told}
    before = {f"foundation_{kind}": id_ for kind, id_ in foundation.items()}
    return recorded("sweep", 1, parameters, {**inputs, **before}, compute)["sweep"]


@task(name="take recommended", task_run_name="take-recommended")
def recommended(campaign: Campaign, sweep: str) -> Campaign:
    """The campaign with what a sweep recommends as its only candidate."""
    strategy = STRATEGY.validate_python(read(sweep)["strategy"])
    return campaign.model_copy(update={"candidates": (strategy,)})


def _measured(one: Trained) -> halving.Training:
    said = {key: getattr(one, key) for key in ("trial", "rung", "epochs", "seed", "goes_on", "failure")}
    if one.failure:
        return halving.Training(**said)
    history = read(one.history)
    error = best_evaluation(history)["target_forces_mae"]
    return halving.Training(
        **{**said, "failure": "" if math.isfinite(error) else "its validation error is no number"},
        error=error if math.isfinite(error) else None,
        retention=_forces(one.retention),
        cpu_seconds=artifacts.get(one.history).metadata.get("cpu_seconds"),
        parameters=history["trained_parameters"],
        checkpoint=one.checkpoint,
    )


def _forces(finding: str) -> float | None:
    value: float | None = read(finding)["figures"]["forces"]["value"]
    return value
