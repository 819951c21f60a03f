"""Structures as graphs: neighbour lists built once, batches by edge budget, batched evaluation."""

import hashlib
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import complete_cell
from matscipy.neighbours import neighbour_list

from models import devices
from models.kernels import for_inference
from models.memory import in_halves, keep_freed_memory
from models.potentials import Potential

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """One structure, its neighbour list, and its labels where it has them.

    N atoms, E edges. `positions` (N, 3) Å; `species` (N,) indices into the network's elements;
    `edge_index` (2, E); `unit_shifts` (E, 3); `cell` (3, 3) Å; `energy` eV, `forces` (N, 3) eV/Å,
    `stress` (3, 3) eV/Å³, each NaN where unlabelled; `head` an index. `cell` is never singular: axes
    that are not periodic have unit normals. `periodic` is whether all three are, so that there is a stress.
    `magmoms` (N, 3) μB is the label of the moments, NaN where unlabelled, and `spins` the moments that are
    given, zero where none are; `magnetic_forces` (N, 3) eV/μB, NaN where unlabelled (see `moments`).
    `lessons` is what else a teacher says of it, by name: tensors (N, …), NaN where it says nothing.
    """

    positions: torch.Tensor
    species: torch.Tensor
    edge_index: torch.Tensor
    unit_shifts: torch.Tensor
    cell: torch.Tensor
    energy: float
    forces: torch.Tensor
    stress: torch.Tensor
    magmoms: torch.Tensor
    spins: torch.Tensor
    magnetic_forces: torch.Tensor
    head: int = 0
    periodic: bool = False
    lessons: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.species)

    @property
    def n_edges(self) -> int:
        """Number of directed edges."""
        return self.edge_index.shape[1]


def neighbours(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Directed neighbour list within `cutoff` (Å): edge index (2, E) and unit shifts (E, 3)."""
    if not pbc.any() and len(positions) < 200:
        # For a small molecule all pairs are cheaper than a cell list.
        distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
        np.fill_diagonal(distances, np.inf)
        i, j = np.nonzero(distances < cutoff)
        return np.stack([i, j]), np.zeros((len(i), 3))
    # Axes that are not periodic become normals to the others, longer than the structure and its images.
    box = _completed(cell, pbc)
    box[~pbc] *= np.linalg.norm(np.ptp(positions, axis=0)) + 2.0 * cutoff + 1.0
    i, j, shifts = neighbour_list("ijS", positions=positions, cell=box, pbc=pbc, cutoff=cutoff)
    return np.stack([i, j]).astype(np.int64), shifts.astype(float)


def _completed(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    return np.asarray(complete_cell(np.where(pbc[:, None], cell, 0.0)))


def graph(atoms: Atoms, elements: Sequence[int], cutoff: float, head: int = 0) -> Graph:
    """The graph of one structure, with its `REF_` labels where it has them.

    Raises ValueError naming an element that is not in `elements`.
    """
    index = {z: k for k, z in enumerate(elements)}
    if unknown := sorted(set(atoms.get_chemical_symbols()) - {chemical_symbols[z] for z in elements}):
        raise ValueError(f"{atoms.get_chemical_formula()}: the model does not know {', '.join(unknown)}")
    cell = _completed(atoms.cell.array, atoms.pbc)
    edge_index, unit_shifts = neighbours(atoms.positions, cell, atoms.pbc, cutoff)
    stress = np.full((3, 3), np.nan)
    if "REF_stress" in atoms.info:
        stress = as_matrix(np.asarray(atoms.info["REF_stress"], dtype=float))
    unlabelled = np.full((len(atoms), 3), np.nan)
    magmoms, spins = moments(atoms)
    return Graph(
        positions=torch.tensor(atoms.positions, dtype=torch.float64),
        species=torch.tensor([index[z] for z in atoms.numbers]),
        edge_index=torch.tensor(edge_index),
        unit_shifts=torch.tensor(unit_shifts, dtype=torch.float64),
        cell=torch.tensor(cell, dtype=torch.float64),
        energy=float(atoms.info.get("REF_energy", np.nan)),
        forces=torch.tensor(atoms.arrays.get("REF_forces", unlabelled), dtype=torch.float64),
        stress=torch.tensor(stress),
        magmoms=torch.tensor(unlabelled if magmoms is None else magmoms),
        spins=torch.tensor(spins),
        magnetic_forces=torch.tensor(
            atoms.arrays.get("REF_magnetic_forces", unlabelled), dtype=torch.float64
        ),
        head=head,
        periodic=bool(atoms.pbc.all()),
    )


def moments(atoms: Atoms) -> tuple[np.ndarray | None, np.ndarray]:
    """The label of an atoms' moments, None without, and the moments that are given, all (N, 3) μB.

    Given are ASE's initial moments where there are some, else the label, else none: zeros. Collinear moments
    (N,) point along z, up where they are positive.
    """
    found: list[np.ndarray | None] = []
    for name in ("REF_magmoms", "initial_magmoms"):
        values = atoms.arrays.get(name)
        if values is not None and values.ndim == 1:
            values = np.outer(values, [0.0, 0.0, 1.0])
        found.append(None if values is None else values.astype(float))
    label, initial = found
    return label, initial if initial is not None else np.zeros((len(atoms), 3)) if label is None else label


def as_matrix(stress: np.ndarray) -> np.ndarray:
    """A stress in Voigt order (6,), flat (9,) or (3, 3) as a (3, 3) matrix."""
    if stress.size == 6:
        xx, yy, zz, yz, xz, xy = stress.ravel()
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return stress.reshape(3, 3)


def graphs(structures: Iterable[Atoms], potential: Potential, head: str | None = None) -> list[Graph]:
    """Graphs of many structures for one potential (see `graph`); default head: the last one."""
    index = len(potential.heads) - 1 if head is None else potential.heads.index(head)
    return [graph(atoms, potential.elements, potential.cutoff, index) for atoms in structures]


def collate(
    batch: Sequence[Graph], n_elements: int, dtype: torch.dtype, device: torch.device | None = None
) -> Batch:
    """One disconnected graph out of many, as the dictionary that a MACE network takes; default: on the CPU.

    Beside the network's own keys: `labels_energy` (B,) eV, `labels_forces` (ΣN, 3) eV/Å, `labels_stress`
    (B, 3, 3) eV/Å³, `labels_magmoms` (ΣN,) μB, which are magnitudes, and `labels_magnetic_forces` (ΣN, 3)
    eV/μB, NaN where unlabelled, `spins` (ΣN, 3) μB, `n_atoms` (B,), and the lessons that all of the batch
    have, (ΣN, …).
    """
    counts = torch.tensor([g.n_atoms for g in batch])
    pointer = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    species = torch.cat([g.species for g in batch])
    shifts = torch.cat([g.unit_shifts @ g.cell for g in batch])
    joined = {
        "positions": torch.cat([g.positions for g in batch]).to(dtype),
        "node_attrs": torch.nn.functional.one_hot(species, n_elements).to(dtype),
        "edge_index": torch.cat([g.edge_index + p for g, p in zip(batch, pointer[:-1], strict=True)], dim=1),
        "unit_shifts": torch.cat([g.unit_shifts for g in batch]).to(dtype),
        "shifts": shifts.to(dtype),
        "cell": torch.cat([g.cell for g in batch]).to(dtype),
        "batch": torch.repeat_interleave(torch.arange(len(batch)), counts),
        "ptr": pointer,
        "head": torch.tensor([g.head for g in batch]),
        "n_atoms": counts,
        "species": species,
        "labels_energy": torch.tensor([g.energy for g in batch], dtype=torch.float64),
        "labels_forces": torch.cat([g.forces for g in batch]).to(dtype),
        "labels_stress": torch.stack([g.stress for g in batch]).to(dtype),
        "labels_magmoms": torch.cat([g.magmoms for g in batch]).norm(dim=1).to(dtype),
        "labels_magnetic_forces": torch.cat([g.magnetic_forces for g in batch]).to(dtype),
        "spins": torch.cat([g.spins for g in batch]).to(dtype),
        **{name: torch.cat([g.lessons[name] for g in batch]).to(dtype) for name in batch[0].lessons},
    }
    return joined if device is None else {name: tensor.to(device) for name, tensor in joined.items()}


class Surveyed(Sequence[Graph], ABC):
    """Many graphs that tell, without being read, their numbers of edges and the digest of their content."""

    edge_counts: Sequence[int] | np.ndarray
    digest: str


def edge_counts(items: Sequence[Graph]) -> Sequence[int] | np.ndarray:
    """Numbers of directed edges; graphs that are stored elsewhere are not read for it."""
    return items.edge_counts if isinstance(items, Surveyed) else [g.n_edges for g in items]


def digest(items: Iterable[Graph]) -> str:
    """Hash of structures and labels, in order; graphs that are stored elsewhere are not read for it."""
    if isinstance(items, Surveyed):
        return items.digest
    content = hashlib.sha256()
    for g in items:
        content.update(repr((g.head, g.energy)).encode())
        labels = (g.forces, g.stress, g.magmoms, g.magnetic_forces, g.spins)
        for tensor in (g.species, g.positions, g.cell, *labels, *g.lessons.values()):
            content.update(tensor.numpy().tobytes())
    return content.hexdigest()


def batches(order: Iterable[int], sizes: Sequence[int] | np.ndarray, budget: float) -> Iterator[list[int]]:
    """Split `order` into runs whose summed `sizes` stay within `budget` (never an empty run)."""
    run: list[int] = []
    total = 0
    for index in order:
        if run and total + sizes[index] > budget:
            yield run
            run, total = [], 0
        run.append(index)
        total += sizes[index]
    if run:
        yield run


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Energy (eV), forces (N, 3) eV/Å and, where asked for, stress (3, 3) eV/Å³ of one structure.

    Of a potential with magnetic moments also their magnitudes (N,), μB, and magnetic forces (N, 3), eV/μB.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None
    magmoms: np.ndarray | None = None
    magnetic_forces: np.ndarray | None = None


def predict(
    potential: Potential, items: Sequence[Graph], *, stress: bool = False, max_edges: int | None = None
) -> list[Prediction]:
    """Energies, forces and, where periodic, stresses of graphs, in batches of up to `max_edges` edges.

    Computed on the chosen device (see `models.devices`), with numbers and arrays on the CPU as the result.
    Without `max_edges` as many as are fastest on a CPU: 8000 in float32 and 4000 in float64.
    The E0 sum is added in float64, so that totals of thousands of eV keep their meV. A batch that does not
    fit into memory is computed in halves; raises DoesNotFit where not even a single structure does.
    """
    keep_freed_memory()
    network = for_inference(devices.moved(potential.network))
    weights = next(network.parameters())
    e0s = torch.atleast_2d(network.atomic_energies_fn.atomic_energies)
    budget = max_edges or 32_000 // weights.dtype.itemsize

    def predicted(run: Sequence[int]) -> list[Prediction]:
        chosen = [items[i] for i in run]
        batch = collate(chosen, e0s.shape[1], weights.dtype, weights.device)
        output = network(batch, compute_force=True, compute_stress=stress)
        if "magmoms" in output:
            output["magmoms"] = output["magmoms"].clamp(min=0.0)
        energies = (output["interaction_energy"].detach().double() + e0_sum(batch, e0s)).cpu().tolist()
        of_atoms = {
            name: output[name].detach().double().cpu().split([g.n_atoms for g in chosen])
            for name in ("forces", "magmoms", "magnetic_forces")
            if name in output
        }
        stresses = output["stress"].detach().double().cpu().numpy() if stress else None
        return [
            Prediction(
                energy=energies[k],
                stress=stresses[k] if stresses is not None and item.periodic else None,
                **{name: values[k].numpy() for name, values in of_atoms.items()},
            )
            for k, item in enumerate(chosen)
        ]

    results: list[Prediction] = []
    for run in batches(range(len(items)), edge_counts(items), budget):
        for part in in_halves(run, predicted):
            results += part
    return results


def e0_sum(batch: Batch, e0s: torch.Tensor) -> torch.Tensor:
    """Σ E0 of every structure of a batch, eV, float64; `e0s` is (heads, elements)."""
    per_atom = e0s.double()[batch["head"][batch["batch"]], batch["species"]]
    return per_atom.new_zeros(len(batch["n_atoms"])).index_add_(0, batch["batch"], per_atom)
