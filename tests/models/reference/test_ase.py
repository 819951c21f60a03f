import shutil

import pytest
from ase import Atoms
from ase.build import bulk

from models.datasets import DataError
from models.reference import AseCalculator, NotConverged, Unavailable


@pytest.fixture
def nwchem() -> AseCalculator:
    if shutil.which("nwchem") is None:
        pytest.skip("the program nwchem is not installed")
    return AseCalculator(
        calculator="nwchem",
        level_of_theory="HF/STO-3G",
        parameters={"theory": "scf", "basis": "sto-3g", "scf": {"singlet": None, "thresh": 1e-7}},
        charge_parameter="charge",
    )


def test_forces_and_stress_belong_to_the_energy(differences):
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.1, seed=1)
    crystal.set_cell(crystal.cell * 1.02, scale_atoms=True)
    differences(AseCalculator(calculator="emt", level_of_theory="EMT"), crystal)


def test_parameters_reach_the_calculator(tmp_path):
    pair = Atoms("Ar2", [(0.0, 0.0, 0.0), (0.0, 0.0, 3.4 * 2 ** (1 / 6))])
    argon = {"sigma": 3.4, "epsilon": 0.0104, "rc": 30.0}
    label = AseCalculator(calculator="lj", level_of_theory="LJ", parameters=argon).label(pair, tmp_path)
    assert label.info["REF_energy"] == pytest.approx(-0.0104, rel=1e-3)


def test_a_program_behind_ase_labels(differences, nwchem, water, tmp_path):
    differences(nwchem, water)
    assert "Total SCF energy" in (tmp_path / "label" / "log.txt").read_text()


def test_what_a_program_prints_decides_whether_it_has_converged(nwchem, water, tmp_path):
    hasty = nwchem.model_copy(update={"parameters": {**nwchem.parameters, "scf": {"maxiter": 1}}})
    with pytest.raises(NotConverged, match="failed to converge"):
        hasty.label(water, tmp_path)
    assert "maxiter 1" in (tmp_path / "log.txt").read_text()


def test_a_crash_is_no_lack_of_convergence(tmp_path):
    with pytest.raises(NotImplementedError, match="No EMT-potential for U"):
        AseCalculator(calculator="emt", level_of_theory="EMT").label(Atoms("U"), tmp_path)


def test_a_program_that_ase_cannot_run_is_named_before_anything_runs(monkeypatch):
    monkeypatch.delenv("ASE_ORCA_COMMAND", raising=False)
    orca = AseCalculator(calculator="orca", level_of_theory="HF", charge_parameter="charge")
    with pytest.raises(Unavailable, match="orca"):
        orca.check([Atoms("Ne")])


@pytest.mark.parametrize("info", [{"charge": -2}, {"multiplicity": 3}])
def test_a_charge_or_spin_that_goes_nowhere_is_refused(info):
    gaussian = AseCalculator(calculator="gaussian", level_of_theory="HF")
    with pytest.raises(DataError, match=f"has {next(iter(info))}"):
        gaussian.check([Atoms("O", info=info)])
