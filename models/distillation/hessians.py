"""Products of a potential's Hessian with directions: single rows, random probes, the whole matrix.

The Hessian is H = d²E/dR² = −dF/dR, eV/Å². A product H v is one vector–Jacobian product through the forces
for every structure of a batch at once, and is never made from the whole matrix. A row of H is the product
with a unit displacement of one coordinate.
"""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field

from models import devices
from models.datasets import fingerprint, read_structures
from models.graphs import Batch, Graph, batches, collate, edge_counts, graphs
from models.kernels import for_inference
from models.potentials import Potential, load

_MAX_EDGES = 4000
_STRUCTURES = 64  # of a part: what a kill costs at most

Told = Callable[[dict[str, Any]], None]


class Sampling(BaseModel):
    """Which products a teacher gives of a structure.

    "rows": coordinates drawn without replacement, as in arXiv 2501.09009; "probes": random signs for all
    coordinates, each of which says something of every atom, as large cells need it (Hutchinson's probes).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    directions: Literal["rows", "probes"] = "rows"
    number: int = Field(4, ge=1, description="of each structure; all rows where it has fewer")
    seed: int = 0

    def draw(self, structure: Atoms) -> np.ndarray:
        """What is drawn for a structure: coordinates (K,) counted as 3 atom + axis, or signs (K, N, 3)."""
        content = int(fingerprint(structure)[:16], 16)
        rng = np.random.default_rng([self.seed, content])
        if self.directions == "probes":
            return rng.choice(np.array([-1, 1], dtype=np.int8), (self.number, len(structure), 3))
        coordinates = 3 * len(structure)
        chosen = rng.choice(coordinates, min(self.number, coordinates), replace=False)
        return np.sort(chosen).astype(np.int32)


def directions(drawn: np.ndarray, n_atoms: int) -> torch.Tensor:
    """Directions (K, N, 3) of what `Sampling.draw` gave."""
    if drawn.ndim == 3:
        return torch.tensor(drawn, dtype=torch.float64)
    rows = torch.zeros(len(drawn), 3 * n_atoms, dtype=torch.float64)
    rows[torch.arange(len(drawn)), torch.as_tensor(drawn, dtype=torch.int64)] = 1.0
    return rows.view(len(drawn), n_atoms, 3)


def product(
    forces: torch.Tensor, batch: Batch, direction: torch.Tensor, *, graph: bool = False
) -> torch.Tensor:
    """H v (ΣN, 3), eV/Å² times the unit of v, from forces that kept their graph; `graph`: so does it.

    `direction` v (ΣN, 3) holds one direction of every structure of the batch. Of forces that are no
    gradient, it is −vᵀ dF/dR: a row of the Jacobian.
    """
    (found,) = torch.autograd.grad(
        forces, batch["positions"], -direction, create_graph=graph, retain_graph=True, materialize_grads=True
    )
    return found


def products(
    potential: Potential, items: Sequence[Graph], wanted: Sequence[torch.Tensor]
) -> Iterator[np.ndarray]:
    """Products (K, N, 3), eV/Å² times the unit of the directions (K, N, 3), graph by graph.

    One pass through the network and one vector–Jacobian product per direction and batch, so that the cost
    grows linearly with K.
    """
    network = for_inference(devices.moved(potential.network))
    weights = next(network.parameters())
    n_elements = potential.network.atomic_energies_fn.atomic_energies.shape[-1]
    for run in batches(range(len(items)), edge_counts(items), _MAX_EDGES):
        chosen = [items[i] for i in run]
        batch = collate(chosen, n_elements, weights.dtype, weights.device)
        forces = network(batch, training=True, compute_force=True)["forces"]
        found: list[torch.Tensor] = []
        for k in range(max(len(wanted[i]) for i in run)):
            given = [wanted[i][k] if k < len(wanted[i]) else torch.zeros(items[i].n_atoms, 3) for i in run]
            found.append(product(forces, batch, torch.cat(given).to(forces)).detach().cpu())
        parts = torch.stack(found).split([g.n_atoms for g in chosen], dim=1)
        for i, part in zip(run, parts, strict=True):
            yield part[: len(wanted[i])].numpy()


def hessian(potential: Potential, structure: Atoms) -> np.ndarray:
    """The whole Hessian (3N, 3N) of one structure, eV/Å²: 3N products."""
    (item,) = graphs([structure], potential)
    everything = directions(np.arange(3 * len(structure)), len(structure))
    (rows,) = products(potential, [item], [everything])
    return rows.reshape(3 * len(structure), -1).astype(float)


def label(
    potential: Potential,
    structures: Sequence[Atoms],
    sampling: Sampling,
    work: Path,
    report: Told | None = None,
) -> Path:
    """The file of a potential's products of many structures, float32.

    It is written part by part, each kept in `work` until all are there, so that a killed call goes on. A
    structure that comes twice is labelled once. Raises FloatingPointError naming a structure whose
    product is not finite.
    """
    found = {fingerprint(atoms): atoms for atoms in structures}
    distinct = [(name, found[name]) for name in sorted(found)]  # the same file, whatever their order
    parts = [distinct[k : k + _STRUCTURES] for k in range(0, len(distinct), _STRUCTURES)]
    paths = [work / f"products-{number:05d}.npz" for number in range(len(parts))]
    for number, (part, path) in enumerate(zip(parts, paths, strict=True)):
        if not path.exists():
            _write(path, _labelled(potential, part, sampling))
        if report is not None:
            report({"done": number + 1, "parts": len(parts)})
    joined = work / "products.npz"
    with zipfile.ZipFile(joined, "w") as target:
        for path in paths:
            with zipfile.ZipFile(path) as source:
                for entry in source.infolist():
                    target.writestr(entry, source.read(entry))
    return joined


def label_files(
    teacher: Path, datasets: Sequence[Path], sampling: Sampling, work: Path, report: Told | None = None
) -> Path:
    """The file of a teacher's products of the structures of several datasets; see `label`."""
    structures = [atoms for path in datasets for atoms in read_structures(path)]
    return label(load(teacher), structures, sampling, work, report)


class Products:
    """A file of products, of which only the entries that are asked for are read."""

    def __init__(self, path: Path) -> None:
        self._content = np.load(path)

    def of(self, structure: Atoms) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Directions and products (K, N, 3) of a structure; None where it has none."""
        name = fingerprint(structure)
        if f"{name}.products" not in self._content:
            return None
        drawn, found = self._content[f"{name}.drawn"], self._content[f"{name}.products"]
        return directions(drawn, len(structure)).float(), torch.tensor(found)


def _labelled(
    potential: Potential, part: Sequence[tuple[str, Atoms]], sampling: Sampling
) -> Iterator[tuple[str, np.ndarray]]:
    drawn = [sampling.draw(atoms) for _, atoms in part]
    items = graphs([atoms for _, atoms in part], potential)
    wanted = [directions(d, g.n_atoms) for d, g in zip(drawn, items, strict=True)]
    for (name, atoms), d, found in zip(part, drawn, products(potential, items, wanted), strict=True):
        if not np.isfinite(found).all():
            raise FloatingPointError(
                f"structure {name[:12]} ({atoms.get_chemical_formula()}): a Hessian row is not finite"
            )
        yield f"{name}.drawn", d
        yield f"{name}.products", found.astype(np.float32)


def _write(path: Path, arrays: Iterator[tuple[str, np.ndarray]]) -> None:
    """A .npz whose bytes depend on nothing but its content; whole, or not there."""
    temporary = path.with_suffix(".tmp")
    with zipfile.ZipFile(temporary, "w") as target:
        for name, array in arrays:
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, whenever it is written
            with target.open(entry, "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    temporary.replace(path)
