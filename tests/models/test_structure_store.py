import copy
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from mace.data.lmdb_dataset import LMDBDataset
from mace.tools import AtomicNumberTable

from models import graphs, losses
from models.graphs import Graph
from models.heads import with_heads
from models.structure_store import StoredGraphs, StoreError
from models.training import Optimisation, TrainingSetup, fit

ELEMENTS = (1, 8, 11, 17)


@pytest.fixture(scope="module")
def frames(labelled_waters) -> list[Atoms]:
    """300 labelled structures: shaken copies of the water clusters, one of them without forces."""
    rng = np.random.default_rng(3)
    made = []
    for k in range(300):
        frame = labelled_waters[k % len(labelled_waters)].copy()
        frame.positions += rng.normal(scale=0.01, size=frame.positions.shape)
        made.append(frame)
    del made[7].arrays["REF_forces"]
    return made


def write(path: Path, frames: Sequence[Atoms]) -> Path:
    with connect(path, type="aselmdb") as database:
        for frame in frames:
            results = {"energy": frame.info["REF_energy"]}
            if "REF_forces" in frame.arrays:
                results["forces"] = frame.arrays["REF_forces"]
            if "REF_stress" in frame.info:
                results["stress"] = frame.info["REF_stress"]
            bare = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
            bare.calc = SinglePointCalculator(bare, **results)
            database.write(bare)
    return path


@pytest.fixture(scope="module")
def folder(frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two databases that together are the frames."""
    folder = tmp_path_factory.mktemp("store") / "waters"
    folder.mkdir()
    write(folder / "a.aselmdb", frames[:120])
    write(folder / "b.aselmdb", frames[120:])
    return folder


def in_memory(frames: Sequence[Atoms]) -> list[Graph]:
    return [graphs.graph(frame, ELEMENTS, 4.0) for frame in frames]


def assert_same(a: Graph, b: Graph) -> None:
    assert (a.head, a.periodic) == (b.head, b.periodic)
    np.testing.assert_equal(a.energy, b.energy)
    for name in ("positions", "species", "edge_index", "unit_shifts", "cell", "forces", "stress"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0, equal_nan=True)


def test_a_database_gives_the_graphs_that_memory_gives(folder, frames):
    stored, held = StoredGraphs(folder, ELEMENTS, 4.0), in_memory(frames)
    assert len(stored) == 300
    for a, b in zip(stored, held, strict=True):
        assert_same(a, b)
    assert_same(stored[-1], held[-1])
    assert [g.n_edges for g in stored[118:122]] == [g.n_edges for g in held[118:122]]
    with pytest.raises(IndexError):
        stored[300]
    order = np.random.default_rng(0).permutation(300)
    sizes = graphs.edge_counts(stored)
    assert list(graphs.batches(order, sizes, 400)) == list(
        graphs.batches(order, graphs.edge_counts(held), 400)
    )
    assert graphs.digest(stored) == graphs.digest(held)


def test_a_stress_and_a_cell_are_read_as_they_were_written(salt_crystal, tmp_path):
    salt_crystal.info |= {"REF_energy": -1.5, "REF_stress": np.arange(6.0)}
    salt_crystal.arrays["REF_forces"] = np.ones((len(salt_crystal), 3))
    stored = StoredGraphs(write(tmp_path / "salt.aselmdb", [salt_crystal]), ELEMENTS, 4.0, head=1)
    assert_same(stored[0], graphs.graph(salt_crystal, ELEMENTS, 4.0, 1))


def test_mace_reads_the_same_file(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copied")  # a process may open a database only once
    theirs = LMDBDataset(str(copied), r_max=4.0, z_table=AtomicNumberTable(list(ELEMENTS)))
    ours = StoredGraphs(folder, ELEMENTS, 4.0)
    for index in (0, 119, 120, 299):
        assert theirs[index].edge_index.shape[1] == ours[index].n_edges
        assert float(theirs[index].energy) == pytest.approx(ours[index].energy)
        np.testing.assert_allclose(theirs[index].forces, ours[index].forces, rtol=1e-5, atol=1e-7)


def test_sizes_are_known_without_reading_and_follow_the_file(frames, tmp_path, monkeypatch):
    path = write(tmp_path / "w.aselmdb", frames[:5])
    before = StoredGraphs(path, ELEMENTS, 4.0)
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "neighbours", None)  # whoever builds a graph now fails
        again = StoredGraphs(path, ELEMENTS, 4.0)
        assert list(again.edge_counts) == list(before.edge_counts)
        assert again.digest == before.digest
    assert sum(StoredGraphs(path, ELEMENTS, 2.0).edge_counts) < sum(before.edge_counts)
    write(tmp_path / "other.aselmdb", frames[5:11]).replace(path)
    assert StoredGraphs(path, ELEMENTS, 4.0).digest == graphs.digest(in_memory(frames[5:11]))


class Counted(Graph):
    """A graph that is counted while it lives."""

    alive = most = 0

    def __init__(self, **content):
        super().__init__(**content)
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self):
        Counted.alive -= 1


class Watched(StoredGraphs):
    def __getitem__(self, index):
        found = super().__getitem__(index)
        if isinstance(found, list):
            return found
        return Counted(**{field.name: getattr(found, field.name) for field in fields(found)})


def test_training_from_a_database_is_training_from_memory_in_less_of_it(tiny_potential, folder, frames):
    network = with_heads(tiny_potential, {"target": tiny_potential.e0s() | {1: -13.0, 8: -110.0}})
    once = Optimisation(learning_rate=0.01, epochs=1, max_edges=400)
    stored = Watched(folder, ELEMENTS, 4.0)
    fits = []
    for train in (stored, in_memory(frames)):
        setup = TrainingSetup(
            network=copy.deepcopy(network),
            train=train,
            valid={"target": train[:4]},
            weights=[losses.Weights()],
        )
        fits.append(fit(setup, once))
    assert fits[0].history == fits[1].history
    largest = max(len(run) for run in graphs.batches(range(300), stored.edge_counts, 400))
    assert largest < Counted.most <= 2 * largest + 10 < 100


@pytest.mark.parametrize("content", [None, b"", b"not a database at all" * 400])
def test_what_is_not_a_database_is_named(tmp_path, content):
    path = tmp_path / "labels.aselmdb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"labels\.aselmdb: "):
        StoredGraphs(path, ELEMENTS, 4.0)


def test_an_unknown_element_names_file_and_structure(frames, tmp_path):
    path = write(tmp_path / "w.aselmdb", frames[:3])
    with pytest.raises(StoreError, match=r"w\.aselmdb, structure 0: .*the model does not know O"):
        StoredGraphs(path, (1,), 4.0)
