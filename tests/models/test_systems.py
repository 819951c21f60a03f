import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii
from ase.io import write
from scipy.spatial.distance import cdist

from models.pretraining.families import FAMILIES
from models.pretraining.sampling import trajectory
from models.pretraining.train import read_dataset
from models.reference.xtb import (
    GROUND_STATE_MULTIPLICITY,
    calculator,
    isolated_atom,
    labelled_copy,
    relabelled,
)
from models.systems import molecules, nacl
from models.systems.packing import pack, random_rotation

NEEDS_RDKIT = {"organics", "peptides", "electrolytes"}


def closest_contact(atoms: Atoms) -> float:
    """Smallest distance in units of the sum of the two covalent radii."""
    distances = cdist(atoms.positions, atoms.positions)
    radii = covalent_radii[atoms.numbers]
    np.fill_diagonal(distances, np.inf)
    return float((distances / (radii[:, None] + radii)).min())


@pytest.mark.parametrize("n", [1, 2, 9])
def test_packed_molecules_keep_their_shape_and_their_distance(n):
    rng = np.random.default_rng(0)
    cluster = pack([molecules.water() for _ in range(n)], rng, closest=2.1)
    assert len(cluster) == 3 * n
    distances = cdist(cluster.positions, cluster.positions)
    owner = np.arange(3 * n) // 3
    assert np.where(owner[:, None] != owner, distances, np.inf).min() > 2.1
    shape = molecules.water().get_all_distances()
    for k in range(n):
        np.testing.assert_allclose(distances[3 * k : 3 * k + 3, 3 * k : 3 * k + 3], shape, atol=1e-9)


def test_a_rotation_is_about_the_centre_and_leaves_the_original_alone():
    water = molecules.water()
    before = water.positions.copy()
    turned = random_rotation(water, np.random.default_rng(0))
    np.testing.assert_allclose(turned.positions.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(turned.get_all_distances(), water.get_all_distances(), atol=1e-12)
    np.testing.assert_array_equal(water.positions, before)


@pytest.mark.parametrize("shape", [(2, 1, 1), (3, 1, 1), (3, 3, 1), (3, 3, 3), (2, 3, 2)])
def test_a_brick_of_salt_is_neutral_and_regular(shape):
    brick = molecules.rock_salt_piece("Na", "Cl", shape, 2.8)
    symbols = brick.get_chemical_symbols()
    assert symbols.count("Na") == symbols.count("Cl") == int(np.prod(shape)) // 2
    distances = cdist(brick.positions, brick.positions)
    like = brick.numbers[:, None] == brick.numbers
    assert distances[~like].min() == pytest.approx(2.8)
    assert not like[(distances > 0) & (distances < 2.9)].any()


@pytest.mark.parametrize("asymmetry", [-2.0, 0.0, 2.0])
def test_the_exchange_path_is_collinear_and_symmetric(asymmetry):
    path = molecules.methyl_halide_complex("Cl", "Br", asymmetry)
    assert path.get_angle(4, 0, 5) == pytest.approx(180.0)
    mirror = molecules.methyl_halide_complex("Br", "Cl", -asymmetry)
    assert path.get_distance(0, 4) == pytest.approx(mirror.get_distance(0, 5))
    assert closest_contact(path) > 0.8


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_structures_that_can_be_labelled(family):
    if family in NEEDS_RDKIT:
        pytest.importorskip("rdkit", reason="rdkit builds this family and is not installed")
    known = set(GROUND_STATE_MULTIPLICITY)
    structures = [FAMILIES[family][0](np.random.default_rng(seed)) for seed in range(8)]
    for atoms, charge in structures:
        assert set(atoms.get_chemical_symbols()) <= known
        assert (int(atoms.numbers.sum()) - charge) % 2 == 0, "closed shell"
        assert closest_contact(atoms) > 0.6
    atoms, charge = min(structures, key=lambda made: len(made[0]))
    atoms.calc = calculator("GFN1-xTB", charge=charge)
    labelled = labelled_copy(atoms)
    assert np.isfinite(labelled.info["REF_energy"])
    assert np.isfinite(labelled.arrays["REF_forces"]).all()


def test_the_same_seed_builds_the_same_structure():
    for build, _ in (FAMILIES["nacl_aq"], FAMILIES["sn2"], FAMILIES["salts"]):
        (a, _), (b, _), (c, _) = (build(np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert a == b
        assert a != c


@pytest.mark.parametrize("method", ["GFN1-xTB", "GFN2-xTB"])
def test_xtb_forces_are_minus_the_gradient(method, labelled_waters):
    frame = relabelled(labelled_waters[0], method)
    step = 1e-3
    direction = np.random.default_rng(0).normal(size=frame.positions.shape)
    energies = []
    for sign in (1.0, -1.0):
        moved = frame.copy()
        moved.positions += sign * step * direction
        energies.append(relabelled(moved, method).info["REF_energy"])
    slope = -(energies[0] - energies[1]) / (2.0 * step)
    assert slope == pytest.approx((frame.arrays["REF_forces"] * direction).sum(), abs=2e-3)


def test_charge_and_multiplicity_reach_the_calculator():
    chloride = Atoms("Cl", info={"charge": -1})
    neutral = Atoms("Cl", info={"charge": 0, "multiplicity": 2})
    affinity = (relabelled(neutral, "GFN2-xTB").info["REF_energy"]
                - relabelled(chloride, "GFN2-xTB").info["REF_energy"])  # fmt: skip
    assert 2.0 < affinity < 10.0  # eV; a charge that is not passed on would give none
    triplet, singlet = (
        relabelled(Atoms("O", info={"multiplicity": m}), "GFN2-xTB").info["REF_energy"] for m in (3, 1)
    )
    assert abs(triplet - singlet) > 0.01


@pytest.mark.parametrize("symbol", GROUND_STATE_MULTIPLICITY)
def test_free_atoms_are_labelled_in_their_ground_state(symbol):
    atom = isolated_atom(symbol, "GFN1-xTB")
    assert atom.info["config_type"] == "IsolatedAtom"
    assert atom.info["REF_energy"] < 0.0
    assert atom.calc is None


def test_a_label_travels_without_its_calculator(labelled_waters):
    frame = relabelled(labelled_waters[0], "GFN1-xTB")
    assert frame.calc is None
    assert frame.info["trajectory"] == "w0"
    assert frame.info["REF_energy"] != labelled_waters[0].info["REF_energy"]


# What ASE deprecates here has its successors only in releases newer than the oldest that is supported.
@pytest.mark.filterwarnings("ignore:The implementation of `fixcm=True`:FutureWarning")
@pytest.mark.filterwarnings("ignore:Use thermalize_momenta:DeprecationWarning")
def test_sampled_trajectories_make_a_dataset(tmp_path):
    frames = []
    for k in range(3):
        rng = np.random.default_rng(k)
        start, charge = FAMILIES["sn2"][0](rng)
        made = trajectory(f"sn2-{k}", "sn2", start, charge, "GFN1-xTB", rng, frames=2, stride=2)
        assert {frame.info["charge"] for frame in made} == {-1}
        frames += made
    assert len(frames) >= 9
    write(tmp_path / "labels-0.extxyz", frames)
    write(
        tmp_path / "isolated_atoms.extxyz",
        [isolated_atom(s, "GFN1-xTB") for s in ("H", "C", "F", "Cl", "Br")],
    )
    dataset, e0s = read_dataset([tmp_path])
    dealt = {part: {frame.info["trajectory"] for frame in items} for part, items in dataset.items()}
    assert sum(map(len, dataset.values())) == len(frames)
    assert sorted(name for names in dealt.values() for name in names) == ["sn2-0", "sn2-1", "sn2-2"]
    assert set(e0s) == {1, 6, 9, 17, 35}


def test_a_proton_on_its_way_out_is_labelled_and_the_rest_stays():
    rng = np.random.default_rng(0)
    frame = pack([molecules.ion("Na"), molecules.ion("Cl"), *(molecules.water() for _ in range(3))], rng)
    for _ in range(5):
        made = nacl.stretched(frame, rng)
        (moved,) = np.flatnonzero(np.abs(made.positions - frame.positions).max(axis=1) > 1e-7)
        assert made.numbers[moved] == 1
        lengths = np.delete(cdist(made.positions[[moved]], made.positions)[0], moved)
        assert lengths.min() > 0.85
        oxygen = np.argmin(
            np.where(frame.numbers == 8, cdist(frame.positions[[moved]], frame.positions)[0], 9)
        )
        assert 1.1 <= np.linalg.norm(made.positions[moved] - frame.positions[oxygen]) <= 1.8
        assert made.info["REF_energy"] > relabelled(frame, nacl.METHOD).info["REF_energy"] - 1.0
