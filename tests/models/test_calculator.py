import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.optimize import BFGS

from models.calculator import PotentialCalculator
from models.graphs import graphs, predict
from models.potentials import compiled


def test_a_crystal_has_the_energy_forces_and_stress_that_its_energy_says(tiny_potential, salt_crystal):
    crystal = salt_crystal[:8]
    crystal.set_cell(salt_crystal.cell.array / 2)
    crystal.calc = PotentialCalculator(tiny_potential)
    (plain,) = predict(tiny_potential, graphs([crystal], tiny_potential))
    assert crystal.get_potential_energy() == pytest.approx(plain.energy, abs=1e-9)
    forces = calculate_numerical_forces(crystal, eps=1e-4, iatoms=[0, 5])
    np.testing.assert_allclose(crystal.get_forces()[[0, 5]], forces, atol=1e-6)
    np.testing.assert_allclose(crystal.get_stress(), calculate_numerical_stress(crystal, eps=1e-5), atol=1e-7)


def test_a_cluster_has_no_stress_and_can_be_relaxed(tiny_potential, salt_water):
    salt_water.calc = PotentialCalculator(tiny_potential)
    before = salt_water.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError):
        salt_water.get_stress()
    with BFGS(salt_water, logfile=None) as optimiser:
        optimiser.run(fmax=0.0, steps=3)
    assert salt_water.get_potential_energy() < before


def test_the_head_can_be_chosen(two_heads, salt_water):
    energies, fast = [], compiled(two_heads)
    for head in ("replay", None):
        salt_water.calc = PotentialCalculator(fast, head)
        energies.append(salt_water.get_potential_energy())
    assert energies[1] - energies[0] == pytest.approx(-3.0 * len(salt_water))
