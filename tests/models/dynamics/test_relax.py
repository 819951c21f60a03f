import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, molecule
from ase.filters import UnitCellFilter
from ase.optimize import FIRE

from models.calculator import PotentialCalculator
from models.dynamics.relax import LONGEST_STEP, relax
from models.potentials import Potential
from models.systems.random_crystals import room
from models.validation.faults import changed, with_term


@pytest.fixture(scope="module")
def sound(tiny_potential) -> Potential:
    """The tiny network is untrained: bonds of covalent length give it minima."""

    def bonds(pairs):
        morse = (1.0 - torch.exp(3.0 - 3.0 * pairs.lengths / pairs.radii)) ** 2 - 1.0
        return morse * (1.0 - (pairs.lengths / tiny_potential.cutoff) ** 2).clamp(min=0.0) ** 3

    return with_term(tiny_potential, bonds)


@pytest.fixture(scope="module")
def calculator(sound) -> PotentialCalculator:
    return PotentialCalculator(sound)


@pytest.fixture
def crystal():
    atoms = bulk("NaCl", "rocksalt", a=4.6) * (1, 1, 2)
    atoms.rattle(0.08, seed=1)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * np.eye(3, k=1)), scale_atoms=True)
    return atoms


@pytest.fixture
def water():
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=1)
    return atoms


def test_a_crystal_goes_where_ase_takes_it(sound, calculator, crystal):
    pressure = 5.0
    (ours,) = relax(sound, [crystal], fmax=0.01, steps=200, pressure=pressure)
    theirs = crystal.copy()
    theirs.calc = calculator
    filtered = UnitCellFilter(theirs, scalar_pressure=pressure * units.GPa)
    assert FIRE(filtered, logfile=None).run(fmax=0.01, steps=200)
    assert ours.converged
    assert ours.failure is None
    assert 0 < ours.steps <= 200
    enthalpies = [
        energy + pressure * units.GPa * atoms.get_volume()
        for energy, atoms in ((ours.energy, ours.atoms), (theirs.get_potential_energy(), theirs))
    ]
    assert enthalpies[0] == pytest.approx(enthalpies[1], abs=2e-3)
    np.testing.assert_allclose(ours.atoms.cell.cellpar(), theirs.cell.cellpar(), rtol=0.01)
    assert ours.atoms.get_volume() < 0.98 * crystal.get_volume()
    assert ours.force < 0.01
    assert ours.stress < 0.01 * len(crystal) / ours.atoms.get_volume() / units.GPa


def test_with_a_fixed_cell_only_the_atoms_move(sound, calculator, crystal, water):
    in_crystal, molecular = relax(sound, [crystal, water], fmax=0.02, steps=200)
    np.testing.assert_array_equal(in_crystal.atoms.cell, crystal.cell)
    assert in_crystal.stress is None
    for start, ours in ((crystal, in_crystal), (water, molecular)):
        theirs = start.copy()
        theirs.calc = calculator
        assert FIRE(theirs, logfile=None).run(fmax=0.02, steps=200)
        assert ours.converged
        assert ours.energy == pytest.approx(theirs.get_potential_energy(), abs=1e-3)
        np.testing.assert_allclose(
            ours.atoms.get_all_distances(mic=True), theirs.get_all_distances(mic=True), atol=0.02
        )
    (at_rest,) = relax(sound, [molecular.atoms], fmax=0.02, steps=200)
    assert at_rest.converged
    assert at_rest.steps == 0
    np.testing.assert_array_equal(at_rest.atoms.positions, molecular.atoms.positions)


def test_company_changes_nothing(sound, crystal):
    other = bulk("NaCl", "rocksalt", a=5.6)
    alone, together = (
        relax(sound, structures, fmax=0.02, steps=15, pressure=0.0)[0]
        for structures in ([crystal], [crystal, other])
    )
    assert together.steps == alone.steps
    assert together.energy == pytest.approx(alone.energy, abs=1e-8)
    np.testing.assert_allclose(together.atoms.positions, alone.atoms.positions, atol=1e-8)


def test_out_of_steps_is_no_failure_and_no_success(sound, water):
    (found,) = relax(sound, [water], fmax=1e-6, steps=3)
    assert (found.steps, found.converged, found.failure) == (3, False, None)


def test_no_atom_moves_far_in_one_step(tiny_potential, water):
    strong = with_term(tiny_potential, lambda pairs: 1e5 * torch.exp(-pairs.lengths))
    (found,) = relax(strong, [water], fmax=0.05, steps=1)
    moved = np.linalg.norm(found.atoms.positions - water.positions, axis=1)
    assert moved.max() == pytest.approx(LONGEST_STEP)


def test_where_the_potential_has_no_value_the_last_good_geometry_is_kept(tiny_potential, water):
    def torn(pairs):
        """O–H bonds are pulled open, until there is nothing left to say."""
        stretched = torch.where(pairs.lengths > 1.6, torch.nan, -6.0 * pairs.lengths)
        return torch.where(pairs.between("H", "O"), stretched, 0.0)

    salt = molecule("NaCl")
    broken, other = relax(with_term(tiny_potential, torn), [water, salt], fmax=1e-9, steps=20)
    assert "not finite" in broken.failure
    assert not broken.converged
    assert broken.steps > 1
    assert np.isfinite(broken.energy)
    assert 1.2 < broken.atoms.get_distances(0, [1, 2]).max() < 1.6
    assert other.failure is None
    assert other.steps == 20


def test_a_potential_without_any_value_fails_at_the_start(tiny_potential, water):
    silent = changed(tiny_potential, lambda _, output: output | {"forces": output["forces"] * torch.nan})
    (found,) = relax(silent, [water], fmax=0.02, steps=10)
    assert "not finite" in found.failure
    assert found.steps == 0
    assert np.isnan(found.energy)
    np.testing.assert_array_equal(found.atoms.positions, water.positions)


def test_a_cell_that_collapses_fails(tiny_potential, crystal):
    def implosion(pairs):
        return -100.0 / pairs.lengths

    (found,) = relax(with_term(tiny_potential, implosion), [crystal], fmax=0.02, steps=300, pressure=0.0)
    assert "collapsed" in found.failure
    assert 0.1 < found.atoms.get_volume() / room(crystal.numbers) < 0.2
    squeezed = found.atoms.copy()
    squeezed.set_cell(0.9 * squeezed.cell.array, scale_atoms=True)
    (again,) = relax(with_term(tiny_potential, implosion), [squeezed], fmax=0.02, steps=300, pressure=0.0)
    assert "collapsed" in again.failure, "a dense start is no excuse"
    assert again.steps <= 2


def test_what_cannot_be_relaxed_is_refused(tiny_potential, water):
    with pytest.raises(ValueError, match="periodic"):
        relax(tiny_potential, [water], fmax=0.05, steps=10, pressure=0.0)
    with pytest.raises(ValueError, match="steps"):
        relax(tiny_potential, [water], fmax=0.05, steps=0)
    with pytest.raises(ValueError, match="Cs"):
        relax(tiny_potential, [bulk("CsCl", "cesiumchloride", a=4.1)], fmax=0.05, steps=10)
