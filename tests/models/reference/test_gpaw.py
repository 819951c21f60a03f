import json

import pytest
from ase import Atoms
from ase.build import bulk

from models.datasets import DataError
from models.reference import Gpaw, NotConverged

pytest.importorskip("gpaw", reason="GPAW is not installed")

COARSE = Gpaw(cutoff=250.0, k_points=(1, 1, 1))


def test_forces_and_stress_belong_to_the_energy(differences):
    crystal = bulk("NaCl", "rocksalt", a=5.3)
    crystal.rattle(0.15, seed=1)
    label = differences(COARSE, crystal, tolerance=2e-2)
    assert json.loads(label.info["convergence"])["iterations"] > 2
    assert "REF_magmoms" not in label.arrays


def test_magnetic_moments_are_labelled_where_they_are_asked_for(tmp_path):
    hydrogen = Atoms("HHe", [(0.0, 0.0, 0.0), (0.0, 0.0, 2.0)], cell=[4.0, 4.0, 5.0], pbc=True)
    spins = COARSE.model_copy(update={"magnetic_moments": {"H": 1.0}})
    label = spins.label(hydrogen, tmp_path)
    assert label.arrays["REF_magmoms"].shape == (2,)
    assert label.arrays["REF_magmoms"][0] > 0.1
    assert spins.level_of_theory != COARSE.level_of_theory


def test_what_does_not_converge_is_no_label_and_leaves_its_log(tmp_path):
    with pytest.raises(NotConverged):
        COARSE.model_copy(update={"max_iterations": 2}).label(bulk("NaCl", "rocksalt", a=5.3), tmp_path)
    assert "iter:" in (tmp_path / "log.txt").read_text()


def test_molecules_and_untreated_spins_are_refused(water):
    with pytest.raises(DataError, match="not periodic"):
        COARSE.check([water])
    crystal = bulk("Fe")
    crystal.info["multiplicity"] = 3
    with pytest.raises(DataError, match="give magnetic_moments"):
        COARSE.check([crystal])
