"""Moments: symmetries, derivatives, learning, relaxation, files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from scipy.spatial.transform import Rotation

from models import potentials
from models.calculator import PotentialCalculator
from models.datasets import DataError, Keys, Units, entry, fingerprint, read_labels, settled, write_structures
from models.dynamics.relax import relax
from models.e0s import E0Policy, refit
from models.finetuning import check_step_zero
from models.graphs import Prediction, graphs, predict
from models.losses import Weights
from models.magnetism import learn_moments, relax_moments
from models.potentials import Potential
from models.strategies import Frozen, Lora, Masked, Naive, Sparse, TrainingData
from models.systems.spin_lattice import SpinLattice
from models.training import Optimisation, fit

KEYS = Keys(magmoms="REF_magmoms", magnetic_forces="REF_magnetic_forces")
UNITS = Units(energy="eV", forces="eV/Å", magmoms="μB", magnetic_forces="eV/μB")
MODEL = SpinLattice(magnetic="Na", depth=0.2, stiffness=1.2, contact=2.7, quadratic=-0.16, crowding=0.01,
                    quartic=0.02, exchange=0.15, decay=0.8, cutoff=3.9)  # fmt: skip


def salt(seed: int) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = bulk("NaCl", "rocksalt", a=4.2 * rng.uniform(0.97, 1.03)) * (2, 1, 1)
    atoms.positions += rng.normal(0.0, 0.08, size=(4, 3))
    return atoms


def lattice(seed: int) -> list[Atoms]:
    """One geometry of two Na in four orders of different magnitudes, exactly labelled."""
    rng, atoms = np.random.default_rng(seed), salt(seed)
    found = []
    for sign in (1.0, -1.0):
        up = np.outer([1.0, 1.0, sign, 1.0], [0.0, 0.0, 1.0])
        tilted = up + rng.normal(0.0, 0.5, size=(4, 3))
        tilted /= np.linalg.norm(tilted, axis=1)[:, None]
        spins = MODEL.settled(atoms, up)
        found += [spins, np.linalg.norm(spins, axis=1)[:, None] * rng.uniform(0.8, 1.2, (4, 1)) * tilted]
    labelled = [MODEL.label(atoms, spins) for spins in found]
    for frame in labelled:
        frame.info["trajectory"] = str(seed)
    return labelled


def held(atoms: Atoms, spins: np.ndarray) -> Atoms:
    other = atoms.copy()
    other.arrays.pop("initial_magmoms", None)
    other.set_initial_magnetic_moments(spins)
    return other


def said(potential: Potential, *structures: Atoms) -> list[Prediction]:
    return predict(potential, graphs(structures, potential), stress=True)


@pytest.fixture(scope="module")
def magnetic(tiny_potential) -> Potential:
    """The tiny potential with moments whose coefficients are random."""
    network = potentials.build(potentials.architecture(tiny_potential.network), torch.float64)
    network.load_state_dict(tiny_potential.network.state_dict())
    learn_moments(network, lattice(0), seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in network.magnetism.parameters():
            parameter.data.normal_(0.0, 0.2)
    return replace(tiny_potential, network=network.eval())


@pytest.fixture(scope="module")
def spins() -> np.ndarray:
    return np.random.default_rng(3).normal(0.0, [[1.0], [0.1], [1.0], [0.1]], size=(4, 3))


def test_symmetries(magnetic, spins) -> None:
    atoms = salt(1)
    turn = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ turn, scale_atoms=True)
    order = [2, 0, 3, 1]
    plain, spun, back, moved, both, shuffled, another = said(
        magnetic,
        held(atoms, spins),
        held(atoms, spins @ turn),
        held(atoms, -spins),
        held(turned, spins),
        held(turned, spins @ turn),
        held(atoms[order], spins[order]),
        held(atoms, spins * [[1.0], [1.0], [-1.0], [1.0]]),
    )
    for other in (spun, back, moved, both, shuffled):
        assert other.energy == pytest.approx(plain.energy, abs=1e-10)
    assert abs(another.energy - plain.energy) > 1e-3, "another order is another energy"
    np.testing.assert_allclose(spun.forces, plain.forces, atol=1e-10)
    np.testing.assert_allclose(spun.magnetic_forces, plain.magnetic_forces @ turn, atol=1e-10)
    np.testing.assert_allclose(back.magnetic_forces, -plain.magnetic_forces, atol=1e-10)
    np.testing.assert_allclose(moved.forces, plain.forces @ turn, atol=1e-10)
    np.testing.assert_allclose(moved.magnetic_forces, plain.magnetic_forces, atol=1e-10)
    np.testing.assert_allclose(shuffled.magmoms, plain.magmoms[order], atol=1e-10)
    np.testing.assert_allclose(both.magmoms, plain.magmoms, atol=1e-10)


def test_derivatives(magnetic, spins) -> None:
    atoms, step = held(salt(2), spins), 1e-4
    (found,) = said(magnetic, atoms)

    def slope(change: np.ndarray, what: str) -> float:
        energies = []
        for sign in (1.0, -1.0):
            other = held(atoms, spins + sign * step * change if what == "spins" else spins)
            if what == "positions":
                other.positions += sign * step * change
            if what == "cell":
                other.set_cell(atoms.cell.array @ (np.eye(3) + sign * step * change), scale_atoms=True)
            energies.append(said(magnetic, other)[0].energy)
        return (energies[0] - energies[1]) / (2.0 * step)

    direction = np.random.default_rng(0).normal(size=(4, 3))
    strain = np.diag([1.0, -0.5, 0.2])
    assert slope(direction, "positions") == pytest.approx(-(found.forces * direction).sum(), rel=1e-5)
    assert slope(direction, "spins") == pytest.approx(-(found.magnetic_forces * direction).sum(), rel=1e-5)
    expected = (found.stress * strain).sum() * atoms.get_volume()
    assert slope(strain, "cell") == pytest.approx(expected, rel=1e-5)


def test_without_moments_it_is_the_trunk(magnetic, tiny_potential, spins) -> None:
    bare, plain = said(magnetic, salt(0))[0], said(tiny_potential, salt(0))[0]
    assert bare.energy == pytest.approx(plain.energy, abs=1e-10)
    np.testing.assert_allclose(bare.forces, plain.forces, atol=1e-10)
    up = said(magnetic, held(salt(0), np.ones(4)))[0]
    np.testing.assert_allclose(bare.magmoms, up.magmoms, atol=0.02)  # faint directions are a little shorter


def test_relaxation_of_atoms_holds_moments(magnetic, spins) -> None:
    atoms = held(salt(0), spins)
    (relaxed,) = relax(magnetic, [atoms], fmax=0.5, steps=3)
    assert relaxed.energy == pytest.approx(said(magnetic, held(relaxed.atoms, spins))[0].energy, abs=1e-8)
    assert abs(relaxed.energy - said(magnetic, held(relaxed.atoms, 0.0 * spins))[0].energy) > 1e-3


def test_checkpoint(magnetic, spins, tmp_path) -> None:
    path = tmp_path / "magnetic.safetensors"
    potentials.save(magnetic, path)
    assert "magnetism" in potentials.header(path)["architecture"]
    again = potentials.load(path)
    assert again.magnetic
    atoms = held(salt(0), spins)
    assert said(again, atoms)[0].energy == said(magnetic, atoms)[0].energy
    with pytest.raises(ValueError, match="magnetic moments"):
        potentials.export_mace(again, tmp_path / "it.model")


def test_calculator(magnetic, spins) -> None:
    atoms = held(salt(0), np.array([1.0, 0.0, -1.0, 0.0]))
    atoms.calc = PotentialCalculator(magnetic)
    assert (np.sign(atoms.get_magnetic_moments()) * [1, 0, -1, 0] >= 0.0).all()
    (found,) = said(magnetic, atoms)
    np.testing.assert_allclose(np.abs(atoms.get_magnetic_moments()), found.magmoms)
    energy = atoms.get_potential_energy()
    atoms.set_initial_magnetic_moments([1.0, 0.0, 1.0, 0.0])
    assert abs(atoms.get_potential_energy() - energy) > 1e-6, "a new order is computed anew"
    atoms.arrays.pop("initial_magmoms")
    atoms.set_initial_magnetic_moments(spins)
    assert atoms.get_magnetic_moments().shape == (4, 3)


QUICK = Optimisation(learning_rate=0.01, ema_decay=0.9, clip_gradient=10.0, epochs=2, max_edges=900)


@pytest.mark.parametrize(
    "strategy",
    [
        Naive(optimisation=QUICK),
        Frozen(optimisation=QUICK),
        Lora(optimisation=QUICK, rank=2),
        Sparse(optimisation=QUICK),
        Masked(optimisation=QUICK),
    ],
    ids=lambda s: s.kind,
)
def test_strategies_start_as_the_foundation_and_train_moments(strategy, tiny_potential, tmp_path) -> None:
    frames = [frame for seed in range(3) for frame in lattice(seed)]
    data = TrainingData(train=frames[:8], valid=frames[8:])
    setup = strategy.prepare(tiny_potential, tiny_potential.e0s(), data)
    check_step_zero(tiny_potential, setup.network, {"target": tiny_potential.e0s()}, frames[:4])
    before = setup.network.magnetism.landau[-1].weight.detach().clone()
    fitted = fit(setup, QUICK.model_copy(update={"epochs": 1}))
    network = strategy.finish(fitted.network)
    assert not torch.equal(before, network.magnetism.landau[-1].weight)
    assert "target_magmoms_mae" in fitted.history[-1]
    again = Potential(network=network, level_of_theory={"target": "it"}, provenance={})
    potentials.save(again, tmp_path / "it.safetensors")
    other = strategy.prepare(potentials.load(tmp_path / "it.safetensors"), tiny_potential.e0s(), data)
    assert torch.equal(other.network.magnetism.mean, network.magnetism.mean), "it goes on from there"


@pytest.fixture(scope="module")
def learnt(tiny_potential) -> Potential:
    """The tiny potential fine-tuned on a planted spin lattice."""
    frames = [frame for seed in range(100, 124) for frame in lattice(seed)]
    optimisation = QUICK.model_copy(update={"epochs": 60, "decay": "cosine", "max_edges": 600})
    e0s = refit(tiny_potential, frames[:88], [], E0Policy()).e0s
    data = TrainingData(train=frames[:88], valid=frames[88:])
    weights = Weights(magmoms=0.0, magnetic_forces=100.0)  # half of the magnitudes are held
    setup = Naive(optimisation=optimisation, weights=weights).prepare(tiny_potential, e0s, data)
    return Potential(network=fit(setup, optimisation).network, level_of_theory={"target": ""}, provenance={})


@pytest.mark.slow
def test_learns_a_planted_model(learnt) -> None:
    truth = [frame for seed in (20, 21, 22) for frame in lattice(seed)]
    found = said(learnt, *truth)
    gaps = np.array([p.energy - a.info["REF_energy"] for p, a in zip(found, truth, strict=True)])
    orders = gaps.reshape(-1, 4)[:, 0] - gaps.reshape(-1, 4)[:, 2]
    planted = np.array([a.info["REF_energy"] for a in truth]).reshape(-1, 4)
    assert np.abs(orders).mean() < 0.2 * np.abs(planted[:, 0] - planted[:, 2]).mean()
    off = [p.magnetic_forces - a.arrays["REF_magnetic_forces"] for p, a in zip(found, truth, strict=True)]
    size = [a.arrays["REF_magnetic_forces"] for a in truth]
    assert np.abs(off).mean() < 0.2 * np.abs(size).mean()


@pytest.mark.slow
def test_relaxes_to_planted_moments(learnt) -> None:
    atoms = salt(21)
    right = MODEL.settled(atoms, np.outer([1, 1, 1, 1], [0.0, 0.0, 1.0]))
    relaxed = relax_moments(learnt, held(atoms, 0.9 * right[:, 2]))
    assert relaxed.converged
    np.testing.assert_allclose(relaxed.atoms.get_initial_magnetic_moments(), right[:, 2], atol=0.3)


def test_moments_are_never_relaxed_from_nothing(magnetic, tiny_potential) -> None:
    with pytest.raises(ValueError, match="no moments to start from"):
        relax_moments(magnetic, salt(0))
    with pytest.raises(ValueError, match="no magnetic moments"):
        relax_moments(tiny_potential, held(salt(0), np.ones(4)))


def written(frames: list[Atoms], folder: Path) -> Path:
    write_structures(folder / "labels.extxyz", frames)
    return folder / "labels.extxyz"


def test_labels_are_read(tmp_path) -> None:
    frames = lattice(0)
    for frame in frames:
        frame.arrays["REF_magnetic_forces"] *= 1e3
    other = UNITS.model_copy(update={"magnetic_forces": "meV/μB"})
    read = read_labels(written(frames, tmp_path), KEYS, other)
    np.testing.assert_allclose(read[1].arrays["REF_magmoms"], frames[1].arrays["REF_magmoms"], atol=1e-7)
    np.testing.assert_allclose(
        1e3 * read[1].arrays["REF_magnetic_forces"], frames[1].arrays["REF_magnetic_forces"], atol=1e-6
    )


def test_orders_of_one_geometry_do_not_contradict_each_other(tmp_path) -> None:
    frames = lattice(0)
    assert len({fingerprint(frame) for frame in frames}) == 1
    assert len({entry(frame).structure for frame in frames}) == 4
    assert len(settled(frames, "here", None)) == 4
    wrong = frames[0].copy()
    wrong.info["REF_energy"] += 1.0
    with pytest.raises(DataError, match="frame 1"):
        settled([frames[0], wrong], "here", None)


@pytest.mark.parametrize(
    ("keys", "units", "change", "message"),
    [
        (KEYS, UNITS, {"REF_magmoms": np.zeros((4, 2))}, r"moments under 'REF_magmoms' has shape \(4, 2\)"),
        (KEYS, UNITS, {"REF_magmoms": np.full(4, np.nan)}, "moments under 'REF_magmoms' is not finite"),
        (KEYS, UNITS, {"REF_magmoms": None}, "no moments under 'REF_magmoms'; it has .*Set labels.names"),
        (KEYS, UNITS.model_copy(update={"magmoms": None}), {}, "names.magmoms and units.magmoms, or neither"),
        (KEYS.model_copy(update={"magmoms": None}), UNITS.model_copy(update={"magmoms": None}), {},
         "give names.magmoms"),
    ],
)  # fmt: skip
def test_bad_labels(keys, units, change, message, tmp_path) -> None:
    frame = lattice(0)[0]
    for name, values in change.items():
        del frame.arrays[name]
        if values is not None:
            frame.arrays[name] = values
    with pytest.raises(DataError, match=message):
        read_labels(written([frame], tmp_path), keys, units)
