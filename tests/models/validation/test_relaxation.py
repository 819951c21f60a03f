import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write

from models.datasets import DataError
from models.dynamics.relax import relax
from models.foundation import shipped
from models.potentials import Potential, load
from models.validation.base import Finding, Subject
from models.validation.faults import FAULTS, changed, with_term
from models.validation.relaxation import Relaxation, displacement


@pytest.fixture(scope="module")
def foundation() -> Potential:
    return load(shipped()["temper-gfn1"])


@pytest.fixture(scope="module")
def minima(foundation) -> list[Atoms]:
    """Water, and two clusters of one composition, at rest in the foundation itself."""
    rhombus = Atoms("Na2Cl2", [(1.9, 0, 0), (-1.9, 0, 0), (0, 1.9, 0), (0, -1.9, 0)])
    line = Atoms("NaClNaCl", [(0, 0, 0), (2.4, 0, 0), (4.9, 0.1, 0), (7.3, 0, 0)])
    starts = {"water": molecule("H2O"), "rhombus": rhombus, "line": line}
    found = relax(foundation, list(starts.values()), fmax=0.01, steps=100)
    for name, end in zip(starts, found, strict=True):
        end.atoms.info = {"name": name, "REF_energy": end.energy}
    return [end.atoms for end in found]


def measured(potential: Potential, structures: list[Atoms], folder, **fields) -> Finding:
    path = folder / "minima.extxyz"
    write(path, structures)
    return Relaxation(**fields).measure(Subject(potential=potential, files={"minima": path}))


def test_minima_of_the_potential_itself_stay(foundation, minima, tmp_path):
    finding = measured(foundation, minima, tmp_path)
    assert {name: figure.value for name, figure in finding.figures.items()} == pytest.approx(
        {"displacement": 0.0, "failures": 0.0, "steps": 0.0, "relative_energy": 0.0}, abs=1e-4
    )
    assert [row[0] for row in finding.tables[0].rows] == ["water", "rhombus", "line"]
    assert [row[-1] for row in finding.tables[0].rows] == ["converged"] * 3
    assert set(finding.figures["displacement"].samples) == {"water", "rhombus", "line"}
    assert set(finding.figures["relative_energy"].samples) == {"Cl2Na2"}
    assert finding.figures["relative_energy"].interval is None
    assert not finding.notes
    assert finding == measured(foundation, minima, tmp_path)


def test_another_equilibrium_distance_is_caught(foundation, minima, tmp_path):
    finding = measured(FAULTS["other bond lengths"](foundation, minima), minima, tmp_path, steps=60)
    assert finding.figures["displacement"].value > 0.1
    assert finding.structures[0].title in {"water", "rhombus", "line"}
    assert "Å from the reference's minimum" in finding.structures[0].text
    json.dumps(finding.to_json(), allow_nan=False)


def test_wrong_relative_energies_are_caught(foundation, minima, tmp_path):
    wrong = [atoms.copy() for atoms in minima]
    wrong[2].info["REF_energy"] += 0.4
    finding = measured(foundation, wrong, tmp_path)
    # 100 meV/atom too much of one of two: each is 50 off their mean.
    assert finding.figures["relative_energy"].value == pytest.approx(50.0, abs=0.1)
    assert [row[4] for row in finding.tables[0].rows] == [
        None,
        pytest.approx(50.0, abs=0.1),
        pytest.approx(-50.0, abs=0.1),
    ]


def test_a_potential_that_explodes_is_caught(foundation, minima, tmp_path):
    explosive = with_term(foundation, lambda pairs: 40.0 * torch.exp(-pairs.lengths))
    finding = measured(explosive, minima, tmp_path, steps=8)
    assert finding.figures["failures"].value == 100.0
    assert finding.figures["displacement"].value > 0.5
    assert finding.figures["steps"].value is None
    assert "3 of the structures do not come to rest" in finding.notes[0]


def test_a_potential_without_values_is_a_finding(foundation, minima, tmp_path):
    silent = changed(foundation, lambda _, output: output | {"forces": output["forces"] * torch.nan})
    finding = measured(silent, minima, tmp_path)
    assert finding.figures["failures"].value == 100.0
    assert finding.figures["displacement"].value is None
    assert "relative_energy" not in finding.figures
    assert any("broke down" in note for note in finding.notes)
    assert "not finite" in finding.structures[0].text
    json.dumps(finding.to_json(), allow_nan=False)


def test_a_crystal_keeps_its_cell_unless_asked(foundation, tmp_path):
    crystal = bulk("NaCl", "rocksalt", a=5.0)
    crystal.info["REF_energy"] = -127.0
    fixed, moving = (
        measured(foundation, [crystal], tmp_path, cell=cell, fmax=0.05) for cell in (False, True)
    )
    assert fixed.figures["steps"].value == 0.0
    assert fixed.tables[0].rows[0][3] is None
    assert moving.figures["steps"].value > 0.0
    assert moving.tables[0].rows[0][3] > 5.0  # %: it was compressed
    assert moving.figures["displacement"].value == pytest.approx(0.0, abs=1e-3)


def test_displacement_is_what_is_left_after_the_best_superposition():
    start = molecule("C2H6")
    turned = start.copy()
    turned.rotate(70.0, (1, 2, 3))
    turned.translate((3.0, -1.0, 2.0))
    assert displacement(start, turned) == pytest.approx(0.0, abs=1e-6)
    stretched = Atoms("NaCl", [(0, 0, 0), (2.4, 0, 0)])
    assert displacement(Atoms("NaCl", [(0, 0, 0), (0, 0, 2.0)]), stretched) == pytest.approx(0.2)
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    moved = crystal.copy()
    moved.positions += (0.3, 0.0, 0.1)
    assert displacement(crystal, moved) == pytest.approx(0.0, abs=1e-9)
    moved.positions[1] += (0.0, 0.0, 0.2)
    assert displacement(crystal, moved) == pytest.approx(0.1)


def test_elements_that_the_model_does_not_know_are_left_out(foundation, minima, tmp_path):
    gold = Atoms("Au2", [(0, 0, 0), (2.5, 0, 0)], info={"REF_energy": -1.0})
    finding = measured(foundation, [*minima, gold], tmp_path)
    assert len(finding.tables[0].rows) == 3
    assert finding.notes == [
        "1 of the structures have elements that the model does not know and are left out."
    ]
    alone = measured(foundation, [gold], tmp_path)
    assert alone.figures["displacement"].value is None
    assert len(alone.notes) == 1


@pytest.mark.parametrize("energy", [None, np.nan])
def test_a_minimum_without_energy_is_refused(foundation, minima, tmp_path, energy):
    bad = minima[1].copy()
    del bad.info["REF_energy"]
    if energy is not None:
        bad.info["REF_energy"] = energy
    with pytest.raises(DataError, match=r"minima.extxyz, frame 1 \(rhombus\): REF_energy"):
        measured(foundation, [minima[0], bad], tmp_path)


def test_two_minima_of_one_name_are_refused(foundation, minima, tmp_path):
    with pytest.raises(DataError, match="frame 1: another minimum has the name 'water'"):
        measured(foundation, [minima[0], minima[0]], tmp_path)
