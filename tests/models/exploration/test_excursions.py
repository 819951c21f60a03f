import numpy as np
import pytest

from models.exploration.base import Scene
from models.exploration.excursions import Excursions, excursions, walk
from models.graphs import graphs, predict


def test_excursions_rattle_relax_and_repeat(tiny_potential, labelled_waters):
    starts = labelled_waters[:2]
    found = excursions(tiny_potential, starts, 12, 0.05, 4, np.random.default_rng(0))
    assert len(found) == 12
    # Two walkers: both rattled, both relaxed, three times over.
    rattled, relaxed = found[0:2], found[2:4]
    moved = [np.abs(a.positions - b.positions).max() for a, b in zip(rattled, relaxed, strict=True)]
    assert all(0 < m < 0.3 for m in moved)
    assert len({atoms.positions.tobytes() for atoms in found}) == 12
    assert len(excursions(tiny_potential, starts, 7, 0.05, 4, np.random.default_rng(0))) == 7


def test_relaxing_lowers_the_potentials_energy(tiny_potential, labelled_waters):
    found = excursions(tiny_potential, labelled_waters[:1], 6, 0.05, 4, np.random.default_rng(0))
    energies = [p.energy for p in predict(tiny_potential, graphs(found, tiny_potential))]
    assert all(after < before for before, after in zip(energies[0::2], energies[1::2], strict=True))
    assert energies[0] == pytest.approx(energies[1], abs=20.0)


def test_periodic_cells_are_strained_and_others_have_none(tiny_potential, salt_crystal, salt_water):
    met = walk(tiny_potential, [salt_crystal, salt_water], 0.02, 0, np.random.default_rng(0), strain=0.1)
    crystal, water = [one.atoms for one in met]
    strain = np.linalg.solve(salt_crystal.cell.array, crystal.cell.array) - np.eye(3)
    np.testing.assert_allclose(strain, strain.T, atol=1e-12)
    assert 1e-3 < np.abs(strain).max() < 0.4
    # The atoms go with the cell; the rattle is all that is left.
    moved = (crystal.get_scaled_positions(wrap=False) - salt_crystal.get_scaled_positions(wrap=False)) @ (
        crystal.cell.array
    )
    assert np.abs(moved).max() < 0.12
    assert not water.cell.any()


def test_walkers_that_end_say_why(tiny_potential, salt_water, tmp_path):
    broken = salt_water.copy()
    broken.positions[1] = broken.positions[0]  # no direction, no force
    ends = walk(tiny_potential, [broken, salt_water], 1e-300, 2, np.random.default_rng(0))
    assert [one.failure is not None for one in ends if one.walker == 0] == [True]
    assert len([one for one in ends if one.walker == 1]) == 6
    scene = Scene(
        name="excursions",
        potential=tiny_potential,
        starts=[salt_water],
        uncertainty=None,
        seed=(0, 0),
        work=tmp_path,
        report=None,
    )
    found = Excursions(walkers=2, rattle=0.05, relax_steps=2).explore(scene)
    assert [atoms.info["walker"] for atoms in found] == ["excursions-0"] * 6 + ["excursions-1"] * 6
