"""Energies and forces of many replicas, step after step."""

from collections.abc import Sequence

import numpy as np
import torch

from models import devices, graphs
from models.dynamics.neighbours import Neighbours
from models.dynamics.replicas import Replica
from models.graphs import Batch, Prediction
from models.kernels import for_inference
from models.memory import keep_freed_memory
from models.potentials import Potential
from models.tracing import traced

_BYTES = 32_000  # of one number per edge of a batch; see `graphs.predict`


class Forces:
    """The forces of a potential on replicas; with `stress`, and then in cells that change, their stress.

    The same as `graphs.predict` gives. But while the same replicas have the same neighbours, and their cells
    do not change, only positions are new: all else of a batch is made once.
    """

    def __init__(self, potential: Potential, *, stress: bool) -> None:
        keep_freed_memory()
        potential = traced(potential)
        self._network = for_inference(devices.moved(potential.network))
        self._weights = next(self._network.parameters())
        self._e0s = torch.atleast_2d(self._network.atomic_energies_fn.atomic_energies)
        self._stress = stress
        self._batches: list[tuple[list[Replica], Batch, list[float]]] = []
        self._made_for: list[tuple[Replica, Neighbours]] = []

    def update(self, running: Sequence[Replica]) -> None:
        """Let every replica `take` what the potential says of its present positions."""
        near = [(replica, replica.near()) for replica in running]
        known = len(near) == len(self._made_for) and all(
            a is c and b is d for (a, b), (c, d) in zip(near, self._made_for, strict=True)
        )
        if self._stress or not known:
            self._collate(running)
            self._made_for = near
        for members, batch, e0s in self._batches:
            positions = np.concatenate([replica.positions for replica in members])
            batch["positions"] = torch.from_numpy(positions).to(self._weights)
            output = self._network(batch, compute_force=True, compute_stress=self._stress)
            energies = output["interaction_energy"].detach().double().cpu().tolist()
            forces = output["forces"].detach().double().cpu().numpy()
            stress = output["stress"].detach().double().cpu().numpy() if self._stress else None
            first = 0
            for k, replica in enumerate(members):
                last = first + len(replica.positions)
                found = Prediction(
                    energy=energies[k] + e0s[k],
                    forces=forces[first:last],
                    stress=None if stress is None else stress[k],
                )
                replica.take(found)
                first = last

    def _collate(self, running: Sequence[Replica]) -> None:
        items = [replica.current_graph() for replica in running]
        budget = _BYTES // self._weights.dtype.itemsize
        self._batches = []
        for run in graphs.batches(range(len(items)), graphs.edge_counts(items), budget):
            chosen = [items[i] for i in run]
            batch = graphs.collate(chosen, self._e0s.shape[1], self._weights.dtype, self._weights.device)
            e0s = graphs.e0_sum(batch, self._e0s).cpu().tolist()
            self._batches.append(([running[i] for i in run], batch, e0s))
