import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from models.dynamics.trajectories import Trajectory
from models.validation.bonds import covalent_bonds, follow


def trajectory(start: Atoms, *later: Atoms) -> Trajectory:
    frames = [start, *later]
    return Trajectory(
        numbers=start.numbers,
        cell=np.stack([frame.cell.array for frame in frames]),
        pbc=start.pbc,
        times_fs=20.0 * np.arange(len(frames)),
        positions=np.stack([frame.positions for frame in frames]),
        potential_energy=np.zeros(len(frames)),
        kinetic_energy=np.zeros(len(frames)),
        temperature=np.full(len(frames), 300.0),
        failure=None,
    )


def salty_dimer() -> Atoms:
    """Two hydrogen-bonded waters (O0 H1 H2, O3 H4 H5) beside Na6 and Cl7; H1 points to O3."""
    first, second = molecule("H2O"), molecule("H2O")
    bond = first.positions[1] - first.positions[0]
    second.translate(2.75 * bond / np.linalg.norm(bond) + first.positions[0] - second.positions[0])
    return first + second + Atoms("NaCl", positions=[[-2.3, 0.0, 0.0], [-2.3, 0.0, 2.5]])


def with_proton_at(atoms: Atoms, length: float) -> Atoms:
    """H1 moved along its bond to `length` Å from O0."""
    moved = atoms.copy()
    moved.set_distance(0, 1, length, fix=0)
    return moved


def test_bonds_are_within_molecules_only():
    assert covalent_bonds(salty_dimer()).tolist() == [[0, 1], [0, 2], [3, 4], [3, 5]]
    assert len(covalent_bonds(molecule("CH3CH2OH"))) == 8
    assert len(covalent_bonds(bulk("NaCl", "rocksalt", a=5.64, cubic=True))) == 0
    assert len(covalent_bonds(Atoms("Na"))) == 0


def test_a_proton_that_moves_over_is_seen_and_timed():
    start = salty_dimer()
    hop = trajectory(start, with_proton_at(start, 1.1), with_proton_at(start, 1.75), start)
    found = follow([trajectory(start, with_proton_at(start, 1.3)), hop])
    assert found.breaks == [None, "O0–H1 after 40 fs"]
    assert (found.n_bonds, found.n_replicas, found.fraction_whole) == (8, 2, 0.5)
    assert found.first_break_fs == 40.0


def test_a_bond_across_the_boundary_of_the_cell_is_a_bond():
    water = molecule("H2O", vacuum=3.0, pbc=True)
    water.translate([0.0, 0.0, -3.2])
    wrapped = water.copy()
    wrapped.wrap()
    assert np.abs(wrapped.positions - water.positions).max() > 1.0
    assert covalent_bonds(wrapped).tolist() == [[0, 1], [0, 2]]
    assert follow([trajectory(wrapped, water)]).breaks == [None]


def test_without_trajectories_there_is_nothing_to_say():
    with pytest.raises(ValueError, match="no trajectories"):
        follow([])
