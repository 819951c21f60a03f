from collections import Counter

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import primitive_neighbor_list
from scipy.spatial.transform import Rotation

from models import graphs, potentials
from models.distillation.students import SmallMace
from models.graphs import Prediction, predict
from models.potentials import Potential

STUDENTS = [SmallMace(), SmallMace(channels=4, max_l=1, max_ell=1, correlation=3, layers=1, cutoff=3.0)]
MODELS = ["tiny_potential", "two_heads:replay", "two_heads:target", *STUDENTS]


@pytest.fixture(params=MODELS, ids=str)
def model(request, labelled_waters, tmp_path) -> tuple[Potential, str]:
    """Every kind of network, in float64 so that finite differences mean something."""
    if isinstance(request.param, SmallMace):
        e0s = {z: -1.0 * z for z in (1, 8, 11, 17)}
        lessons = [graphs.graph(a, sorted(e0s), request.param.cutoff) for a in labelled_waters]
        network = request.param.network(e0s, lessons, seed=0)
        potentials.save(Potential(network=network, level_of_theory={}, provenance={}), tmp_path / "student")
        return potentials.load(tmp_path / "student", torch.float64), "target"
    name, _, head = request.param.partition(":")
    potential = request.getfixturevalue(name)
    return potential, head or potential.heads[0]


def ask(model: tuple[Potential, str], *frames: Atoms, stress: bool = False) -> list[Prediction]:
    potential, head = model
    return predict(potential, graphs.graphs(frames, potential, head), stress=stress)


def slab() -> Atoms:
    atoms = fcc111("Al", (2, 2, 3), a=4.05, orthogonal=False)
    atoms.numbers[:] = 11
    atoms.rattle(0.05, seed=0)
    return atoms


def wire_along_a_tilted_axis() -> Atoms:
    return Atoms(
        "NaCl", [(0, 0, 0), (1.5, 1.5, 0.4)], cell=[(3.0, 3.0, 0.0), (0, 0, 0), (0, 0, 0)], pbc=[1, 0, 0]
    )


def drops() -> Atoms:
    """Enough molecules for the cell list."""
    grid = molecule("H2O").repeat((1, 1, 1))
    return sum((_moved(grid, 3.1 * np.array(place)) for place in np.ndindex(5, 5, 3)), Atoms())


def _moved(atoms: Atoms, by: np.ndarray) -> Atoms:
    copy = atoms.copy()
    copy.translate(by)
    return copy


@pytest.mark.parametrize(
    "atoms",
    [
        molecule("CH3CH2OH"),
        bulk("NaCl", "rocksalt", a=5.6),
        bulk("Ti", a=2.95, c=4.68).repeat((2, 1, 1)),
        slab(),
        wire_along_a_tilted_axis(),
        drops(),
    ],
    ids=["molecule", "small cell", "hexagonal", "slab", "wire", "droplets"],
)
def test_neighbours_are_those_of_ase(atoms):
    pairs, shifts = graphs.neighbours(atoms.positions, atoms.cell.array, atoms.pbc, 4.5)
    i, j, s = primitive_neighbor_list("ijS", atoms.pbc, atoms.cell, atoms.positions, 4.5)
    ours = Counter(zip(*pairs.tolist(), *shifts.T.astype(int).tolist(), strict=True))
    assert ours == Counter(zip(i.tolist(), j.tolist(), *s.T.tolist(), strict=True))


def test_a_batch_gives_what_single_structures_give(model, salt_water, salt_crystal):
    frames = [salt_water, salt_crystal, molecule("H2O"), Atoms("Na")]
    together = ask(model, *frames)
    for frame, joint in zip(frames, together, strict=True):
        [alone] = ask(model, frame)
        assert joint.energy == pytest.approx(alone.energy, abs=1e-9)
        np.testing.assert_allclose(joint.forces, alone.forces, atol=1e-9)


def test_batches_stay_within_their_budget():
    assert list(graphs.batches([2, 0, 1, 3], [4, 5, 9, 1], 10)) == [[2], [0, 1, 3]]
    assert list(graphs.batches([0, 1], [50, 1], 10)) == [[0], [1]]
    assert list(graphs.batches([], [], 10)) == []


def test_an_isolated_atom_has_its_e0_and_no_force(model):
    potential, head = model
    [alone] = ask(model, Atoms("Cl", [(1.0, 2.0, 3.0)]))
    assert alone.energy == pytest.approx(potential.e0s(head)[17])
    assert (alone.forces == 0.0).all()


def test_a_total_of_hundred_thousand_ev_keeps_its_mev(tiny_potential, tiny_foundation, salt_water):
    rounded = potentials.load(tiny_foundation)
    deep = np.array([-13000.0 - 0.123456789 * z for z in rounded.elements])
    [before] = ask((rounded, "Default"), salt_water)
    expected = before.energy + sum(
        deep[rounded.elements.index(z)] - rounded.e0s()[z] for z in salt_water.numbers
    )
    potentials.set_e0s(rounded.network, deep)
    [after] = ask((rounded, "Default"), salt_water)
    assert after.energy < -1e5
    assert after.energy == pytest.approx(expected, abs=1e-8)


def test_stress_is_the_strain_derivative_of_the_energy(model, salt_crystal):
    crystal = salt_crystal[:8]
    crystal.set_cell(salt_crystal.cell.array / 2.0)
    crystal.set_cell(crystal.cell.array * [[1.0], [1.02], [0.98]] + 0.1, scale_atoms=True)
    [here] = ask(model, crystal, stress=True)
    step = 1e-5
    for a, b in ((0, 0), (1, 2), (0, 1)):
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5 * step
        strain[b, a] += 0.5 * step
        ends = []
        for sign in (1.0, -1.0):
            strained = crystal.copy()
            strained.set_cell(crystal.cell.array @ (np.eye(3) + sign * strain), scale_atoms=True)
            ends.append(ask(model, strained)[0].energy)
        slope = (ends[0] - ends[1]) / (2.0 * step * crystal.get_volume())
        assert here.stress[a, b] == pytest.approx(slope, abs=1e-7)


def test_only_what_is_periodic_in_three_directions_has_a_stress(model, salt_water, salt_crystal):
    found = ask(model, salt_water, salt_crystal, slab(), stress=True)
    assert [prediction.stress is not None for prediction in found] == [False, True, False]


def test_an_unknown_element_is_named(tiny_potential):
    with pytest.raises(ValueError, match=r"\w+: the model does not know C"):
        graphs.graphs([molecule("CH3OH")], tiny_potential)


@pytest.mark.parametrize("shape", [(6,), (9,), (3, 3)])
def test_a_stress_in_any_shape_becomes_a_matrix(shape):
    matrix = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    given = np.arange(1.0, 7.0) if shape == (6,) else matrix.reshape(shape)
    np.testing.assert_array_equal(graphs.as_matrix(given), matrix)


@pytest.mark.parametrize("determinant", [1.0, -1.0], ids=["rotation", "inversion"])
def test_energies_are_invariant_and_forces_turn_along(model, salt_water, salt_crystal, determinant):
    turn = determinant * Rotation.random(rng=0).as_matrix()
    for frame in (salt_water, salt_crystal):
        turned = frame.copy()
        turned.set_cell(frame.cell.array @ turn.T)
        turned.positions = frame.positions @ turn.T + [0.3, -0.2, 0.1]
        [a], [b] = ask(model, frame), ask(model, turned)
        assert b.energy == pytest.approx(a.energy, abs=1e-8)
        np.testing.assert_allclose(b.forces, a.forces @ turn.T, atol=1e-8)


def test_the_order_of_atoms_does_not_matter(model, salt_water):
    order = np.random.default_rng(0).permutation(len(salt_water))
    [a], [b] = ask(model, salt_water), ask(model, salt_water[order])
    assert b.energy == pytest.approx(a.energy, abs=1e-9)
    np.testing.assert_allclose(b.forces, a.forces[order], atol=1e-9)


def test_forces_are_minus_the_gradient_and_sum_to_zero(model, salt_water, salt_crystal):
    for frame in (salt_water, salt_crystal):
        [here] = ask(model, frame)
        np.testing.assert_allclose(here.forces.sum(axis=0), 0.0, atol=1e-9)
        direction = np.random.default_rng(0).normal(size=frame.positions.shape)
        ends = [ask(model, _moved(frame, s * 1e-4 * direction))[0].energy for s in (1.0, -1.0)]
        assert -(ends[0] - ends[1]) / 2e-4 == pytest.approx((here.forces * direction).sum(), abs=1e-5)
