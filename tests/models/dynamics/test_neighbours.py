import numpy as np
import pytest

from models import graphs
from models.dynamics.neighbours import VerletList


@pytest.mark.parametrize("system", ["salt_crystal", "salt_water"])
@pytest.mark.parametrize("stride", [0.04, 0.4])
def test_a_kept_list_is_the_list_made_afresh(request, system, stride):
    atoms = request.getfixturevalue(system)
    cell = np.asarray(atoms.cell.array)
    kept = VerletList(atoms.numbers, atoms.pbc, cutoff=4.0, skin=0.6)
    generator = np.random.default_rng(0)
    positions = atoms.positions.copy()
    for _ in range(25):
        positions += generator.normal(scale=stride, size=positions.shape)
        pairs, shifts, distances, radii = kept.within(positions, cell)
        fresh_pairs, fresh_shifts = graphs.neighbours(positions, cell, atoms.pbc, 4.0)
        ours = keys(pairs, shifts)
        assert len(ours) == len(distances) == len(radii)
        assert ours == keys(fresh_pairs, fresh_shifts)
    assert (kept.rebuilds == 25) == (stride == 0.4)
    assert kept.rebuilds > 1


def keys(pairs, shifts) -> set[tuple[int, ...]]:
    return {(*map(int, p), *map(int, s)) for p, s in zip(pairs.T, shifts, strict=True)}


@pytest.mark.parametrize("growth", [0.997, 1.003])
def test_a_kept_list_follows_the_cell(salt_crystal, growth):
    kept = VerletList(salt_crystal.numbers, salt_crystal.pbc, cutoff=4.0, skin=0.6)
    generator = np.random.default_rng(0)
    positions, cell = salt_crystal.positions.copy(), np.array(salt_crystal.cell.array)
    for _ in range(25):
        strain = np.diag(growth ** generator.uniform(0.5, 1.5, size=3))
        positions = positions @ strain + generator.normal(scale=0.01, size=positions.shape)
        cell = cell @ strain
        pairs, shifts, distances, _ = kept.within(positions, cell)
        assert keys(pairs, shifts) == keys(*graphs.neighbours(positions, cell, salt_crystal.pbc, 4.0))
        i, j = pairs
        apart = np.linalg.norm(positions[j] - positions[i] + shifts @ cell, axis=1)
        np.testing.assert_allclose(distances, apart)
    assert kept.rebuilds < 25
    assert (kept.rebuilds > 1) == (growth < 1.0)


def test_distances_and_radii_belong_to_the_pairs(salt_water):
    cell = np.zeros((3, 3))
    pairs, _, distances, radii = VerletList(salt_water.numbers, salt_water.pbc, cutoff=3.0, skin=0.5).within(
        salt_water.positions, cell
    )
    bond = np.flatnonzero((pairs[0] == 0) & (pairs[1] == 1))
    assert distances[bond] == pytest.approx(2.5)
    assert radii[bond] == pytest.approx(1.66 + 1.02)  # covalent radii of Na and Cl, Cordero et al. 2008
