"""One training loop for pre-training, fine-tuning and distillation."""

import copy
import ctypes
import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field

from models import losses
from models.graphs import Batch, Graph, batches, collate, e0_sum
from models.potentials import Network, n_parameters

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]

_ERRORS = ("forces_mae", "energy_per_atom_mae")


class Optimisation(BaseModel):
    """How the parameters are moved. Defaults: naive fine-tuning of arXiv 2606.12704, Table 7."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(1e-3, gt=0)
    decay: Literal["none", "cosine"] = "none"
    ema_decay: float = Field(0.999, ge=0, lt=1)
    clip_gradient: float = Field(1.0, gt=0)
    epochs: int = Field(30, ge=1)
    max_edges: int = Field(2000, ge=1, description="edge budget of one batch")
    seed: int = 0


class EmptyTraining(ValueError):
    """Training that would silently do nothing: no parameters, no labels, no data."""


class ResumeError(ValueError):
    """A saved training state that belongs to another training."""


class Diverged(RuntimeError):
    """A training whose loss is no longer a number."""


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What a strategy prepares: the network, its data by role, and the weights of its heads.

    `valid` maps a name ("target", "replay") to graphs; `score` names the one that decides which
    epoch is best.
    """

    network: Network
    train: Sequence[Graph]
    valid: Mapping[str, Sequence[Graph]]
    weights: Sequence[losses.Weights]
    score: str = "target"

    def check(self) -> None:
        """Raise EmptyTraining where the training could not change or learn anything."""
        if n_parameters(self.network) == 0:
            raise EmptyTraining("no parameter of the network may change")
        if not self.train:
            raise EmptyTraining("no training structures")
        if not any(
            math.isfinite(g.energy) or g.forces.isfinite().any() for g in self.valid.get(self.score, [])
        ):
            raise EmptyTraining(f"no labelled {self.score!r} structures to validate on")
        for index, (head, weight) in enumerate(zip(self.network.heads, self.weights, strict=True)):
            labelled = [
                (weight.energy and math.isfinite(g.energy))
                or (weight.forces and g.forces.isfinite().any())
                or (weight.stress and g.stress.isfinite().any())
                for g in self.train
                if g.head == index
            ]
            if not any(labelled):
                raise EmptyTraining(f"head {head!r} has no labels with a weight above zero")


@dataclass(kw_only=True)
class _State:
    """Everything that a resumed training needs; the sampling order follows from seed and epoch."""

    epoch: int = 0
    updates: int = 0
    best: float = math.inf
    best_epoch: int = -1
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A finished training: the best averaged network and the record of every epoch."""

    network: Network
    history: list[dict[str, Any]]
    best_epoch: int
    seconds: float


def fit(
    setup: TrainingSetup,
    optimisation: Optimisation,
    *,
    state_path: Path | None = None,
    report: Report | None = None,
) -> Fit:
    """Train `setup.network` with AdamW (no weight decay), clipping and a running average (EMA).

    After every epoch the averaged network is judged on each validation set and the state is saved
    to `state_path`; a later call with the same arguments goes on from there, bit for bit. Returns
    the averaged network of the best epoch.
    Raises EmptyTraining before any work, ResumeError if the saved state is another training's, and
    Diverged where the loss stops being finite.
    """
    setup.check()
    keep_freed_memory()
    network = setup.network.train()
    average = copy.deepcopy(network)
    trainable = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=optimisation.learning_rate, weight_decay=0.0, amsgrad=True)
    identity = {"optimisation": optimisation.model_dump(), "setup": _digest(setup)}
    state = _resume(state_path, identity, network, average, optimiser) or _State()
    e0s = torch.atleast_2d(network.atomic_energies_fn.atomic_energies)
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    sizes = [g.n_edges for g in setup.train]
    started = time.monotonic() - state.seconds
    if state.epoch == 0:
        _judge(
            average, setup, e0s, state, 0.0, optimisation.learning_rate, time.monotonic() - started, report
        )

    while state.epoch < optimisation.epochs:
        order = np.random.default_rng([optimisation.seed, state.epoch]).permutation(len(setup.train))
        runs = list(batches(order, sizes, optimisation.max_edges))
        runs = runs[rank : len(runs) - len(runs) % world : world] if world > 1 else runs
        total = 0.0
        for position, run in enumerate(runs):
            rate = _learning_rate(optimisation, (state.epoch + position / len(runs)) / optimisation.epochs)
            optimiser.param_groups[0]["lr"] = rate
            batch = collate([setup.train[i] for i in run], e0s.shape[1], weights_dtype(network))
            total += _update(network, batch, e0s, setup.weights, optimiser, optimisation, trainable)
            if not math.isfinite(total):
                raise Diverged(f"the loss is {total} in epoch {state.epoch + 1}; lower the learning rate")
            state.updates += 1
            _follow(average, network, min(optimisation.ema_decay, (1 + state.updates) / (10 + state.updates)))
        state.epoch += 1
        _judge(average, setup, e0s, state, total / len(runs), rate, time.monotonic() - started, report)
        if state_path is not None and rank == 0:
            _save(state_path, identity, network, average, optimiser, state)

    average.load_state_dict(state.best_weights)
    return Fit(
        network=average.eval(), history=state.history, best_epoch=state.best_epoch, seconds=state.seconds
    )


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: training allocates the same large ones at every step."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return  # another C library: slower, not wrong
    m_mmap_threshold, m_trim_threshold = -3, -1
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, 2**31 - 1)


def weights_dtype(network: Network) -> torch.dtype:
    """Floating-point type of the network's weights (its E0s are always float64)."""
    return next(network.parameters()).dtype


def _learning_rate(optimisation: Optimisation, progress: float) -> float:
    if optimisation.decay == "none":
        return optimisation.learning_rate
    return optimisation.learning_rate * max(0.5 * (1.0 + math.cos(math.pi * progress)), 1e-3)


def _update(
    network: Network,
    batch: Batch,
    e0s: torch.Tensor,
    weights: Sequence[losses.Weights],
    optimiser: torch.optim.Optimizer,
    optimisation: Optimisation,
    trainable: list[torch.nn.Parameter],
) -> float:
    with_stress = any(w.stress for w in weights) and bool(batch["labels_stress"].isfinite().any())
    output = network(batch, training=True, compute_force=True, compute_stress=with_stress)
    loss = losses.huber(output, batch, e0s, weights)
    optimiser.zero_grad()
    loss.backward()
    if dist.is_initialized():
        _average_gradients([p.grad for p in trainable if p.grad is not None])
    torch.nn.utils.clip_grad_norm_(trainable, optimisation.clip_gradient)
    optimiser.step()
    return float(loss.detach())


def _average_gradients(gradients: list[torch.Tensor]) -> None:
    """Replace gradients by their mean over all processes, in one message."""
    flat = torch.cat([g.ravel() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _follow(average: Network, network: Network, decay: float) -> None:
    with torch.no_grad():
        for mean, current in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(current, 1.0 - decay)


def _judge(
    average: Network,
    setup: TrainingSetup,
    e0s: torch.Tensor,
    state: _State,
    loss: float,
    rate: float,
    seconds: float,
    report: Report | None,
) -> None:
    """Measure the averaged network on every validation set, keep it if best, record the epoch."""
    row: dict[str, Any] = {"epoch": state.epoch, "loss": loss, "learning_rate": rate, "seconds": seconds}
    for name, graphs in setup.valid.items():
        row |= {f"{name}_{key}": value for key, value in mean_errors(average, graphs, e0s).items()}
    state.history.append(row)
    state.seconds = seconds
    score = sum(row[key] for name in _ERRORS if (key := f"{setup.score}_{name}") in row)
    if score < state.best:
        state.best, state.best_epoch = score, state.epoch
        state.best_weights = {k: v.clone() for k, v in average.state_dict().items()}
    log.debug("epoch %d  loss %.4f  %s errors %.1f", state.epoch, loss, setup.score, score)
    if report is not None:
        report(row)


def mean_errors(network: Network, graphs: Sequence[Graph], e0s: torch.Tensor) -> dict[str, float]:
    """Mean absolute errors over labelled entries: `forces_mae` meV/Å, `energy_per_atom_mae` meV/atom.

    What has no labels is left out; a prediction that is not finite makes its error NaN.
    """
    differences: dict[str, list[torch.Tensor]] = {name: [] for name in _ERRORS}
    for run in batches(range(len(graphs)), [g.n_edges for g in graphs], 8000):
        batch = collate([graphs[i] for i in run], e0s.shape[1], weights_dtype(network))
        output = network(batch, compute_force=True)
        energy = output["interaction_energy"].detach().double() + e0_sum(batch, e0s)
        per_atom = (energy - batch["labels_energy"]) / batch["n_atoms"]
        forces = output["forces"].detach().double() - batch["labels_forces"]
        differences["energy_per_atom_mae"].append(per_atom[batch["labels_energy"].isfinite()])
        differences["forces_mae"].append(forces[batch["labels_forces"].isfinite()])
    joined = {name: torch.cat(parts) for name, parts in differences.items()}
    return {name: 1000.0 * float(d.abs().mean()) for name, d in joined.items() if len(d)}


def _digest(setup: TrainingSetup) -> str:
    """Content hash of where a training starts and what it learns from."""
    digest = hashlib.sha256(repr(list(setup.weights)).encode())
    for name, tensor in setup.network.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    for name, items in {"train": setup.train, **setup.valid}.items():
        digest.update(name.encode())
        for g in items:
            digest.update(repr((g.head, g.energy)).encode())
            for tensor in (g.species, g.positions, g.cell, g.forces, g.stress):
                digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _save(
    path: Path,
    identity: dict[str, Any],
    network: Network,
    average: Network,
    optimiser: torch.optim.Optimizer,
    state: _State,
) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(
        {
            "identity": identity,
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "state": vars(state),
        },
        temporary,
    )
    temporary.replace(path)


def _resume(
    path: Path | None,
    identity: dict[str, Any],
    network: Network,
    average: Network,
    optimiser: torch.optim.Optimizer,
) -> _State | None:
    if path is None or not path.exists():
        return None
    try:
        saved = torch.load(path, weights_only=True)
    except Exception as error:
        raise ResumeError(
            f"{path}: the saved training state cannot be read ({error}); delete it to start anew"
        ) from error
    if saved["identity"] != identity:
        raise ResumeError(f"{path}: the saved state belongs to another training; delete it to start anew")
    network.load_state_dict(saved["network"])
    average.load_state_dict(saved["average"])
    optimiser.load_state_dict(saved["optimiser"])
    log.info("resumed after epoch %d", saved["state"]["epoch"])
    return _State(**saved["state"])
