from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.stress import voigt_6_to_full_3x3_stress

from models.reference import ReferenceCalculator


@pytest.fixture
def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.fixture
def differences(tmp_path: Path) -> Callable[..., Atoms]:
    """Labels a structure, and asserts that forces and stress are differences of energies along one way."""

    def check(
        calculator: ReferenceCalculator,
        atoms: Atoms,
        *,
        step: float = 0.01,
        strain: float = 2e-3,
        tolerance: float = 1e-2,
    ) -> Atoms:
        rng = np.random.default_rng(0)
        label = calculator.label(atoms, tmp_path / "label")
        way = rng.normal(size=atoms.positions.shape)
        way /= np.linalg.norm(way)
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions += sign * step * way
            energies.append(calculator.label(moved, tmp_path / "moved").info["REF_energy"])
        slope = (energies[1] - energies[0]) / (2 * step)
        assert abs(slope) > 10 * tolerance**2
        assert (label.arrays["REF_forces"] * way).sum() == pytest.approx(slope, rel=tolerance, abs=2e-4)
        if "REF_stress" in label.info:
            shear = rng.normal(size=(3, 3))
            shear = (shear + shear.T) / np.linalg.norm(shear + shear.T)
            energies = []
            for sign in (1, -1):
                strained = atoms.copy()
                strained.set_cell(atoms.cell.array @ (np.eye(3) + sign * strain * shear), scale_atoms=True)
                energies.append(calculator.label(strained, tmp_path / "moved").info["REF_energy"])
            slope = (energies[0] - energies[1]) / (2 * strain) / atoms.get_volume()
            stress = voigt_6_to_full_3x3_stress(label.info["REF_stress"])
            assert (stress * shear).sum() == pytest.approx(slope, rel=2 * tolerance, abs=1e-5)
        return label

    return check
