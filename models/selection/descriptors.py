"""What a model sees of atoms and structures, as vectors that turning and renumbering do not change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from models import devices, graphs
from models.distillation.features import n_invariants
from models.kernels import for_inference
from models.memory import keep_freed_memory
from models.potentials import Potential
from models.selection.base import Candidates


@dataclass(frozen=True)
class Seen:
    """What a model says of one structure: invariants of its atoms (N, D), its largest force in eV/Å."""

    invariants: np.ndarray
    max_force: float


def see(potential: Potential, structures: Sequence[Atoms]) -> list[Seen]:
    """The invariants of the last layer for every atom, and the largest force of each structure, in batches.

    Raises ValueError naming an element that the potential does not know.
    """
    keep_freed_memory()
    columns = n_invariants(potential.network)
    network = for_inference(devices.moved(potential.network))
    weights = next(network.parameters())
    items = graphs.graphs(structures, potential)
    found: list[Seen] = []
    for run in graphs.batches(range(len(items)), graphs.edge_counts(items), 32_000 // weights.dtype.itemsize):
        batch = graphs.collate(
            [items[i] for i in run], len(potential.elements), weights.dtype, weights.device
        )
        output = network(batch, compute_force=True)
        counts = [items[i].n_atoms for i in run]
        features = output["node_feats"][:, -columns:].detach().double().cpu().split(counts)
        forces = torch.linalg.vector_norm(output["forces"].detach().double(), dim=1).cpu().split(counts)
        found += [Seen(f.numpy(), float(g.max())) for f, g in zip(features, forces, strict=True)]
    return found


def structure_vectors(pool: Candidates, known: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """One vector (F,) for every structure of both: means of the descriptors of each element's atoms.

    The block of an element is scaled so that two structures are about one apart in it. A structure without
    the element has the block's mean there, and differs by as much in a column that says which structures
    have it: a missing element counts, but drowns nothing else.
    """
    structures = [*pool.structures, *known.structures]
    descriptors = [*pool.descriptors, *known.descriptors]
    blocks = []
    for z in np.unique(np.concatenate([atoms.numbers for atoms in structures])):
        has = np.array([(atoms.numbers == z).any() for atoms in structures])
        means = np.array(
            [
                d[a.numbers == z].mean(axis=0)
                for a, d, h in zip(structures, descriptors, has, strict=True)
                if h
            ]
        )
        block = np.zeros((len(structures), means.shape[1] + 1))
        centred = means - means.mean(axis=0)
        spread = np.sqrt(2.0 * centred.var(axis=0).sum())
        block[has, :-1] = centred / spread if spread > 0 else 0.0
        block[:, -1] = has
        blocks.append(block)
    vectors = np.concatenate(blocks, axis=1)
    return vectors[: len(pool)], vectors[len(pool) :]
