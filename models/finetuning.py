"""One candidate: prepare by its strategy, check, train, finish, check again, save."""

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from models.checkpoints import smallest
from models.datasets import read_structures
from models.e0s import read_e0s
from models.graphs import graphs, predict
from models.heads import with_heads
from models.potentials import Network, Potential, load, save
from models.strategies import REPLAY_HEAD, TARGET_HEAD, Strategy, Target, TrainingData
from models.training import Fit, Report, fit
from models.training_state import prolong

log = logging.getLogger(__name__)

_CHECKED_STRUCTURES = 4
_ENERGY_TOLERANCE = 1e-5  # eV/atom, float32 networks
_FORCE_TOLERANCE = 1e-3  # eV/Å


class PreparationError(RuntimeError):
    """A prepared network that is not the foundation it was made from: a bug, never a user's mistake."""


@dataclass(frozen=True, kw_only=True)
class FurtherTarget:
    """The files of one more target head: its datasets, its level's E0s, and the level."""

    train: Path
    valid: Path
    e0s: Path
    level_of_theory: str

    def read(self) -> Target:
        """The structures and the E0s."""
        return Target(
            train=read_structures(self.train), valid=read_structures(self.valid), e0s=read_e0s(self.e0s)
        )


def fine_tune(
    strategy: Strategy,
    files: Mapping[str, Path],
    level_of_theory: str,
    provenance: Mapping[str, str],
    work: Path,
    report: Report | None = None,
    *,
    further: Mapping[str, FurtherTarget] | None = None,
    goes_on_from: Path | None = None,
    compact: bool = False,
) -> dict[str, Path]:
    """Fine-tune by `strategy`; returns the files `checkpoint`, `history`, `cost` and `state`.

    `files` holds the `foundation`, the target level's `e0s`, and the datasets `train`, `valid` and,
    where the strategy has any, `replay_train` and `replay_valid`; `further` holds more targets by head.
    A killed call goes on from `work`; one that has not begun goes on from `goes_on_from`, the state of the
    same training with fewer epochs (`Optimisation.begins`), and comes out as if it had not. A `compact`
    checkpoint may be a delta (`models.checkpoints.smallest`). Raises EmptyTraining where there is nothing to
    train or to learn.
    """
    start = load(files["foundation"])
    further = further or {}
    targets = {head: target.read() for head, target in further.items()}
    frames = {
        role: read_structures(path) for role, path in files.items() if role not in ("foundation", "e0s")
    }
    e0s: dict[str, Mapping[int, float]] = {head: target.e0s for head, target in targets.items()}
    e0s |= {TARGET_HEAD: read_e0s(files["e0s"]), REPLAY_HEAD: start.e0s()}

    setup = strategy.prepare(start, e0s[TARGET_HEAD], TrainingData(**frames, further=targets))
    if strategy.starts_as_foundation:
        check_step_zero(start, setup.network, e0s, frames["train"][:_CHECKED_STRUCTURES])
    else:
        log.info("step 0: %s starts from random weights, there is nothing to compare", strategy.name)
    state = work / "state.pt"
    if goes_on_from is not None and not state.exists():
        prolong(goes_on_from, state, strategy.optimisation.epochs)
    untrained = copy.deepcopy(setup.network)
    fitted = fit(setup, strategy.optimisation, state_path=state, report=report)

    network = strategy.finish(fitted.network)
    if strategy.starts_as_foundation and list(untrained.heads) != list(network.heads):
        table = [int(z) for z in network.atomic_numbers]
        exact = with_heads(start, {head: e0s[head] for head in network.heads}, table)
        keep_what_did_not_change(network, strategy.finish(untrained), exact)
    levels = {head: target.level_of_theory for head, target in further.items()}
    levels |= {TARGET_HEAD: level_of_theory, REPLAY_HEAD: start.level_of_theory[start.heads[0]]}
    specialist = Potential(
        network=network,
        level_of_theory={head: levels[head] for head in network.heads},
        provenance=dict(provenance),
    )
    _check_e0s(specialist, e0s)
    made = save_fit(specialist, fitted, work)
    if compact:
        made["checkpoint"] = smallest(made["checkpoint"], files["foundation"])
    return {**made, "state": state}


def save_fit(potential: Potential, fitted: Fit, work: Path) -> dict[str, Path]:
    """Write the files `checkpoint` and `history`, of the same training the same bytes, and its `cost`."""
    history = {
        "best_epoch": fitted.best_epoch,
        "trained_parameters": fitted.trained,
        "epochs": fitted.history,
    }
    files = {"checkpoint": work / "checkpoint.safetensors"}
    files |= {name: work / f"{name}.json" for name in ("history", "cost")}
    save(potential, files["checkpoint"])
    files["history"].write_text(json.dumps(history, indent=1, sort_keys=True), encoding="utf-8")
    files["cost"].write_text(json.dumps({"cpu_seconds": round(fitted.cpu_seconds, 3)}), encoding="utf-8")
    return files


def check_step_zero(
    foundation: Potential,
    network: Network,
    e0s: Mapping[str, Mapping[int, float]],
    frames: Sequence[Atoms],
) -> None:
    """Raise PreparationError unless every head gives the foundation's forces and, but for E0s, energies.

    `e0s` holds what was asked for: eV by head and atomic number.
    """
    before = predict(foundation, graphs(frames, foundation))
    old = foundation.e0s()
    prepared = Potential(network=network, level_of_theory={}, provenance={})
    for head in prepared.heads:
        after = predict(prepared, graphs(frames, prepared, head))
        for frame, a, b in zip(frames, before, after, strict=True):
            expected = a.energy + sum(e0s[head][int(z)] - old[int(z)] for z in frame.numbers)
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


@torch.no_grad()
def keep_what_did_not_change(network: Network, untrained: Network, exact: Network) -> None:
    """Give weights of `network` that are those of `untrained` the values that they have in `exact`.

    All three have the same heads. To widen and to cut heads multiplies by a square root and its inverse,
    which rounds: without this, weights would differ from the foundation's that no training has touched.
    """
    before, wanted = untrained.state_dict(), exact.state_dict()
    for name, parameter in network.named_parameters():
        if name in wanted:  # a part for moments is new
            parameter.copy_(torch.where(parameter == before[name], wanted[name], parameter))


def _check_e0s(specialist: Potential, e0s: Mapping[str, Mapping[int, float]]) -> None:
    for head in specialist.heads:
        for z, energy in specialist.e0s(head).items():
            if energy != e0s[head][z]:
                raise PreparationError(
                    f"head {head!r}: the E0 of element {z} is {energy} eV on the finished model, "
                    f"{e0s[head][z]} eV was asked for"
                )
