"""A result belongs to the structure that it is, however a program wrote it down."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from models.external.matching import match


@pytest.fixture
def salt() -> Atoms:
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    salt.rattle(0.1, seed=1)
    return salt


def test_order_shift_and_images_do_not_matter(salt: Atoms) -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(salt))
    result = salt[order]
    result.positions += [1.234, -0.4, 7.0]
    result.wrap()
    result.positions += rng.uniform(-2e-4, 2e-4, (len(salt), 3))
    other = salt.copy()
    other.rattle(0.05, seed=3)
    id_, back = match(result, {"other": other, "it": salt}) or ("", np.zeros(0))
    assert id_ == "it"
    np.testing.assert_array_equal(order[back], np.arange(len(salt)))


@pytest.mark.parametrize("change", ["position", "cell", "species", "mirror", "fewer"])
def test_another_structure_is_another(salt: Atoms, change: str) -> None:
    result = salt.copy()
    if change == "position":
        result.positions[3, 1] += 0.01
    elif change == "cell":
        result.set_cell(salt.cell.array * 1.001)
    elif change == "species":
        result.symbols[0] = "K"
    elif change == "mirror":
        result.positions[:, 0] *= -1
    else:
        del result[0]
    assert match(result, {"it": salt}) is None


def test_without_a_cell_a_crystal_has_to_be_where_it_was(salt: Atoms) -> None:
    bare = Atoms(salt.numbers, salt.positions)
    assert match(bare[::-1], {"it": salt}) is not None
    bare.positions += 0.5
    assert match(bare, {"it": salt}) is None


def test_a_molecule_may_come_from_a_box_if_that_has_room() -> None:
    water = molecule("H2O")
    boxed = water.copy()
    boxed.center(vacuum=3.0)
    boxed.pbc = True
    boxed.positions += 3.1
    boxed.wrap()
    assert match(boxed, {"it": water}) is not None
    tight = water.copy()
    tight.center(vacuum=2.0)
    tight.pbc = True
    assert match(tight, {"it": water}) is None


def test_of_two_that_are_close_the_nearest_is_meant() -> None:
    first, second = molecule("H2O"), molecule("H2O")
    second.positions[0, 2] += 8e-4
    result = second.copy()
    result.positions[0, 2] -= 1e-4
    found = match(result, {"first": first, "second": second})
    assert found is not None
    assert found[0] == "second"
