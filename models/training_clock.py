"""What a clock says of a training: for whoever watches, never for what is kept."""

import time

import torch

from models.training_state import TrainingState


class Clock:
    """Times a training that earlier processes may have begun: `state` has what they spent on it."""

    def __init__(self, state: TrainingState) -> None:
        self._started = time.monotonic() - state.seconds
        self._cpu_started = time.process_time() - state.cpu_seconds
        self.restart()

    def restart(self) -> None:
        """Count anew from here: an evaluation is no part of the pace."""
        self._since = time.monotonic()
        self._training = 0.0
        self._structures = 0

    def count(self, structures: int) -> float:
        """Add structures that were just trained on; returns the seconds since the start."""
        now = time.monotonic()
        self._structures += structures
        self._training = now - self._since
        return now - self._started

    def cpu_seconds(self) -> float:
        """What all processors spent on it so far."""
        return time.process_time() - self._cpu_started

    def pace(self, state: TrainingState, epochs_left: float) -> dict[str, float]:
        """`updates`, `seconds`, `structures_per_s`, `seconds_left` and, on a GPU, `gpu_memory_gb`."""
        seconds = time.monotonic() - self._started
        pace = {"updates": state.updates, "seconds": seconds}
        if self._structures:
            pace["structures_per_s"] = self._structures / self._training
        if state.done > 0:
            pace["seconds_left"] = seconds * epochs_left / state.done
        if torch.cuda.is_initialized():
            pace["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        return pace
