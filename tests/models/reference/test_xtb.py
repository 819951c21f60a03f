import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import CalculationFailed, InputError

from models.datasets import DataError
from models.reference import NotConverged, Tblite
from models.reference.xtb import relabelled


def test_forces_and_stress_belong_to_the_energy(differences):
    crystal = bulk("NaCl", "rocksalt", a=5.8, cubic=True)
    crystal.rattle(0.1, seed=1)
    label = differences(Tblite(method="GFN1-xTB", least_width=5.0), crystal)
    assert label.info["REF_stress"].shape == (6,)


@pytest.mark.parametrize("method", ["GFN1-xTB", "GFN2-xTB"])
def test_labels_are_those_of_the_shipped_data(water, tmp_path, method):
    label = Tblite(method=method).label(water, tmp_path)
    shipped = relabelled(water, method)
    assert label.info["REF_energy"] == shipped.info["REF_energy"]
    assert (label.arrays["REF_forces"] == shipped.arrays["REF_forces"]).all()


def test_charge_and_multiplicity_reach_the_program(tmp_path):
    def energy(**info: int) -> float:
        return Tblite().label(Atoms("Cl", info=info), tmp_path).info["REF_energy"]

    assert energy() == energy(multiplicity=2)
    assert energy() - energy(charge=-1) > 3.0


def test_what_does_not_converge_is_no_label_and_leaves_its_log(water, tmp_path):
    with pytest.raises(NotConverged, match="not converged in 2 cycles"):
        Tblite(max_iterations=2).label(water, tmp_path)
    assert "cycle" in (tmp_path / "log.txt").read_text()
    assert json.loads((tmp_path / "settings.json").read_text())["max_iterations"] == 2


def test_a_crash_is_no_lack_of_convergence(tmp_path):
    with pytest.raises((CalculationFailed, InputError), match="Too close"):
        Tblite().label(Atoms("H2", np.zeros((2, 3))), tmp_path)


def test_cells_that_would_need_k_points_are_refused():
    cell = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    with pytest.raises(DataError, match=r"structure 0 \(Cl4Na4\): its cell is only 5.64 Å wide"):
        Tblite().check([cell])
    Tblite(least_width=5.0).check([cell])
    Tblite().check([cell.repeat(2)])
    oblique = cell.repeat(2)
    oblique.cell[2] = [11.0, 0.0, 4.0]
    with pytest.raises(DataError, match=r"only 3\.85"):
        Tblite().check([oblique])


def test_a_charged_cell_and_a_slab_are_refused():
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(2)
    crystal.info["charge"] = 2
    with pytest.raises(DataError, match="charge 2"):
        Tblite().check([crystal])
    crystal.info.clear()
    crystal.pbc = (True, True, False)
    with pytest.raises(DataError, match="some directions"):
        Tblite().check([crystal])
