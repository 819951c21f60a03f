"""One candidate: prepare by its strategy, check, train, finish, check again, save."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models.datasets import read_structures
from models.e0s import read_e0s
from models.graphs import graphs, predict
from models.potentials import Network, Potential, load, save
from models.strategies import REPLAY_HEAD, TARGET_HEAD, Strategy, TrainingData
from models.training import Fit, Report, fit

log = logging.getLogger(__name__)

_CHECKED_STRUCTURES = 4
_ENERGY_TOLERANCE = 1e-5  # eV/atom, float32 networks
_FORCE_TOLERANCE = 1e-3  # eV/Å


class PreparationError(RuntimeError):
    """A prepared network that is not the foundation it was made from: a bug, never a user's mistake."""


def fine_tune(
    strategy: Strategy,
    files: Mapping[str, Path],
    level_of_theory: str,
    provenance: Mapping[str, str],
    work: Path,
    report: Report | None = None,
) -> dict[str, Path]:
    """Fine-tune by `strategy`; returns the files `checkpoint` and `history`.

    `files` holds the `foundation`, the target level's `e0s`, and the datasets `train`, `valid` and,
    where there are any, `replay_train` and `replay_valid`. A killed call goes on from `work`.
    """
    start, e0s = load(files["foundation"]), read_e0s(files["e0s"])
    frames = {
        role: read_structures(path) for role, path in files.items() if role not in ("foundation", "e0s")
    }
    setup = strategy.prepare(start, e0s, TrainingData(**frames))
    check_step_zero(start, setup.network, e0s, frames["train"][:_CHECKED_STRUCTURES])
    fitted = fit(setup, strategy.optimisation, state_path=work / "state.pt", report=report)
    network = strategy.finish(fitted.network)
    specialist = Potential(
        network=network, level_of_theory={TARGET_HEAD: level_of_theory}, provenance=dict(provenance)
    )
    _check_e0s(specialist, e0s)
    return save_fit(specialist, fitted, work)


def save_fit(potential: Potential, fitted: Fit, work: Path) -> dict[str, Path]:
    """Write the files `checkpoint` and `history` (no clock times: the same training, the same bytes)."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in fitted.history]
    history = {"best_epoch": fitted.best_epoch, "epochs": rows}
    files = {"checkpoint": work / "checkpoint.safetensors", "history": work / "history.json"}
    save(potential, files["checkpoint"])
    files["history"].write_text(json.dumps(history, indent=1, sort_keys=True), encoding="utf-8")
    return files


def check_step_zero(foundation: Potential, network: Network, e0s: Mapping[int, float], frames: list) -> None:
    """Raise PreparationError unless every head gives the foundation's forces and, but for E0s, energies."""
    before = predict(foundation, graphs(frames, foundation))
    old = foundation.e0s()
    prepared = Potential(network=network, level_of_theory={}, provenance={})
    for head in prepared.heads:
        shift = {z: (old[z] if head == REPLAY_HEAD else e0s[z]) - old[z] for z in old}
        after = predict(prepared, graphs(frames, prepared, head))
        for frame, a, b in zip(frames, before, after, strict=True):
            expected = a.energy + sum(shift[int(z)] for z in frame.numbers)
            if abs(b.energy - expected) > _ENERGY_TOLERANCE * len(frame) * max(1.0, np.abs(a.forces).max()):
                raise PreparationError(
                    f"head {head!r}: energy {b.energy:.6f} eV before training, {expected:.6f} eV expected"
                )
            if (worst := np.abs(a.forces - b.forces).max()) > _FORCE_TOLERANCE * max(
                1.0, np.abs(a.forces).max()
            ):
                raise PreparationError(
                    f"head {head!r}: forces differ by {worst:.2e} eV/Å before any training"
                )
    log.info("step 0: %d heads agree with the foundation", len(prepared.heads))


def _check_e0s(specialist: Potential, e0s: Mapping[int, float]) -> None:
    for z, energy in specialist.e0s(TARGET_HEAD).items():
        if energy != e0s[z]:
            raise PreparationError(
                f"E0 of element {z} is {energy} eV on the finished model, {e0s[z]} eV was asked for"
            )
