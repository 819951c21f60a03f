"""Equations of state, elastic constants and phonons of crystals, by pymatgen and phonopy.

Both are slow to import, and are when they are first needed.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units

from models.dynamics.relax import relax
from models.graphs import graphs, predict
from models.potentials import Potential

STRAINS = (-0.01, -0.005, 0.005, 0.01)
DISPLACEMENT = 0.01  # Å
MESH_LENGTH = 50.0  # Å, as phonopy counts: about 2π over the spacing of the mesh in reciprocal space
MODULUS_STRAIN = 0.01  # of lengths


@dataclass(frozen=True, kw_only=True)
class EquationOfState:
    """Where the energy of a crystal is lowest (Å³, eV), and its bulk modulus there, GPa."""

    volume: float
    energy: float
    bulk_modulus: float


@dataclass(frozen=True, kw_only=True)
class Phonons:
    """Lowest (negative: imaginary) and highest frequency, density of states (n,) at points (n,), THz."""

    lowest: float
    highest: float
    points: np.ndarray
    density: np.ndarray


def equation_of_state(volumes: Sequence[float], energies: Sequence[float]) -> EquationOfState | None:
    """Birch–Murnaghan's equation of state (Phys. Rev. 71, 809, 1947) through volumes (Å³) and energies (eV).

    None where the energies are not finite or have no minimum within the volumes.
    """
    from pymatgen.analysis.eos import EOS, EOSError

    if not np.isfinite(energies).all():
        return None
    try:
        with _quiet():
            fit = EOS("birch_murnaghan").fit(volumes, energies)
    except EOSError:
        return None
    if not (fit.b0 > 0.0 and min(volumes) <= fit.v0 <= max(volumes)):
        return None
    return EquationOfState(volume=float(fit.v0), energy=float(fit.e0), bulk_modulus=float(fit.b0 / units.GPa))


def bulk_moduli(potential: Potential, crystal: Atoms) -> tuple[float, float]:
    """Bulk modulus from energies and from stresses, GPa, of the crystal scaled as a whole.

    Nothing relaxes: both are derivatives of one energy with respect to one strain, and agree.
    """
    scales = np.linspace(1.0 - MODULUS_STRAIN, 1.0 + MODULUS_STRAIN, 7)
    scaled = [_in_cell(crystal, scale * crystal.cell.array) for scale in scales]
    found = predict(potential, graphs(scaled, potential), stress=True)
    energies = np.array([p.energy for p in found])
    pressures = np.array([np.nan if p.stress is None else -np.trace(p.stress) / 3.0 for p in found])
    if not (np.isfinite(energies).all() and np.isfinite(pressures).all()):
        return np.nan, np.nan
    change = scales**3 - 1.0  # of the volume, relative
    curvature = 2.0 * np.polynomial.polynomial.polyfit(change, energies - energies[3], 5)[2]
    slope = np.polynomial.polynomial.polyfit(change, pressures, 4)[1]
    return float(curvature / crystal.get_volume() / units.GPa), float(-slope / units.GPa)


def elastic_constants(potential: Potential, crystal: Atoms, *, fmax: float, steps: int) -> np.ndarray:
    """Elastic tensor (6, 6) in Voigt order, GPa; NaN where the potential has no finite stress.

    From stresses under strains of up to 1 %, in each of which the atoms relax to `fmax` (eV/Å) in at most
    `steps` steps. `crystal` is at the potential's own minimum.
    """
    from pymatgen.core.elasticity.elastic import ElasticTensor
    from pymatgen.core.elasticity.strain import DeformedStructureSet, Strain
    from pymatgen.core.elasticity.stress import Stress
    from pymatgen.io.ase import AseAtomsAdaptor

    with _quiet():
        deformed = DeformedStructureSet(
            AseAtomsAdaptor.get_structure(crystal), norm_strains=STRAINS, shear_strains=STRAINS
        )
    cells = [structure.lattice.matrix for structure in deformed]
    relaxed = relax(potential, [_in_cell(crystal, cell) for cell in cells], fmax=fmax, steps=steps)
    structures = [crystal, *(found.atoms for found in relaxed)]
    stresses = [p.stress for p in predict(potential, graphs(structures, potential), stress=True)]
    if not all(stress is not None and np.isfinite(stress).all() for stress in stresses):
        return np.full((6, 6), np.nan)
    at_rest, *strained = (Stress(stress / units.GPa) for stress in stresses if stress is not None)
    with _quiet():
        strains = [Strain.from_deformation(deformation) for deformation in deformed.deformations]
        tensor = ElasticTensor.from_independent_strains(strains, strained, eq_stress=at_rest)
    return np.asarray(tensor.voigt, dtype=float)


def phonons(potential: Potential, crystal: Atoms, length: float) -> Phonons | None:
    """Harmonic phonons by finite displacements in a supercell whose edges are at least `length`, Å.

    `crystal` is at the potential's own minimum. None where the potential has no finite forces.
    """
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        symbols=crystal.get_chemical_symbols(),
        cell=crystal.cell.array,
        scaled_positions=crystal.get_scaled_positions(),
    )
    with _quiet():
        calculation = Phonopy(cell, np.diag(np.ceil(length / crystal.cell.lengths()).astype(int)))
        calculation.generate_displacements(distance=DISPLACEMENT)
        displaced = [
            Atoms(s.symbols, cell=s.cell, scaled_positions=s.scaled_positions, pbc=True)
            for s in calculation.supercells_with_displacements or ()
        ]
        forces = np.array([p.forces for p in predict(potential, graphs(displaced, potential))])
        if not np.isfinite(forces).all():
            return None
        calculation.forces = forces
        calculation.produce_force_constants()
        calculation.symmetrize_force_constants()
        frequencies = calculation.run_mesh(MESH_LENGTH, is_gamma_center=True).frequencies
        density = calculation.run_total_dos()
    return Phonons(
        lowest=float(frequencies.min()),
        highest=float(frequencies.max()),
        points=np.asarray(density.frequency_points),
        density=np.asarray(density.dos),
    )


def _in_cell(crystal: Atoms, cell: np.ndarray) -> Atoms:
    changed = crystal.copy()
    changed.set_cell(cell, scale_atoms=True)
    return changed


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of fits to a bad potential: what they warn of shows in the numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
