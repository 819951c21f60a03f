import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from models.selection import Candidates, Novelty
from models.selection.entropy import BANDWIDTH, CUTOFF, all_environments, entropy, environments, log_density


def test_a_dimer_has_one_neighbour():
    found = environments(Atoms("NaCl", [(0, 0, 0), (0, 0, 2.5)]))
    assert found.shape == (2, 63)
    assert found[:, 0] == pytest.approx((1 - (2.5 / CUTOFF) ** 2) ** 2 / 2.5)
    assert not found[:, 1:].any()


def test_three_atoms_see_how_far_their_neighbours_are_from_each_other():
    found = environments(Atoms("H3", [(0, 0, 0), (0, 0, 1.0), (0, 2.0, 0)]))
    weight = np.array([(1 - (r / CUTOFF) ** 2) ** 2 for r in (1.0, 2.0)])
    assert found[0, :3] == pytest.approx([weight[0] / 1.0, weight[1] / 2.0, 0.0])
    assert found[0, 32] == pytest.approx(np.sqrt(weight.prod()) / np.sqrt(5.0))
    assert found[0, 33:] == pytest.approx(0.0)


def test_environments_turn_and_move_with_the_atoms(salt_crystal, salt_water):
    for atoms in (salt_crystal, salt_water):
        order = np.random.default_rng(0).permutation(len(atoms))
        turned = atoms[order]
        turned.rotate(35.0, (1, 1, 2), rotate_cell=True)
        turned.translate((0.3, -0.7, 11.0))
        assert environments(turned) == pytest.approx(environments(atoms)[order], abs=1e-10)


def test_environments_of_a_crystal_do_not_depend_on_its_cell():
    one = environments(bulk("NaCl", "rocksalt", a=5.64))
    many = environments(bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(2))
    assert many == pytest.approx(np.broadcast_to(one[0], many.shape), abs=1e-10)


def test_an_atom_by_itself_has_an_environment():
    assert not environments(Atoms("Na")).any()


def test_log_density_is_the_sum_of_kernels():
    rng = np.random.default_rng(0)
    of, given = rng.normal(5.0, 0.02, (7, 3)), rng.normal(5.0, 0.02, (11, 3))
    squares = ((of[:, None] - given) ** 2).sum(axis=-1)
    exact = np.log(np.exp(-squares / (2 * 0.03**2)).sum(axis=1))
    assert log_density(of, given, 0.03) == pytest.approx(exact)
    far = log_density(of, given + 100.0, 0.03)
    assert np.isfinite(far).all()
    assert (far < -1e6).all()
    assert (log_density(of, given[:0]) == -np.inf).all()


def test_entropy_is_that_of_counting_and_copies_do_not_raise_it():
    points = 10 * BANDWIDTH * np.arange(8.0)[:, None]
    assert entropy(points) == pytest.approx(np.log(8))
    assert entropy(np.concatenate([points, points])) == pytest.approx(np.log(8))
    assert entropy(np.concatenate([points, points[:1], points[:1]])) < np.log(8)
    assert entropy(np.zeros((5, 2))) == pytest.approx(0.0)
    assert entropy(np.concatenate([points, [[-5.0]]])) > np.log(8)


def test_novelty_finds_what_is_unlike_the_labelled_structures():
    """Among many shaken waters, the stretched one and the dimer; a slightly turned known one adds nothing."""
    rng = np.random.default_rng(0)

    def water(stretch: float = 1.0, shake: float = 0.003) -> Atoms:
        atoms = molecule("H2O")
        atoms.positions *= stretch
        atoms.positions += rng.normal(scale=shake, size=(3, 3))
        return atoms

    known = [water() for _ in range(20)]
    dimer = molecule("H2O") + molecule("H2O")
    dimer.positions[3:] += (0.0, 0.0, 2.9)
    turned = known[3].copy()
    turned.rotate(77.0, "x")
    pool = [*(water() for _ in range(20)), water(1.3), turned, dimer]

    def seen(structures: list[Atoms]) -> Candidates:
        return Candidates(structures=structures, descriptors=all_environments(structures))

    chosen = Novelty().choose(seen(pool), seen(known), 23, np.random.default_rng(0))
    indices = [choice.index for choice in chosen]
    scores = [choice.score for choice in chosen]
    assert set(indices[:2]) == {20, 22}
    assert 21 not in indices
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0
