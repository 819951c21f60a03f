import json

import pytest
from ase import Atoms
from ase.build import molecule

from models.datasets import DataError
from models.reference import NotConverged, Pyscf

pytest.importorskip("pyscf", reason="PySCF is not installed")


@pytest.mark.parametrize(
    ("method", "density_fitting"), [("hf", True), ("mp2", False), ("pbe", True), ("pbe-d3bj", False)]
)
def test_forces_belong_to_the_energy(differences, water, method, density_fitting):
    if "d3" in method:
        pytest.importorskip("pyscf.dispersion", reason="PySCF's dispersion is not installed")
    calculator = Pyscf(method=method, basis="sto-3g", density_fitting=density_fitting)
    label = differences(calculator, water)
    assert json.loads(label.info["convergence"])["iterations"] > 2


def test_charge_and_multiplicity_reach_the_program(tmp_path):
    calculator = Pyscf(method="hf", basis="sto-3g", density_fitting=False)
    triplet, singlet = (
        calculator.label(Atoms("O", info={"multiplicity": m}), tmp_path).info["REF_energy"] for m in (3, 1)
    )
    assert singlet - triplet > 1.0
    radical = calculator.label(molecule("OH"), tmp_path).info["REF_energy"]
    anion = Atoms("OH", molecule("OH").positions, info={"charge": -1})
    assert calculator.label(anion, tmp_path).info["REF_energy"] != pytest.approx(radical, abs=0.5)


def test_the_energy_is_the_one_in_textbooks(tmp_path):
    hydrogen = Atoms("H2", [(0.0, 0.0, 0.0), (0.0, 0.0, 0.7408481)])  # 1.4 Bohr: -1.11671 Hartree in STO-3G
    label = Pyscf(method="hf", basis="sto-3g", density_fitting=False).label(hydrogen, tmp_path)
    assert label.info["REF_energy"] == pytest.approx(-1.116714 * 27.211386, abs=1e-4)


def test_what_does_not_converge_is_no_label_and_leaves_its_log(water, tmp_path):
    with pytest.raises(NotConverged, match="after 2 iterations"):
        Pyscf(method="hf", basis="sto-3g", max_iterations=2).label(water, tmp_path)
    assert "SCF not converged" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "nonsense"}, "nonsense/sto-3g"),
        ({"method": "wb97x-d"}, "not supported"),
        ({"method": "hf", "basis": "no-basis"}, "no-basis"),
    ],
)
@pytest.mark.filterwarnings("ignore:Basis may be available")
def test_unknown_methods_are_refused_before_anything_runs(water, settings, said):
    with pytest.raises(DataError, match=said):
        Pyscf(**{"basis": "sto-3g", **settings}).check([water])


def test_crystals_are_refused(water):
    water.set_cell([9.0, 9.0, 9.0])
    water.pbc = True
    with pytest.raises(DataError, match="periodic"):
        Pyscf().check([water])
