from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write

from models.datasets import DataError
from models.validation.base import Subject
from models.validation.consistency import Consistency
from models.validation.faults import FAULTS, changed, with_term

SOUND = {
    "symmetry": 1e-5,
    "invariance": 1e-6,
    "size": 1e-6,
    "forces": 1e-2,
    "stress": 1e-2,
    "smoothness": 1e-2,
    "isolated": 1e-6,
}


@pytest.fixture
def check() -> Consistency:
    return Consistency(n_structures=3, n_directions=2)


@pytest.fixture
def test_file(salt_water, tmp_path) -> Path:
    slab = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    slab.pbc = (True, True, False)
    path = tmp_path / "test.extxyz"
    write(path, [Atoms("H"), salt_water, bulk("NaCl", "rocksalt", a=5.6), slab])
    return path


def values(check: Consistency, potential, path: Path) -> dict[str, float | None]:
    finding = check.measure(Subject(potential=potential, files={"test": path}))
    return {name: figure.value for name, figure in finding.figures.items()}


def test_a_sound_potential_is_exact_for_clusters_crystals_and_slabs(check, tiny_potential, test_file):
    found = values(check, tiny_potential, test_file)
    assert found.keys() == check.quantities.keys()
    assert {name: value for name, value in found.items() if value > SOUND[name]} == {}
    assert found == values(check, tiny_potential, test_file)


@pytest.mark.parametrize(
    ("fault", "caught_by"),
    [
        ("forces that are no gradient", {"forces"}),
        ("a stress of the wrong sign", {"stress"}),
        ("a wrong E0", {"isolated"}),
        ("an energy that depends on orientation", {"symmetry", "invariance"}),
        ("an energy that depends on the order of atoms", {"symmetry", "invariance"}),
        ("an energy that is not extensive", {"size"}),
    ],
)
def test_a_planted_fault_is_caught(check, tiny_potential, salt_water, test_file, fault, caught_by):
    found = values(check, FAULTS[fault](tiny_potential, [salt_water]), test_file)
    assert {name for name, value in found.items() if value > 100.0 * SOUND[name]} >= caught_by


def handed(pairs):
    """A triple product of each atom's surroundings, which changes its sign under inversion."""
    a, b, c = (
        torch.zeros(pairs.atoms, 3, dtype=torch.float64).index_add(
            0, pairs.sender, pairs.vectors * torch.exp(-power * pairs.lengths)[:, None]
        )
        for power in (1, 2, 3)
    )
    return 100.0 * (a.cross(b, dim=1) * c).sum(dim=1)


def test_an_energy_that_knows_left_from_right_is_caught_by_inversion_only(check, tiny_potential, test_file):
    subject = Subject(potential=with_term(tiny_potential, handed), files={"test": test_file})
    finding = check.measure(subject)
    rows = {name: (energy, force) for name, energy, force in finding.tables[0].rows}
    assert rows["inversion"][0] > 0.1
    assert rows["inversion"][1] > 0.1
    assert max(rows["rotation"] + rows["translation"] + rows["permutation"]) < SOUND["symmetry"]
    assert finding.figures["symmetry"].value == rows["inversion"][1]


def test_an_energy_that_ends_with_a_step_is_not_smooth(check, tiny_potential, test_file):
    stepped = with_term(tiny_potential, lambda pairs: 0.0 * pairs.lengths + 0.1)
    assert values(check, stepped, test_file)["smoothness"] == pytest.approx(200.0, abs=0.1)


def test_what_is_not_finite_could_not_be_measured(check, tiny_potential, test_file):
    def blind(data, output):
        return output | {"forces": output["forces"].detach() * np.nan}

    subject = Subject(potential=changed(tiny_potential, blind), files={"test": test_file})
    finding = check.measure(subject)
    assert [name for name, figure in finding.figures.items() if figure.value is None] == [
        "symmetry",
        "forces",
    ]
    assert "forces against slopes" in finding.notes[0]


def test_structures_of_other_elements_are_left_out(check, tiny_potential, salt_water, tmp_path):
    path = tmp_path / "test.extxyz"
    write(path, [Atoms("Li2", [(0, 0, 0), (0, 0, 2.7)]), salt_water])
    finding = check.measure(Subject(potential=tiny_potential, files={"test": path}))
    assert finding.figures["forces"].value < SOUND["forces"]
    assert finding.notes == ["1 of 2 structures left out: it does not know all their elements."]
    write(path, Atoms("Li2", [(0, 0, 0), (0, 0, 2.7)]))
    finding = check.measure(Subject(potential=tiny_potential, files={"test": path}))
    assert all(figure.value is None for figure in finding.figures.values())


def test_a_file_of_single_atoms_is_refused(check, tiny_potential, tmp_path):
    path = tmp_path / "test.extxyz"
    write(path, Atoms("H"))
    with pytest.raises(DataError, match=r"test\.extxyz: no structure has more than one atom"):
        check.measure(Subject(potential=tiny_potential, files={"test": path}))
