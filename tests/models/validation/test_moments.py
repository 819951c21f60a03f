"""The check of magnetic moments: what it says of a perfect model, of one without moments, of no labels."""

import numpy as np
import pytest
from ase.build import bulk

from models.datasets import write_structures
from models.graphs import graphs, predict
from models.magnetism import learn_moments
from models.potentials import Potential, architecture, build
from models.validation.base import Subject
from models.validation.moments import Moments


@pytest.fixture(scope="module")
def ordered(tiny_potential):
    """Two geometries in two orders, and a potential whose moments and energies are their labels."""
    frames = []
    for seed in range(2):
        atoms = bulk("NaCl", "rocksalt", a=5.0) * (2, 1, 1)
        atoms.positions += np.random.default_rng(seed).normal(0.0, 0.05, size=(4, 3))
        for sign in (1.0, -1.0):
            frame = atoms.copy()
            frame.arrays["REF_magmoms"] = np.array([2.0, 0.0, sign * (2.0 + seed), 0.0])
            frame.info["trajectory"] = str(seed)
            frames.append(frame)
    network = build(architecture(tiny_potential.network), tiny_potential.dtype)
    network.load_state_dict(tiny_potential.network.state_dict())
    learn_moments(network, frames, seed=0)
    network.magnetism.exchange[-1].bias.data.fill_(0.05)
    potential = Potential(network=network.eval(), level_of_theory={"Default": ""}, provenance={})
    for frame, said in zip(frames, predict(potential, graphs(frames, potential)), strict=True):
        frame.info["REF_energy"] = said.energy
        frame.arrays["REF_forces"] = said.forces
        frame.arrays["REF_magnetic_forces"] = said.magnetic_forces
    return potential, frames


def measured(potential, frames, folder):
    write_structures(folder / "test.extxyz", frames)
    return Moments().measure(Subject(potential=potential, files={"test": folder / "test.extxyz"}))


def test_figures(ordered, tmp_path) -> None:
    potential, frames = ordered
    found = measured(potential, frames, tmp_path)
    # Its moments are still the elements' means: 2, 2, 3 and 2 of four sodium atoms in each order.
    assert found.figures["moments"].value == pytest.approx(0.375)
    assert found.figures["relative"].value == pytest.approx(1.0)
    assert found.figures["magnetic_forces"].value == pytest.approx(0.0, abs=1e-4)
    assert found.figures["orders"].value == pytest.approx(0.0, abs=1e-4)
    assert found.figures["sign"].value == 100.0
    assert [row[0] for row in found.tables[0].rows] == ["Na"]
    frames = [frame.copy() for frame in frames]
    for frame in frames[1::2]:
        frame.info["REF_energy"] -= 10.0
    wrong = measured(potential, frames, tmp_path)
    assert wrong.figures["orders"].value == pytest.approx(2500.0, rel=1e-4)
    assert wrong.figures["orders"].samples.keys() == {"0", "1"}


def test_nothing_to_measure(ordered, tiny_potential, tmp_path) -> None:
    potential, frames = ordered
    assert "no magnetic moments" in measured(tiny_potential, frames, tmp_path).notes[0]
    bare = [frame.copy() for frame in frames]
    for frame in bare:
        del frame.arrays["REF_magmoms"]
    found = measured(potential, bare, tmp_path)
    assert found.notes == ["No test structure has labels of moments."]
    assert all(figure.value is None for figure in found.figures.values())
