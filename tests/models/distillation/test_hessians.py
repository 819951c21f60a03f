from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from models.datasets import read_structures, write_structures
from models.distillation import hessians
from models.distillation.hessians import Products, Sampling, directions
from models.graphs import graphs, predict
from models.heads import with_heads
from models.potentials import Potential


def by_differences(potential: Potential, atoms: Atoms, step: float = 1e-4) -> np.ndarray:
    """The Hessian (3N, 3N) from forces at displaced atoms, eV/Å²."""
    displaced = []
    for coordinate in range(3 * len(atoms)):
        for side in (step, -step):
            displaced.append(atoms.copy())
            displaced[-1].positions.reshape(-1)[coordinate] += side
    forces = [p.forces.ravel() for p in predict(potential, graphs(displaced, potential))]
    return np.array([(b - a) / (2 * step) for a, b in zip(forces[::2], forces[1::2], strict=True)])


@pytest.fixture(params=["cluster", "crystal"])
def structure(request, salt_water, salt_crystal) -> Atoms:
    """A cluster, and a crystal whose cell is about as wide as the cutoff."""
    return salt_water if request.param == "cluster" else salt_crystal[[0, 1, 2, 3, 32, 33, 40, 41]]


def test_the_hessian_is_that_of_finite_differences_and_symmetric(tiny_potential, structure):
    found = hessians.hessian(tiny_potential, structure)
    expected = by_differences(tiny_potential, structure)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(found, found.T, atol=1e-10)


def test_products_of_a_batch_are_those_of_the_whole_matrix(tiny_potential, salt_water, salt_crystal):
    structures = [salt_water, salt_crystal[:9], salt_water[:4]]
    rng = np.random.default_rng(0)
    numbers = (3, 1, 2)
    wanted = [
        torch.tensor(rng.normal(size=(k, len(atoms), 3)))
        for k, atoms in zip(numbers, structures, strict=True)
    ]
    found = list(hessians.products(tiny_potential, graphs(structures, tiny_potential), wanted))
    for atoms, directions_, products in zip(structures, wanted, found, strict=True):
        whole = hessians.hessian(tiny_potential, atoms)
        expected = directions_.flatten(1).numpy() @ whole
        np.testing.assert_allclose(products.reshape(len(directions_), -1), expected, atol=1e-9)


def test_a_network_of_several_heads_gives_that_of_its_last(two_heads, tiny_potential, salt_water):
    np.testing.assert_allclose(
        hessians.hessian(two_heads, salt_water), hessians.hessian(tiny_potential, salt_water), atol=1e-9
    )


def test_rows_are_drawn_by_content_without_repeats(salt_water):
    sampling = Sampling(number=7, seed=3)
    drawn = sampling.draw(salt_water)
    assert len(set(drawn.tolist())) == 7
    assert drawn.max() < 3 * len(salt_water)
    np.testing.assert_array_equal(drawn, sampling.draw(salt_water.copy()))
    other = salt_water.copy()
    other.positions[0] += 0.01
    assert drawn.tolist() != sampling.draw(other).tolist()
    assert drawn.tolist() != Sampling(number=7, seed=4).draw(salt_water).tolist()
    assert sorted(Sampling(number=99).draw(salt_water[:2])) == list(range(6))
    rows = directions(drawn, len(salt_water))
    assert rows.sum() == 7
    assert all(row.ravel()[c] == 1 for row, c in zip(rows.numpy(), drawn, strict=True))
    probes = Sampling(directions="probes", number=2).draw(salt_water)
    assert probes.shape == (2, len(salt_water), 3)
    assert set(np.unique(probes)) == {-1, 1}


@pytest.mark.parametrize("kind", ["rows", "probes"])
def test_labels_are_kept_by_content_and_part_by_part(
    tiny_potential, labelled_waters, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(hessians, "_STRUCTURES", 5)
    sampling = Sampling(directions=kind, number=3)
    told = []
    frames = labelled_waters[:12]
    path = hessians.label(tiny_potential, [*frames, frames[0]], sampling, tmp_path, told.append)
    assert [m["done"] for m in told] == [1, 2, 3]
    assert {m["parts"] for m in told} == {3}
    content = path.read_bytes()
    (tmp_path / "again").mkdir()
    again = hessians.label(tiny_potential, frames[::-1], sampling, tmp_path / "again")
    assert again.read_bytes() == content, "their order does not matter"

    # Killed after the first part: the others are computed again, the first is not.
    first, *others = sorted(tmp_path.glob("products-*.npz"))
    for other in others:
        other.unlink()
    first_written = first.stat().st_mtime_ns
    assert hessians.label(tiny_potential, frames, sampling, tmp_path).read_bytes() == content
    assert first.stat().st_mtime_ns == first_written

    products = Products(path)
    for atoms in frames[::4]:
        given, found = products.of(atoms)
        whole = hessians.hessian(tiny_potential, atoms)
        np.testing.assert_allclose(
            found.reshape(3, -1), given.reshape(3, -1).numpy() @ whole, rtol=1e-4, atol=1e-5
        )
        assert found.dtype == torch.float32
    assert products.of(labelled_waters[20]) is None


def test_files_of_structures_are_labelled_together(tiny_foundation, labelled_waters, tmp_path):
    paths: list[Path] = []
    for number in range(2):
        paths.append(tmp_path / f"{number}.extxyz")
        write_structures(paths[-1], labelled_waters[3 * number : 3 * number + 3])
    products = Products(hessians.label_files(tiny_foundation, paths, Sampling(number=1), tmp_path))
    structures = [atoms for path in paths for atoms in read_structures(path)]
    assert [products.of(atoms)[1].shape for atoms in structures] == [(1, len(a), 3) for a in structures]


def test_a_row_that_is_no_number_names_its_structure(tiny_potential, labelled_waters, tmp_path):
    broken = Potential(
        network=with_heads(tiny_potential, {"target": tiny_potential.e0s()}),
        level_of_theory={"target": "none"},
        provenance={},
    )
    with torch.no_grad():
        next(broken.network.parameters()).fill_(torch.nan)
    with pytest.raises(
        FloatingPointError, match=r"structure [0-9a-f]{12} \(H2O\): a Hessian row is not finite"
    ):
        hessians.label(broken, labelled_waters[:1], Sampling(), tmp_path)
