from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import read, write

from models.potentials import Potential
from models.validation.base import Finding, Subject
from models.validation.faults import FAULTS, changed, with_term
from models.validation.repulsion import Repulsion


@pytest.fixture
def test_file(salt_water, tmp_path) -> Path:
    path = tmp_path / "test.extxyz"
    stretched = salt_water.copy()
    stretched.positions *= 1.02
    write(path, [salt_water, stretched, bulk("NaCl", "rocksalt", a=5.6)])
    return path


@pytest.fixture(scope="module")
def sound(tiny_potential) -> Potential:
    """The tiny network is untrained: it gets a wall between all atoms."""
    return with_term(tiny_potential, lambda pairs: 200.0 * torch.exp(-5.0 * pairs.lengths / pairs.radii))


def measured(potential, path: Path) -> Finding:
    return Repulsion(n_structures=3).measure(Subject(potential=potential, files={"test": path}))


def test_a_potential_with_a_wall_passes(sound, test_file):
    finding = measured(sound, test_file)
    assert finding.figures.keys() == Repulsion.quantities.keys()
    assert finding.figures["pairs"].value == 0.0
    assert finding.figures["wall"].value > 10.0
    assert finding.figures["compression"].value == 0.0
    assert not finding.structures
    assert len(finding.tables[0].rows) == 10
    walls = [row[2] for row in finding.tables[0].rows]
    assert walls == sorted(walls)
    assert walls[0] == finding.figures["wall"].value
    assert finding == measured(sound, test_file)


def test_the_wall_is_what_pushing_costs(sound, test_file):
    def step(pairs):
        """3 eV for every pair that is closer than 0.7 of its radii."""
        return 1.5 * (pairs.lengths < 0.7 * pairs.radii) + 0.0 * pairs.lengths

    before, after = (measured(p, test_file).tables[0].rows for p in (sound, with_term(sound, step)))
    higher = {row[0]: row[2] for row in after}
    assert {row[0]: higher[row[0]] - row[2] for row in before} == pytest.approx(dict.fromkeys(higher, 3.0))


def test_a_hole_between_two_atoms_is_caught(sound, test_file):
    def well(pairs):
        """Closer than any bond of oxygen."""
        return -1e4 * pairs.between("O", "O") * (0.75 - pairs.lengths).clamp(min=0.0) ** 2

    finding = measured(with_term(sound, well), test_file)
    assert {name for name, (failed, _) in finding.figures["pairs"].samples.items() if failed} == {"O-O"}
    assert finding.figures["pairs"].value == pytest.approx(10.0)
    (row,) = (row for row in finding.tables[0].rows if row[3] is not None)
    assert row[0] == "O-O"
    assert row[4] < 0.75


def test_a_planted_hole_is_caught_between_most_pairs(sound, salt_water, test_file):
    finding = measured(FAULTS["a hole between two atoms"](sound, [salt_water]), test_file)
    assert finding.figures["pairs"].value > 30.0


def test_a_planted_collapse_is_caught_and_can_be_looked_at(sound, salt_water, test_file):
    finding = measured(FAULTS["a hole of many atoms"](sound, [salt_water]), test_file)
    failed = [name for name, (share, _) in finding.figures["compression"].samples.items() if share]
    assert 0 < len(finding.structures) == len(failed)
    names = {structure.title: structure for structure in finding.structures}
    original = read(test_file, ":")
    for name in failed:
        shown = names[f"Collapse of {name}"]
        before = original[int(name.removeprefix("frame "))]
        scale = float(shown.text.split()[2])
        assert scale <= 0.9
        np.testing.assert_allclose(shown.positions, scale * before.positions, atol=2e-3)
        np.testing.assert_allclose(shown.cell, scale * before.cell.array, atol=2e-3)


def test_a_potential_without_a_value_fails(sound, test_file):
    def blind(data, output):
        return output | {"interaction_energy": output["interaction_energy"].detach() * np.nan}

    finding = measured(changed(sound, blind), test_file)
    assert {name: figure.value for name, figure in finding.figures.items()} == {
        "pairs": 100.0,
        "wall": 0.0,
        "compression": 100.0,
    }
    assert finding.to_json()["plots"][0]["lines"][0]["y"][0] is None
