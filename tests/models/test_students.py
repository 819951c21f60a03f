"""What holds for every student: the union is asked which there are."""

from typing import get_args

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from scipy.spatial.transform import Rotation

from models import graphs, kernels, potentials, tracing
from models.distillation.students import STUDENT, Ace, AnyStudent, Painn, SmallMace
from models.graphs import Prediction, predict
from models.potentials import Potential

KINDS = get_args(get_args(AnyStudent)[0])
DIRECT = Painn(channels=8, forces="direct")
STUDENTS = [*(kind() for kind in KINDS), Painn(layers=1, channels=8), Ace(species=1, basis=6), DIRECT]
E0S = {z: -1.0 * z for z in (1, 8, 11, 17)}


@pytest.fixture(scope="module", params=STUDENTS, ids=str)
def student(request) -> AnyStudent:
    return request.param


@pytest.fixture(scope="module")
def made(student, labelled_waters) -> Potential:
    """In float32, as it is used."""
    return fresh(student, labelled_waters)


@pytest.fixture(scope="module")
def potential(made, tmp_path_factory) -> Potential:
    """In float64, so that finite differences mean something."""
    return saved_and_loaded(made, tmp_path_factory.mktemp("student"), torch.float64)


def fresh(student: AnyStudent, lessons: list[Atoms], seed: int = 0) -> Potential:
    items = [graphs.graph(a, sorted(E0S), student.cutoff) for a in lessons]
    network = student.network(E0S, items, seed=seed)
    return Potential(network=network, level_of_theory={"target": "none"}, provenance={})


def saved_and_loaded(potential: Potential, folder, dtype=None) -> Potential:
    potentials.save(potential, folder / "student")
    return potentials.load(folder / "student", dtype)


def ask(potential: Potential, *frames: Atoms, stress: bool = False) -> list[Prediction]:
    return predict(potential, graphs.graphs(frames, potential), stress=stress)


def batch_of(potential: Potential, *frames: Atoms) -> graphs.Batch:
    items = graphs.graphs(frames, potential)
    return graphs.collate(items, len(potential.elements), potential.dtype)


def assert_same(ours: Prediction, theirs: Prediction, atol: float) -> None:
    assert ours.energy == pytest.approx(theirs.energy, abs=atol)
    np.testing.assert_allclose(ours.forces, theirs.forces, atol=atol)
    if theirs.stress is not None:
        np.testing.assert_allclose(ours.stress, theirs.stress, atol=atol)


def test_there_is_a_student_of_every_kind():
    assert {kind.model_fields["kind"].default for kind in KINDS} == {"small_mace", "painn", "ace"}
    for kind in KINDS:
        assert STUDENT.validate_python(kind().model_dump(mode="json")) == kind()


@pytest.mark.parametrize("determinant", [1.0, -1.0], ids=["rotation", "inversion"])
def test_energies_are_invariant_and_forces_turn_along(potential, salt_water, salt_crystal, determinant):
    turn = determinant * Rotation.random(rng=0).as_matrix()
    for frame in (salt_water, salt_crystal[:20]):
        turned = frame.copy()
        turned.set_cell(frame.cell.array @ turn.T)
        turned.positions = frame.positions @ turn.T + [0.3, -0.2, 0.1]
        [here], [there] = ask(potential, frame, stress=True), ask(potential, turned, stress=True)
        stress = None if here.stress is None else turn @ here.stress @ turn.T
        expected = Prediction(energy=here.energy, forces=here.forces @ turn.T, stress=stress)
        assert np.abs(here.forces).max() > 1e-4
        assert_same(there, expected, 1e-8)


def test_neither_order_nor_company_matters(potential, salt_water):
    order = np.random.default_rng(0).permutation(len(salt_water))
    far = salt_water.copy()
    far.positions += 40.0
    [one], [permuted], [two] = (ask(potential, a) for a in (salt_water, salt_water[order], salt_water + far))
    assert_same(permuted, Prediction(energy=one.energy, forces=one.forces[order]), 1e-9)
    both = Prediction(energy=2.0 * one.energy, forces=np.concatenate([one.forces] * 2))
    assert_same(two, both, 1e-8)


def test_forces_are_minus_the_gradient(student, potential, salt_water, salt_crystal):
    if student == DIRECT:
        pytest.skip("its forces are no gradient; see test_networks.py")
    for frame in (salt_water, salt_crystal[:20]):
        [here] = ask(potential, frame)
        np.testing.assert_allclose(here.forces.sum(axis=0), 0.0, atol=1e-9)
        direction = np.random.default_rng(0).normal(size=frame.positions.shape)
        ends = []
        for sign in (1.0, -1.0):
            moved = frame.copy()
            moved.positions += sign * 1e-4 * direction
            ends.append(ask(potential, moved)[0].energy)
        assert -(ends[0] - ends[1]) / 2e-4 == pytest.approx((here.forces * direction).sum(), abs=1e-5)


def test_stress_is_the_strain_derivative_of_the_energy(potential):
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    crystal.rattle(0.05, seed=1)
    crystal.set_cell(crystal.cell.array * [[1.0], [1.02], [0.98]] + 0.1, scale_atoms=True)
    [here] = ask(potential, crystal, stress=True)
    for a, b in ((0, 0), (1, 2)):
        strain = np.zeros((3, 3))
        strain[a, b] += 5e-6
        strain[b, a] += 5e-6
        ends = []
        for sign in (1.0, -1.0):
            strained = crystal.copy()
            strained.set_cell(crystal.cell.array @ (np.eye(3) + sign * strain), scale_atoms=True)
            ends.append(ask(potential, strained)[0].energy)
        slope = (ends[0] - ends[1]) / (2e-5 * crystal.get_volume())
        assert here.stress[a, b] == pytest.approx(slope, abs=1e-7)


def test_energy_and_forces_go_to_zero_at_the_cutoff(student, potential):
    def dimer(distance: float) -> Prediction:
        return ask(potential, Atoms("NaCl", [(0.0, 0.0, 0.0), (0.0, 0.0, distance)]))[0]

    apart = E0S[11] + E0S[17]
    inside, outside = dimer(student.cutoff - 1e-3), dimer(student.cutoff + 1e-3)
    assert outside.energy == pytest.approx(apart, abs=1e-12)
    assert not outside.forces.any()
    assert inside.energy == pytest.approx(apart, abs=1e-6)
    assert np.abs(inside.forces).max() < 1e-4
    assert np.abs(dimer(0.7 * student.cutoff).forces).max() > 1e-4


def test_rows_of_the_hessian_are_derivatives_of_the_forces_and_teach_every_parameter(potential, salt_water):
    network = potential.network.requires_grad_(True)
    row = np.zeros_like(salt_water.positions)
    row[3, 1] = 1.0
    batch = batch_of(potential, salt_water)
    output = network(batch, training=True, compute_force=True)
    (curvature,) = torch.autograd.grad(
        output["forces"], batch["positions"], torch.from_numpy(row), create_graph=True
    )
    direction = np.random.default_rng(0).normal(size=row.shape)
    ends = []
    for sign in (1.0, -1.0):
        moved = salt_water.copy()
        moved.positions += sign * 1e-4 * direction
        ends.append(ask(potential, moved)[0].forces)
    slope = ((ends[0] - ends[1])[3, 1]) / 2e-4
    assert float((curvature.detach().numpy() * direction).sum()) == pytest.approx(slope, abs=2e-5, rel=1e-4)
    loss = curvature.square().sum() + output["interaction_energy"].square().sum()
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    taught = [gradient for gradient in found if gradient is not None and gradient.isfinite().all()]
    assert len(taught) >= len(found) - 4  # biases that only shift the energy, and a head for direct forces


def test_a_saved_student_gives_the_same_numbers(made, salt_water, tmp_path):
    loaded = saved_and_loaded(made, tmp_path)
    assert (loaded.dtype, loaded.heads, loaded.e0s()) == (torch.float32, ["target"], E0S)
    [before], [after] = ask(made, salt_water), ask(loaded, salt_water)
    assert before.energy == after.energy
    np.testing.assert_array_equal(before.forces, after.forces)


def test_the_seed_decides(student, made, labelled_waters, salt_water):
    same, other = (fresh(student, labelled_waters, seed) for seed in (0, 1))
    energies = [ask(each, salt_water)[0].energy for each in (made, same, other)]
    assert energies[0] == energies[1] != energies[2]


def test_an_atom_alone_has_its_e0_and_no_force(potential, salt_water):
    [alone, _] = ask(potential, Atoms("Cl", [(1.0, 2.0, 3.0)]), salt_water)
    assert alone.energy == pytest.approx(E0S[17])
    assert not alone.forces.any()
    output = potential.network(batch_of(potential, Atoms("Cl")), compute_force=True)
    assert float(output["node_energy"].detach()) == pytest.approx(E0S[17])


def test_a_cell_smaller_than_the_cutoff_meets_its_own_images(potential):
    small = bulk("NaCl", "rocksalt", a=5.64)
    large = small.repeat(2)
    [one], [eight] = ask(potential, small, stress=True), ask(potential, large, stress=True)
    forces = np.concatenate([one.forces] * 8)
    assert_same(eight, Prediction(energy=8.0 * one.energy, forces=forces, stress=one.stress), 1e-8)


def test_in_torchscript_and_in_training_it_says_the_same(potential, salt_water, salt_crystal):
    frames = (salt_water, salt_crystal[:20])
    script = potentials.compiled(potential)
    assert isinstance(script.network, torch.jit.ScriptModule)
    plain = potential.network(batch_of(potential, *frames), compute_force=True, compute_stress=True)
    training = kernels.fused(potential.network)(
        batch_of(potential, *frames), training=True, compute_force=True, compute_stress=True
    )
    for ours, theirs in zip(ask(script, *frames), ask(potential, *frames), strict=True):
        assert_same(ours, theirs, 1e-9)
    for name in ("interaction_energy", "node_energy", "forces", "stress", "node_feats"):
        torch.testing.assert_close(plain[name].detach(), training[name].detach(), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("stress", [False, True])
def test_written_down_it_says_the_same(potential, salt_water, salt_crystal, stress, monkeypatch):
    monkeypatch.setattr(tracing, "CALLS", 1)
    fast = tracing.traced(potential)
    generator = np.random.default_rng(0)
    crystal = salt_crystal[:20]
    for _ in range(3):
        frames = [crystal, Atoms("Cl"), salt_water]
        for atoms in frames:
            atoms.positions += generator.normal(scale=0.01, size=atoms.positions.shape)
        items = graphs.graphs(frames, potential)
        pairs = zip(
            predict(fast, items, stress=stress), predict(potential, items, stress=stress), strict=True
        )
        for ours, theirs in pairs:
            assert_same(ours, theirs, 1e-9)
            assert (ours.stress is None) == (theirs.stress is None)
    assert any(isinstance(made, torch.jit.ScriptModule) for made in fast.network._lists.values())


def test_only_a_mace_has_a_model_file(potential, student, tmp_path):
    if isinstance(student, SmallMace):
        potentials.export_mace(potential, tmp_path / "student.model")
        assert (tmp_path / "student.model").exists()
    else:
        with pytest.raises(ValueError, match=f"of kind '{student.kind}' and no MACE.*temper export"):
            potentials.export_mace(potential, tmp_path / "student.model")
