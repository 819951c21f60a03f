"""One self-contained TorchScript file: tensors in, tensors out, with torch alone."""

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from ase import Atoms

from models.exports.base import ExportError, Format, Source
from models.graphs import Prediction, neighbours
from models.mace_torch import jit
from models.networks import EdgeNetwork
from models.potentials import Potential, building

ABOUT = "temper.json"  # the extra file inside
_LAST_ELEMENT = 118
_ELSEWHERE = [("STATIC", 2), ("DYNAMIC", 10)]  # torch's own default
_CALLS = 3


class _MaceEdges(torch.nn.Module):
    """A MACE network asked for the interaction energy of edge vectors."""

    def __init__(self, network: torch.nn.Module, n_elements: int) -> None:
        super().__init__()
        self.network = network
        self.n_elements = n_elements

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        # All atoms at the origin, so that the vector of an edge is its shift.
        data = {
            "positions": torch.zeros(len(species), 3, dtype=vectors.dtype, device=vectors.device),
            "node_attrs": torch.nn.functional.one_hot(species, self.n_elements).to(vectors.dtype),
            "edge_index": edge_index,
            "shifts": vectors,
            "unit_shifts": torch.zeros_like(vectors),
            "cell": torch.zeros(3, 3, dtype=vectors.dtype, device=vectors.device),
            "batch": torch.zeros_like(species),
            "ptr": torch.tensor([0, len(species)], device=species.device),
            "head": torch.zeros(1, dtype=torch.long, device=species.device),
        }
        energy = self.network(data, compute_force=False)["interaction_energy"]
        assert energy is not None
        return energy


class _OwnEdges(torch.nn.Module):
    """A network of ours asked for the interaction energies of atoms."""

    def __init__(self, network: EdgeNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return self.network.node_energies(species, edge_index, vectors)[0]


def scripted(potential: Potential) -> torch.jit.ScriptModule:
    """Interaction energies, eV, from species (N,), edges (2, E) and their vectors (E, 3), Å, as TorchScript.

    They are those of all atoms (N,), or of a MACE their sum (1,).
    """
    network = copy.deepcopy(potential.network).cpu().requires_grad_(False)
    edges: torch.nn.Module
    with building(potential.dtype):
        if isinstance(network, EdgeNetwork):
            edges = _OwnEdges(network)
        else:
            edges = _MaceEdges(jit.compile(network), len(potential.elements))
        return torch.jit.script(edges.eval())


class TensorPotential(torch.nn.Module):
    """Energy, forces and stress of one structure from tensors."""

    species_of: torch.Tensor
    e0s: torch.Tensor

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.energies = scripted(potential)
        self.dtype = potential.dtype
        self.cutoff = potential.cutoff
        self.symbols = potential.symbols
        species_of = torch.full((_LAST_ELEMENT + 1,), -1)
        species_of[potential.elements] = torch.arange(len(potential.elements))
        self.register_buffer("species_of", species_of)
        self.register_buffer("e0s", torch.tensor(list(potential.e0s().values()), dtype=torch.float64))

    def forward(
        self,
        positions: torch.Tensor,
        atomic_numbers: torch.Tensor,
        edge_index: torch.Tensor,
        shifts: torch.Tensor,
        cell: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """`energy` (), eV, with E0s; `forces` (N, 3), eV/Å; `stress` (3, 3), eV/Å³, NaN without a cell.

        `positions` (N, 3), Å; `atomic_numbers` (N,); `edge_index` (2, E), int64: every pair of atoms, and of
        images, closer than `cutoff`, in both directions, from [0] to [1]; `shifts` (E, 3), Å: what is added
        to positions[edge_index[1]] − positions[edge_index[0]] to have the vector; `cell` (3, 3), Å: rows are
        axes, all zero for a molecule. Everything that comes back is in float64.
        """
        species = self.species_of[atomic_numbers]
        if bool((species < 0).any()):
            raise ValueError("an element that this potential does not know; it knows " + str(self.symbols))
        sender, receiver = edge_index[0], edge_index[1]
        vectors = (positions[receiver] - positions[sender] + shifts).detach().double()
        gradients_are_on = torch.is_grad_enabled()
        torch.set_grad_enabled(True)  # a statement: TorchScript knows no such block
        leaf = vectors.to(self.dtype).requires_grad_(True)
        interaction = self.energies(species, edge_index, leaf).double().sum()
        gradient = torch.autograd.grad([interaction], [leaf])[0]
        torch.set_grad_enabled(gradients_are_on)
        assert gradient is not None
        slope = gradient.double()
        forces = torch.zeros(len(positions), 3, dtype=torch.float64, device=positions.device)
        forces = forces.index_add(0, sender, slope).index_add(0, receiver, -slope)
        virial = vectors.transpose(0, 1) @ slope
        volume = torch.linalg.det(cell.double()).abs()
        stress = 0.5 * (virial + virial.transpose(0, 1)) / volume
        return {
            "energy": (interaction + self.e0s[species].sum()).detach(),
            "forces": forces,
            "stress": torch.where(volume > 0.0, stress, torch.full_like(stress, float("nan"))),
        }


class TorchScriptFormat(Format):
    """A file for torch.jit.load, with nothing of Temper or mace-torch beside it."""

    name = "torchscript"

    def write(self, source: Source, folder: Path) -> Path:
        """The module, in the potential's own floating-point type, and what is known of it."""
        if source.direct:
            raise ExportError("torchscript: this network's forces are not the gradient of its energy")
        path = folder / f"{source.name}.torchscript.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's notices of the deprecation of TorchScript
            module = torch.jit.script(TensorPotential(source.potential).eval())
            torch.jit.save(module, path, _extra_files={ABOUT: json.dumps(source.about)})
        return path

    def evaluate(self, file: Path, structures: Sequence[Atoms]) -> list[Prediction]:
        """With neighbour lists of our own, and each structure several times.

        After its first calls TorchScript rewrites a module and its derivatives, unless it is told not to, as
        `models.potentials` does and other programs do not.
        """
        here = torch.jit.set_fusion_strategy(_ELSEWHERE)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = torch.jit.load(file)
            for _ in range(_CALLS):
                found = [_prediction(module, atoms) for atoms in structures]
        except RuntimeError as error:
            said = str(error).strip().splitlines()[-1]
            raise ExportError(f"torchscript: torch cannot differentiate the module ({said})") from error
        finally:
            torch.jit.set_fusion_strategy(here)
        return found

    def usage(self, source: Source, file: str) -> str:
        """The tensors that go in and come out."""
        return f"""\
```python
import torch
from ase.neighborlist import neighbor_list

potential = torch.jit.load("{file}")  # also .to("cuda")
i, j, S = neighbor_list("ijS", atoms, potential.cutoff)
found = potential(
    torch.tensor(atoms.positions),          # (N, 3), Å
    torch.tensor(atoms.numbers),            # (N,)
    torch.stack([torch.tensor(i), torch.tensor(j)]),  # (2, E): from i to j, every pair in both directions
    torch.tensor(S @ atoms.cell.array),     # (E, 3), Å: vector = positions[j] - positions[i] + shift
    torch.tensor(atoms.cell.array),         # (3, 3), Å, rows are axes; zeros for a molecule
)
found["energy"], found["forces"], found["stress"]  # eV, eV/Å, eV/Å³ (ASE's sign; NaN without a cell)
```

One structure at a time; everything comes back in float64, total energies with E0s. It cannot be called under
torch.inference_mode. The file also holds what is known of the potential:
`torch.jit.load(file, _extra_files=(extra := {{"{ABOUT}": ""}}))`, then `extra`."""


def _prediction(module: torch.jit.ScriptModule, atoms: Atoms) -> Prediction:
    edge_index, unit_shifts = neighbours(atoms.positions, atoms.cell.array, atoms.pbc, module.cutoff)
    found = module(
        torch.tensor(atoms.positions),
        torch.tensor(atoms.numbers),
        torch.tensor(edge_index),
        torch.tensor(unit_shifts @ atoms.cell.array),
        torch.tensor(atoms.cell.array),
    )
    return Prediction(
        energy=float(found["energy"]),
        forces=found["forces"].numpy(),
        stress=found["stress"].numpy() if atoms.pbc.all() else None,
    )
