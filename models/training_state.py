"""The state of a training on disk: written so that no kill loses it, read so that it goes on bit for bit."""

import contextlib
import hashlib
import io
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from models import processes

log = logging.getLogger(__name__)

_DIGEST_BYTES = 32


class ResumeError(ValueError):
    """A saved training state that is damaged or belongs to another training."""


class Stateful(Protocol):
    """A network or an optimiser."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@dataclass(kw_only=True)
class TrainingState:
    """Where a training is and what it has found; the sampling order follows from seed and epoch.

    `position` is the next batch of `epoch`; `done` counts epochs with the share of this one. `loss` is
    the sum over the `losses` updates since the last evaluation, `rate` the last learning rate. `lows`
    are the lowest scores so far, and `stale` the number of evaluations since one of them fell. Batches with
    more edges than `edges_at_once` are computed in parts.
    """

    rate: float
    epoch: int = 0
    position: int = 0
    done: float = 0.0
    updates: int = 0
    loss: float = 0.0
    losses: int = 0
    lows: dict[str, float] = field(default_factory=dict)
    stale: int = 0
    best_epoch: float = -1
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    edges_at_once: float = math.inf

    def advance(self, loss: float, n_batches: int) -> None:
        """One update is done, of the `n_batches` of this epoch."""
        self.loss += loss
        self.losses += 1
        self.updates += 1
        self.position += 1
        if self.position == n_batches:
            self.epoch, self.position = self.epoch + 1, 0
        self.done = self.epoch + self.position / n_batches

    def judge(self, row: dict[str, Any], scores: Mapping[str, float], rule: str, average: Stateful) -> None:
        """Record an evaluation; keep the averaged weights where the score named `rule` is a new low.

        Without scores it is on record only.
        """
        best = scores.get(rule, math.inf) < self.lows.get(rule, math.inf)
        if best:
            self.best_epoch = row["epoch"]
            self.best_weights = {name: tensor.clone() for name, tensor in average.state_dict().items()}
        lower = {name: score for name, score in scores.items() if score < self.lows.get(name, math.inf)}
        self.lows |= lower
        self.stale = 0 if lower or not scores else self.stale + 1
        self.history.append(row)
        self.loss, self.losses = 0.0, 0


class StateFile:
    """Where a training's state is saved (nowhere without a `path`), with the one before it.

    `identity` says which training it is, `parts` hold its tensors. Only where `writes` is anything
    written: one process of several.
    """

    def __init__(
        self,
        path: Path | None,
        identity: Mapping[str, Any],
        parts: Mapping[str, Stateful],
        *,
        every_seconds: float,
        writes: bool,
    ) -> None:
        self._path = path
        self._identity = dict(identity)
        self._parts = parts
        self._every = every_seconds
        self._writes = writes
        self._saved_at = time.monotonic()

    def save_in_time(self, state: TrainingState) -> None:
        """Save if the last time is long enough ago."""
        if time.monotonic() - self._saved_at >= self._every:
            self.save(state)

    def save(self, state: TrainingState) -> None:
        """Replace what is saved; whatever happens meanwhile, one complete state is left."""
        if self._path is None or not self._writes:
            return
        content = {
            "identity": self._identity,
            "parts": {name: _on_cpu(part.state_dict()) for name, part in self._parts.items()},
            "rng": torch.get_rng_state(),
            "state": _on_cpu(vars(state)),
        }
        _write(content, self._path)
        self._saved_at = time.monotonic()

    def load(self) -> TrainingState | None:
        """Restore the parts and the random numbers; None where nothing is saved.

        A damaged file is passed over if the state before it is whole. Raises ResumeError if none is, or
        if what is saved is another training's.
        """
        saved = processes.first_process_says(self._find() if self._writes else None)
        if saved is None:
            return None
        for name, part in self._parts.items():
            part.load_state_dict(saved["parts"][name])
        torch.set_rng_state(saved["rng"])
        state = TrainingState(**saved["state"])
        log.info("goes on from epoch %.2f, update %d", state.done, state.updates)
        return state

    def _find(self) -> dict[str, Any] | None:
        """What is saved of this training."""
        if self._path is None:
            return None
        previous = _previous(self._path)
        advice = f"delete {self._path.name} and {previous.name} to start anew"
        found = [path for path in (self._path, previous) if path.exists()]
        for path in found:
            saved = read(path)
            if saved is None:
                log.warning("%s is damaged", path)
            elif different := _difference(saved["identity"], self._identity):
                raise ResumeError(f"{path}: the state of another training ({different}); {advice}")
            else:
                return saved
        if found:
            raise ResumeError(f"{found[0]}: truncated, corrupt or not a training state; {advice}")
        return None


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGTERM and Ctrl-C wait until the block is done, so that no update is left half made."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    waiting: list[int] = []
    handlers = {
        kind: signal.signal(kind, lambda number, _: waiting.append(number))
        for kind in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for kind, handler in handlers.items():
            signal.signal(kind, handler if handler is not None else signal.SIG_DFL)
        for number in waiting:
            signal.raise_signal(number)


def _on_cpu(value: Any) -> Any:
    """The value with its tensors on the CPU, so that another machine can go on."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else value


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def read(path: Path) -> dict[str, Any] | None:
    """What was saved, None if it is not what its digest says."""
    content = memoryview(path.read_bytes())
    if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
        return None
    saved: dict[str, Any] = torch.load(io.BytesIO(content[_DIGEST_BYTES:]), weights_only=True)
    return saved


def prolong(path: Path, longer: Path, epochs: int) -> None:
    """Write a finished training's state to `longer`, as that of one with more epochs.

    Raises ResumeError where it is damaged.
    """
    saved = read(path)
    if saved is None:
        raise ResumeError(f"{path}: truncated, corrupt or not a training state")
    _write({**saved, "identity": {**saved["identity"], "epochs": epochs}}, longer)


def _write(saved: Mapping[str, Any], path: Path) -> None:
    """Replace a state, with its digest before it; the one before is kept beside it."""
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    content = buffer.getbuffer()
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(hashlib.sha256(content).digest())
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        path.replace(_previous(path))
    temporary.replace(path)
    _sync_folder(path.parent)


def _difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What sets two trainings apart, in words."""
    keys = [key for key in now if key not in saved or saved[key] != now[key]]
    return ", ".join(f"{key} {saved.get(key)} there, {now[key]} here" for key in keys)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
