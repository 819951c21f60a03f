"""One training loop for pre-training, fine-tuning and distillation."""

import copy
import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models import changes, devices, losses, optimisers, processes
from models.evaluation import Rule, mean_errors, scores
from models.gradients import gradients
from models.graphs import Graph, batches, edge_counts
from models.graphs import digest as graphs_digest
from models.kernels import fused
from models.memory import keep_freed_memory
from models.potentials import Network, n_parameters
from models.training_clock import Clock
from models.training_state import StateFile, Stateful, TrainingState, uninterrupted

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]

RETENTION = "replay"  # the validation set that shows what is forgotten


class Optimisation(BaseModel):
    """How the parameters are moved. Defaults: naive fine-tuning of arXiv 2606.12704, Table 7.

    `best_by` decides which evaluation is best and, with `patience`, when to stop. "target" and
    "retention" look at the error of the target or of the replay set: meV/Å of forces plus meV/atom of
    energies, where labelled. "pareto" takes the least sum of the two, and goes on while either of
    them, or their sum, still reaches a new low. Their ratios to step 0 would not do: replay that the
    foundation itself labelled starts at zero error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimiser: Literal["adamw", "schedule_free"] = Field(
        "adamw", description="schedule_free averages by itself: no decay, and ema_decay has no part in it"
    )
    learning_rate: float = Field(1e-3, gt=0)
    decay: Literal["none", "cosine"] = "none"
    ema_decay: float = Field(0.999, ge=0, lt=1)
    clip_gradient: float = Field(1.0, gt=0)
    epochs: int = Field(30, ge=1)
    max_edges: int = Field(2000, ge=1, description="edge budget of one batch")
    seed: int = 0
    evaluate_every: float = Field(
        1.0, gt=0, description="epochs from one evaluation to the next; 0.1: ten each"
    )
    best_by: Rule = "target"
    patience: int | None = Field(None, ge=1, description="evaluations without a new low before stopping")

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        if self.optimiser == "schedule_free" and self.decay != "none":
            raise ValueError("optimiser: schedule_free takes the place of a schedule; use decay: none")
        return self

    def begins(self, longer: "Optimisation") -> bool:
        """Whether a training by `longer` is this one, and then more of it.

        Not where the rate follows the number of epochs, or where the last evaluation comes out of turn.
        """
        same = self.model_copy(update={"epochs": longer.epochs}) == longer and self.epochs <= longer.epochs
        evaluations = self.epochs / self.evaluate_every
        return same and self.decay == "none" and math.isclose(evaluations, round(evaluations))


class EmptyTraining(ValueError):
    """Training that would silently do nothing: no parameters, no labels, no data."""


class Diverged(RuntimeError):
    """A training whose loss is no longer a number."""


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What a strategy prepares: the network, its data by role, and the weights of its heads.

    `valid` maps a name ("target", "replay") to graphs; `score` names the one that is the target. `terms` come
    on top of the labels in the loss. `change` says how the network's parameters are moved.
    """

    network: Network
    train: Sequence[Graph]
    valid: Mapping[str, Sequence[Graph]]
    weights: Sequence[losses.Weights]
    score: str = "target"
    terms: Sequence[losses.Term] = ()
    change: changes.Rule = changes.DIRECTLY

    def check(self, best_by: Rule = "target") -> None:
        """Raise EmptyTraining where the training could not change, learn or judge anything."""
        if n_parameters(self.network) == 0:
            raise EmptyTraining("no parameter of the network may change")
        if not self.train:
            raise EmptyTraining("no training structures")
        for name in self.judged(best_by).values():
            if not any(
                math.isfinite(g.energy) or g.forces.isfinite().any() for g in self.valid.get(name, [])
            ):
                raise EmptyTraining(f"no labelled {name!r} structures to validate on (best_by: {best_by})")
        for index, (head, weight) in enumerate(zip(self.network.heads, self.weights, strict=True)):
            labelled = (
                (weight.energy and math.isfinite(g.energy))
                or (weight.forces and g.forces.isfinite().any())
                or (weight.stress and g.stress.isfinite().any())
                for g in self.train
                if g.head == index
            )
            if not any(labelled):
                raise EmptyTraining(f"head {head!r} has no labels with a weight above zero")

    def judged(self, best_by: Rule) -> dict[str, str]:
        """The validation sets that `best_by` looks at, by what they stand for."""
        sets = {"target": self.score, "retention": RETENTION}
        return sets if best_by == "pareto" else {best_by: sets[best_by]}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A finished training: the best averaged network and the record of every evaluation.

    A row of `history` has `epoch` (a fraction inside an epoch), `loss` (mean since the row before),
    `learning_rate` and the validation errors; nothing in it depends on a clock. `best_epoch` is the
    `epoch` of the best row. Once memory has run out, a row also has `edges_at_once`, above which a batch
    is computed in parts. `trained` counts the parameters that were trained, or the weights that changed where
    few of them may. `seconds` are those of a clock, `cpu_seconds` of the processors, all attempts together.
    """

    network: Network
    trained: int
    history: list[dict[str, Any]]
    best_epoch: float
    seconds: float
    cpu_seconds: float


def fit(
    setup: TrainingSetup,
    optimisation: Optimisation,
    *,
    state_path: Path | None = None,
    save_seconds: float = 60.0,
    report: Report | None = None,
) -> Fit:
    """Train `setup.network` with AdamW, clipping and a running average (EMA), or schedule-free AdamW.

    The averaged network is judged on each validation set before the first update and then every
    `evaluate_every` epochs. The state is saved to `state_path` after each evaluation, every
    `save_seconds`, and when SystemExit or KeyboardInterrupt ends the call; a later call with the same
    arguments goes on from there, bit for bit on a CPU. Computed on the chosen device (see
    `models.devices`), where `setup.network` stays. `report` receives each row of the history with
    `updates`, `seconds`, `structures_per_s`, `seconds_left` (0 once training is over) and, on a GPU,
    `gpu_memory_gb`. Where torch.distributed is initialised, each process takes its share of the batches
    and the first one judges, saves and counts. Returns the averaged network of the best evaluation.

    A batch that does not fit into memory is computed in halves from there on, and the gradients of its parts
    are added up: but for rounding, and for directions that a term draws, the same training.

    Raises EmptyTraining before any work, ResumeError if the saved state is damaged or another
    training's, Diverged where the loss stops being finite, and DoesNotFit where there is no memory for a
    single structure.
    """
    setup.check(optimisation.best_by)
    keep_freed_memory()
    rank, n_processes = processes.rank_and_number()
    change = setup.change.of(setup.network.train())
    digest = _digest(setup, change)
    mean = copy.deepcopy(change).to(devices.chosen())
    network = change.to(devices.chosen()).network
    terms = torch.nn.ModuleList(setup.terms).to(devices.chosen())
    fast = fused(network)  # the same parameters
    trainable = [p for p in (*network.parameters(), *terms.parameters()) if p.requires_grad]
    groups = [*change.moved(), {"params": list(terms.parameters())}]
    optimiser = optimisers.KINDS[optimisation.optimiser](
        groups,
        (p for group in mean.moved() for p in group["params"]),
        learning_rate=optimisation.learning_rate,
        clip_gradient=optimisation.clip_gradient,
        ema_decay=optimisation.ema_decay,
    )
    e0s = torch.atleast_2d(network.atomic_energies_fn.atomic_energies)
    parts: dict[str, Stateful] = {"change": change, "average": mean, "optimiser": optimiser}
    if setup.terms:
        parts["terms"] = terms
    saved = StateFile(
        state_path,
        {**optimisation.model_dump(), "processes": n_processes, "network and data": digest},
        parts,
        every_seconds=save_seconds,
        writes=rank == 0,
    )
    state = saved.load() or TrainingState(rate=optimisation.learning_rate)
    sizes = edge_counts(setup.train)
    clock = Clock(state)

    @lru_cache(maxsize=1)
    def share(epoch: int) -> list[list[int]]:
        order = np.random.default_rng([optimisation.seed, epoch]).permutation(len(setup.train))
        return processes.share(list(batches(order, sizes, optimisation.max_edges)))

    try:
        while True:
            if _evaluation_is_due(state, optimisation):
                optimiser.settle()
                mean.agree(change)
                mean.write()
                _judge(mean, setup, e0s, state, optimisation)
                if report is not None:
                    left = 0.0 if _is_over(state, optimisation) else optimisation.epochs - state.done
                    report(state.history[-1] | clock.pace(state, left))
                clock.restart()
                state.cpu_seconds = clock.cpu_seconds()
                saved.save(state)
            if _is_over(state, optimisation):
                break
            runs = share(state.epoch)
            graphs = [setup.train[i] for i in runs[state.position]]
            with uninterrupted():
                state.rate = change.pace() * _learning_rate(optimisation, state.done)
                loss = _update(fast, graphs, e0s, setup, change, optimiser, trainable, state)
                state.advance(loss, len(runs))
                if change.turns(state.done / optimisation.epochs):
                    optimiser.restart()
                change.write()
                optimiser.follow(state.updates)
            if not math.isfinite(loss):
                raise Diverged(
                    f"the loss is {loss} in epoch {math.ceil(state.done)}; lower the learning rate"
                )
            state.seconds = clock.count(len(graphs) * n_processes)
            state.cpu_seconds = clock.cpu_seconds()
            saved.save_in_time(state)
    except (SystemExit, KeyboardInterrupt):
        saved.save(state)
        raise

    mean.cpu().network.load_state_dict(state.best_weights)
    return Fit(
        network=mean.network.eval(),
        trained=mean.n_trained(),
        history=state.history,
        best_epoch=state.best_epoch,
        seconds=state.seconds,
        cpu_seconds=state.cpu_seconds,
    )


def _learning_rate(optimisation: Optimisation, done: float) -> float:
    if optimisation.decay == "none":
        return optimisation.learning_rate
    progress = done / optimisation.epochs
    return optimisation.learning_rate * max(0.5 * (1.0 + math.cos(math.pi * progress)), 1e-3)


def _update(
    network: Network,
    graphs: Sequence[Graph],
    e0s: torch.Tensor,
    setup: TrainingSetup,
    change: changes.Change,
    optimiser: optimisers.Optimiser,
    trainable: list[torch.nn.Parameter],
    state: TrainingState,
) -> float:
    """One step of the optimiser; returns the loss, its mean where several processes take part."""
    loss = gradients(network, graphs, e0s, setup.weights, setup.terms, state)
    loss = processes.average(loss, trainable)
    change.take_gradients()
    optimiser.step(state.rate)
    return float(loss)


def _evaluation_is_due(state: TrainingState, optimisation: Optimisation) -> bool:
    if not state.history:
        return True
    last, every = state.history[-1]["epoch"], optimisation.evaluate_every
    passed = math.floor(state.done / every + 1e-9) > math.floor(last / every + 1e-9)
    return passed or (state.epoch == optimisation.epochs and last < state.epoch)


def _is_over(state: TrainingState, optimisation: Optimisation) -> bool:
    stopped = optimisation.patience is not None and state.stale >= optimisation.patience
    return stopped or state.epoch == optimisation.epochs


def _judge(
    mean: changes.Change,
    setup: TrainingSetup,
    e0s: torch.Tensor,
    state: TrainingState,
    optimisation: Optimisation,
) -> None:
    """Measure the averaged network on every validation set, keep it if best, record the evaluation."""
    errors: dict[str, float] = {}
    if processes.rank_and_number()[0] == 0:
        for name, graphs in setup.valid.items():
            errors |= {
                f"{name}_{key}": value for key, value in mean_errors(mean.network, graphs, e0s).items()
            }
    row = {
        "epoch": int(state.done) if state.position == 0 else state.done,
        "loss": state.loss / max(state.losses, 1),
        "learning_rate": state.rate,
        **({} if math.isinf(state.edges_at_once) else {"edges_at_once": state.edges_at_once}),
        **mean.facts(),
        **processes.first_process_says(errors),
    }
    prefix = f"{setup.score}_"
    for term in setup.terms:
        term.judged({k.removeprefix(prefix): row[k] for k in row if k.startswith(prefix)})
    rule = optimisation.best_by
    found = scores(row, setup.judged(rule), rule)
    with uninterrupted():
        state.judge(row, found if mean.may_be_kept() else {}, rule, mean.network)
    log.debug("epoch %g  loss %.4f  %s %.1f", row["epoch"], row["loss"], rule, found[rule])


def _digest(setup: TrainingSetup, change: changes.Change) -> str:
    """Content hash of where a training starts, what may change and what it learns from."""
    trainable = [name for name, p in change.named_parameters() if p.requires_grad]
    digest = hashlib.sha256(repr((list(setup.weights), trainable, setup.change)).encode())
    for name, tensor in change.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    for name, items in {"train": setup.train, **setup.valid}.items():
        digest.update(name.encode() + graphs_digest(items).encode())
    return digest.hexdigest()[:16]
