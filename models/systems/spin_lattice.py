"""Spin lattices with exact labels: Morse pairs, Landau's energy of each moment, and Heisenberg exchange.

Exchange falls off with the distance and the density of neighbours decides how large a moment is, so that
forces know of moments and moments of the structure. A set has ferro- and antiferromagnetic orders of each
geometry, and both with tilted directions that are held, as in constrained calculations; magnitudes are at
equilibrium. It is a model, not a material: its elements only say who is magnetic.

Run `python -m models.systems.spin_lattice --out deployments/campaigns/spins`; MIT, like all of Temper.
"""

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from scipy.optimize import minimize

from models.graphs import neighbours
from models.systems.deformation import random_strain
from models.systems.labelling import Part, make_files

LEVEL = "Heisenberg-Landau spin lattice"


@dataclass(frozen=True, kw_only=True)
class SpinLattice:
    """Energy (eV) of positions (Å) and moments (μB); its derivatives are exact.

    Attributes:
        depth, stiffness, contact: of the Morse pairs, eV, 1/Å and Å.
        magnetic: the symbol of the atoms that have moments.
        quadratic, crowding, quartic: of a moment's energy (quadratic + crowding ρ) m² + quartic m⁴, eV/μB²,
            eV/μB² and eV/μB⁴, where ρ is the sum of exp(contact - r) over neighbours.
        exchange, decay: J(r) = exchange exp(-(r - contact)/decay), eV/μB² and Å; of a pair's energy J m·m'.
        cutoff: of all of it, Å.
    """

    magnetic: str
    depth: float
    stiffness: float
    contact: float
    quadratic: float
    crowding: float
    quartic: float
    exchange: float
    decay: float
    cutoff: float = 4.4

    def label(self, atoms: Atoms, spins: np.ndarray) -> Atoms:
        """A copy of `atoms` with all labels, for moments `spins` (N, 3), μB."""
        positions = torch.tensor(atoms.positions, requires_grad=True)
        moments = torch.tensor(spins, requires_grad=True)
        strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        energy = self._energy(atoms, positions, moments, strain)
        forces, on_moments, stress = torch.autograd.grad(-energy, (positions, moments, strain))
        labelled = Atoms(
            atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=dict(atoms.info)
        )
        labelled.info |= {"REF_energy": energy.item(), "REF_stress": -stress.numpy() / atoms.get_volume()}
        labelled.arrays |= {
            "REF_forces": forces.numpy(), "REF_magmoms": spins, "REF_magnetic_forces": on_moments.numpy()
        }  # fmt: skip
        return labelled

    def settled(self, atoms: Atoms, directions: np.ndarray) -> np.ndarray:
        """The equilibrium moments (N, 3), μB, along unit vectors; zero where an atom has none."""
        start = 2.0 * self._bears(atoms)

        def value(lengths: np.ndarray) -> tuple[float, np.ndarray]:
            x = torch.tensor(lengths, requires_grad=True)
            still = torch.zeros(3, 3, dtype=torch.float64)
            energy = self._energy(
                atoms, torch.tensor(atoms.positions), x[:, None] * torch.tensor(directions), still
            )
            (slope,) = torch.autograd.grad(energy, x)
            return energy.item(), slope.numpy()

        found = minimize(value, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 0.0})
        lengths: np.ndarray = found.x
        return lengths[:, None] * directions

    def _bears(self, atoms: Atoms) -> np.ndarray:
        """One where an atom has a moment, else zero."""
        return (np.array(atoms.get_chemical_symbols()) == self.magnetic).astype(float)

    def _energy(
        self, atoms: Atoms, positions: torch.Tensor, spins: torch.Tensor, strain: torch.Tensor
    ) -> torch.Tensor:
        cell = np.array(atoms.cell.array)
        edges, shifts = neighbours(positions.detach().numpy(), cell, atoms.pbc, self.cutoff)
        i, j = torch.from_numpy(edges)
        vectors = positions[j] - positions[i] + torch.from_numpy(shifts @ cell)
        vectors = vectors + vectors @ (0.5 * (strain + strain.T))
        r = (vectors * vectors).sum(dim=1).sqrt()
        fade = (1.0 - (r / self.cutoff) ** 2) ** 3
        well = 1.0 - (-self.stiffness * (r - self.contact)).exp()
        pairs = 0.5 * (fade * self.depth * (well * well - 1.0)).sum()
        density = torch.zeros(len(atoms), dtype=r.dtype).index_add(0, i, fade * (self.contact - r).exp())
        spins = spins * torch.from_numpy(self._bears(atoms))[:, None]
        square = (spins * spins).sum(dim=1)
        landau = ((self.quadratic + self.crowding * density) * square + self.quartic * square**2).sum()
        strength = self.exchange * fade * (-(r - self.contact) / self.decay).exp()
        return pairs + landau + 0.5 * (strength * (spins[i] * spins[j]).sum(dim=1)).sum()


IRON = SpinLattice(magnetic="Fe", depth=0.45, stiffness=1.4, contact=2.55, quadratic=-0.16, crowding=0.012,
                   quartic=0.006, exchange=-0.012, decay=0.7)  # fmt: skip
OXIDE = SpinLattice(magnetic="Ni", depth=0.7, stiffness=1.5, contact=2.15, quadratic=-0.20, crowding=0.014,
                    quartic=0.020, exchange=0.030, decay=0.9)  # fmt: skip


def iron() -> Atoms:
    """Body-centred cubic, 4 atoms."""
    return bulk("Fe", "bcc", a=2.87, cubic=True) * (2, 1, 1)


def oxide() -> Atoms:
    """Rock salt, 8 atoms."""
    return bulk("NiO", "rocksalt", a=4.17, cubic=True)


def orders(atoms: Atoms, symbol: str) -> dict[str, np.ndarray]:
    """Unit vectors (N, 3) of the ferromagnet and of the antiferromagnet with layers along x."""
    magnetic = np.array(atoms.get_chemical_symbols()) == symbol
    heights = np.unique(np.round(atoms.get_scaled_positions(wrap=True)[magnetic, 0], 3), return_inverse=True)[
        1
    ]
    signs = np.ones(len(atoms))
    signs[magnetic] = 1.0 - 2.0 * (heights % 2)
    up = np.outer(np.ones(len(atoms)), [0.0, 0.0, 1.0])
    return {"FM": up, "AFM": signs[:, None] * up}


def trajectory(index: int, frames: int = 4) -> list[Atoms]:
    """Labelled frames of one strain of iron or oxide, in turn: each geometry in every order, and tilted."""
    rng = np.random.default_rng(index)
    model, crystal = (IRON, iron()) if index % 2 == 0 else (OXIDE, oxide())
    ideal = orders(crystal, model.magnetic)
    crystal.set_cell(
        crystal.cell.array @ (np.eye(3) * rng.uniform(0.97, 1.04) + random_strain(0.01, rng)),
        scale_atoms=True,
    )
    made = []
    for _ in range(frames):
        moved = crystal.copy()
        moved.positions += rng.normal(0.0, 0.06, size=moved.positions.shape)
        for order, directions in ideal.items():
            tilted = directions + rng.normal(0.0, 0.4, size=directions.shape)
            tilted /= np.linalg.norm(tilted, axis=1)[:, None]
            for kind, unit in ((order, directions), (f"{order} tilted", tilted)):
                labelled = model.label(moved, model.settled(moved, unit))
                labelled.info |= {"trajectory": f"{model.magnetic}-{index}", "order": kind}
                made.append(labelled)
    return made


def minima(index: int) -> list[Atoms]:
    """Both orders of the ideal crystal of iron or oxide, in turn, where symmetry leaves no force."""
    model, crystal = ((IRON, iron()), (OXIDE, oxide()))[index]
    made = []
    for order, directions in orders(crystal, model.magnetic).items():
        labelled = model.label(crystal, model.settled(crystal, directions))
        labelled.info["name"] = f"{crystal.get_chemical_formula()} {order}"
        made.append(labelled)
    return made


def main() -> None:
    """Write the labels and the minima of the campaign `spins`."""
    parts = {"labels": Part(make=trajectory, n=20), "minima": Part(make=minima, n=2)}
    make_files(__doc__ or "", parts)


if __name__ == "__main__":
    main()
