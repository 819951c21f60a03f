import numpy as np
import pytest

from models import graphs
from models.dynamics.neighbours import VerletList


@pytest.mark.parametrize("system", ["salt_crystal", "salt_water"])
@pytest.mark.parametrize("stride", [0.04, 0.4])
def test_a_kept_list_has_all_of_the_list_made_afresh_and_little_else(request, system, stride):
    atoms = request.getfixturevalue(system)
    cell = np.asarray(atoms.cell.array)
    kept = VerletList(atoms.numbers, atoms.pbc, cutoff=4.0, skin=0.6, margin=0.1)
    generator = np.random.default_rng(0)
    positions = atoms.positions.copy()
    for _ in range(25):
        positions += generator.normal(scale=stride, size=positions.shape)
        near = kept.within(positions, cell)
        ours, distances = keys(near.pairs, near.shifts), near.distances(positions, cell)
        assert len(ours) == len(distances) == len(near.contacts)
        assert ours >= keys(*graphs.neighbours(positions, cell, atoms.pbc, 4.0))
        assert distances.max() < 4.0 + 2.0 * 0.1
        assert kept.within(positions, cell) is near
    assert (kept.rebuilds == 25) == (stride == 0.4)
    assert kept.rebuilds > 1


def keys(pairs, shifts) -> set[tuple[int, ...]]:
    return {(*map(int, p), *map(int, s)) for p, s in zip(pairs.T, shifts, strict=True)}


@pytest.mark.parametrize("growth", [0.997, 1.003])
def test_a_kept_list_follows_the_cell(salt_crystal, growth):
    kept = VerletList(salt_crystal.numbers, salt_crystal.pbc, cutoff=4.0, skin=0.6, margin=0.1)
    generator = np.random.default_rng(0)
    positions, cell = salt_crystal.positions.copy(), np.array(salt_crystal.cell.array)
    for _ in range(25):
        strain = np.diag(growth ** generator.uniform(0.5, 1.5, size=3))
        positions = positions @ strain + generator.normal(scale=0.01, size=positions.shape)
        cell = cell @ strain
        near = kept.within(positions, cell)
        assert keys(near.pairs, near.shifts) >= keys(
            *graphs.neighbours(positions, cell, salt_crystal.pbc, 4.0)
        )
        i, j = near.pairs
        apart = np.linalg.norm(positions[j] - positions[i] + near.shifts @ cell, axis=1)
        np.testing.assert_allclose(near.distances(positions, cell), apart)
        assert apart.max() < 4.0 + 4.0 * 0.1
    assert kept.rebuilds < 25
    assert (kept.rebuilds > 1) == (growth < 1.0)


def test_distances_and_radii_belong_to_the_pairs(salt_water):
    cell = np.zeros((3, 3))
    kept = VerletList(salt_water.numbers, salt_water.pbc, cutoff=3.0, skin=0.5, margin=0.1)
    near = kept.within(salt_water.positions, cell)
    bond = np.flatnonzero((near.pairs[0] == 0) & (near.pairs[1] == 1))
    assert near.distances(salt_water.positions, cell)[bond] == pytest.approx(2.5)
    assert near.contacts[bond] == pytest.approx(
        1.66 + 1.02
    )  # covalent radii of Na and Cl, Cordero et al. 2008
