from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from models import potentials
from models.datasets import DataError, fingerprint, read_structures, write_structures
from models.graphs import graphs, predict
from models.selection import FarthestPoint, Random, Threshold
from models.selection.descriptors import see
from models.selection.files import select_files
from models.systems.random_crystals import contact


@pytest.fixture(scope="module")
def pool(labelled_waters, tmp_path_factory) -> Path:
    """30 shaken waters of three walkers, one of them twice, and one whose atoms are on top of each other."""
    rng = np.random.default_rng(0)
    frames = []
    for index in range(30):
        frame = Atoms("OH2", labelled_waters[index % 4].positions[:3])
        frame.positions += rng.normal(scale=0.03, size=(3, 3))
        frame.info |= {"walker": f"w{index % 3}", "charge": 0, "uncertainty": 0.1 + 0.01 * index}
        frames.append(frame)
    crushed = frames[0].copy()
    crushed.positions[2] = crushed.positions[1] + (0.0, 0.0, 0.2)
    path = tmp_path_factory.mktemp("pool") / "pool.extxyz"
    write_structures(path, [*frames, frames[3], crushed])
    return path


@pytest.fixture(scope="module")
def known(pool, tmp_path_factory) -> list[Path]:
    """Two labelled files: the first and the last two structures of the pool."""
    frames = read_structures(pool)
    paths = [tmp_path_factory.mktemp("known") / f"{name}.extxyz" for name in ("train", "valid")]
    for path, chosen in zip(paths, (frames[:1], frames[28:30]), strict=True):
        for frame in chosen:
            frame.info.clear()
        write_structures(path, chosen)
    return paths


def names(frames: list[Atoms]) -> list[str]:
    return [fingerprint(frame) for frame in frames]


def test_both_arms_are_new_disjoint_and_named(pool, known, tiny_foundation, tmp_path):
    path = select_files(FarthestPoint(), 0.25, 12, pool, known, tiny_foundation, 0, tmp_path)
    assert path == tmp_path / "selection.extxyz"
    frames = read_structures(path)
    assert len(set(names(frames))) == 12
    assert not set(names(frames)) & {name for part in known for name in names(read_structures(part))}
    assert names(read_structures(pool))[-1] not in names(frames)
    assert [f.info["rank"] for f in frames] == list(range(1, 13))
    arms = [f.info["arm"] for f in frames]
    assert arms.count("control") == 3
    assert all(arms[k : k + 4].count("control") == 1 for k in (0, 4, 8))
    for frame in frames:
        assert ("score" in frame.info) == (frame.info["arm"] == "selected")
        assert {"walker", "charge", "uncertainty"} < frame.info.keys()


def test_the_same_call_gives_the_same_file(pool, known, tiny_foundation, tmp_path):
    contents = set()
    for folder in ("one", "two"):
        work = tmp_path / folder
        work.mkdir()
        path = select_files(Random(), 0.5, 6, pool, known, tiny_foundation, 3, work)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_a_pool_is_chosen_to_its_end_and_then_gives_nothing(pool, known, tiny_foundation, tmp_path):
    path = select_files(FarthestPoint(), 0.0, 100, pool, known, tiny_foundation, 0, tmp_path)
    assert len(read_structures(path)) == 27
    path = select_files(FarthestPoint(), 0.2, 5, pool, [*known, pool], tiny_foundation, 0, tmp_path)
    assert path.read_bytes() == b""


def test_structures_that_the_model_tears_apart_are_not_chosen(tiny_foundation, tmp_path):
    """No pair is closer than half its covalent radii, but nuclei at 0.33 Å repel each other."""
    bonds = [Atoms("H2", [(0, 0, 0), (0, 0, r)]) for r in (0.33, 0.7, 0.8, 0.9)]
    potential = potentials.load(tiny_foundation)
    forces = [one.max_force for one in see(potential, bonds)]
    assert forces[0] > 30 > max(forces[1:])
    assert min(map(contact, bonds)) > 0.5
    write_structures(tmp_path / "pool.extxyz", bonds)
    path = select_files(Random(), 0.0, 4, tmp_path / "pool.extxyz", [], tiny_foundation, 0, tmp_path)
    assert sorted(f.get_distance(0, 1) for f in read_structures(path)) == pytest.approx([0.7, 0.8, 0.9])


def test_an_unreadable_pool_and_a_missing_uncertainty_are_named(known, tiny_foundation, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        select_files(Random(), 0.0, 4, tmp_path / "none", known, tiny_foundation, 0, tmp_path)
    with pytest.raises(ValueError, match="'threshold': the structures come without an uncertainty"):
        select_files(Threshold(), 0.0, 4, known[1], [known[0]], tiny_foundation, 0, tmp_path)


def test_invariants_turn_with_the_atoms(tiny_potential, salt_crystal, salt_water):
    order = np.random.default_rng(0).permutation(len(salt_water))
    turned = salt_water[order]
    turned.rotate(35.0, (1, 1, 2))
    first, crystal, second = see(tiny_potential, [salt_water, salt_crystal, turned])
    assert first.invariants.shape == (len(salt_water), 8)
    assert crystal.invariants.shape == (len(salt_crystal), 8)
    assert second.invariants == pytest.approx(first.invariants[order], abs=1e-8)
    assert second.max_force == pytest.approx(first.max_force)
    alone = predict(tiny_potential, graphs([salt_water], tiny_potential))[0]
    assert first.max_force == pytest.approx(np.linalg.norm(alone.forces, axis=1).max())
