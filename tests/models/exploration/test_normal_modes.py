import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule

from models.dynamics.relax import relax
from models.exploration.base import Scene
from models.exploration.normal_modes import NormalModes, normal_modes
from models.graphs import graphs, predict


@pytest.fixture(scope="module")
def water(foundation) -> Atoms:
    (end,) = relax(foundation, [molecule("H2O")], fmax=0.005, steps=200)
    return end.atoms


def test_water_has_three_modes_where_they_belong(foundation, water):
    modes = normal_modes(foundation, water)
    bend, *stretches = modes.wavenumbers
    # Of the water molecule: 1595, 3657 and 3756 cm⁻¹.
    assert bend == pytest.approx(1600.0, abs=250.0)
    assert stretches == pytest.approx([3700.0, 3700.0], abs=350.0)
    flat = modes.vectors.reshape(3, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(3), atol=1e-10)
    assert len(normal_modes(foundation, molecule("CO2")).wavenumbers) == 4
    assert len(normal_modes(foundation, Atoms("NaCl", [(0.0, 0.0, 0.0), (0.0, 0.0, 2.4)])).wavenumbers) == 1


def test_every_mode_has_its_share_of_the_energy(foundation, water):
    modes = normal_modes(foundation, water)
    rng = np.random.default_rng(0)
    temperature = 50.0  # where water is harmonic
    moved = []
    for _ in range(400):
        frame = water.copy()
        frame.positions += modes.displacement(temperature, 100.0, rng)
        moved.append(frame)
    energies = [p.energy for p in predict(foundation, graphs([water, *moved], foundation))]
    # Half kT of each of three modes, to the 4 % of 1200 draws (one standard error).
    mean = np.mean(energies[1:]) - energies[0]
    assert mean == pytest.approx(1.5 * units.kB * temperature, rel=0.15)
    root = np.sqrt(water.get_masses())[:, None]
    amplitudes = np.array(
        [np.tensordot(modes.vectors, root * (a.positions - water.positions)) for a in moved]
    )
    force_constants = (modes.wavenumbers * units.invcm / (units._hbar * units.J * units.s)) ** 2
    shares = 0.5 * force_constants * (amplitudes**2).mean(axis=0)
    np.testing.assert_allclose(shares, 0.5 * units.kB * temperature, rtol=0.25)


def test_modes_one_at_a_time(foundation, water, tmp_path):
    scene = Scene(
        name="normal-modes",
        potential=foundation,
        starts=[water, bulk("NaCl", "rocksalt", a=5.64)],
        uncertainty=None,
        seed=(0, 0),
        work=tmp_path,
        report=None,
    )
    minimum, *moved = NormalModes(structures=3, modes="each").explore(scene)
    assert [atoms.info["walker"] for atoms in moved] == ["normal-modes-H2O-0"] * 3
    modes = normal_modes(foundation, minimum)
    root = np.sqrt(minimum.get_masses())[:, None]
    for k, frame in enumerate(moved):
        along = abs(np.tensordot(modes.vectors, root * (frame.positions - minimum.positions)))
        assert along[k] > 1e-3
        assert np.delete(along, k).max() < 1e-3 * along[k]


def test_a_crystal_has_nothing_for_it(foundation, tmp_path):
    told = []
    scene = Scene(
        name="normal-modes",
        potential=foundation,
        starts=[bulk("NaCl", "rocksalt", a=5.64)],
        uncertainty=None,
        seed=(0, 0),
        work=tmp_path,
        report=told.append,
    )
    assert NormalModes().explore(scene) == []
    assert told == [{"explorer": "normal-modes", "note": "no start is a molecule or a cluster"}]
