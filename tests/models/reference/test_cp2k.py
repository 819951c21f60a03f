import json
import shutil

import pytest
from ase import Atoms

from models.datasets import DataError
from models.reference import Cp2k, NotConverged

pytestmark = pytest.mark.skipif(shutil.which("cp2k_shell") is None, reason="CP2K is not installed")

COARSE = Cp2k(cutoff=200.0, basis_set="SZV-MOLOPT-SR-GTH")


@pytest.fixture
def crystal() -> Atoms:
    return Atoms("LiH", [(0.0, 0.0, 0.0), (0.1, 0.2, 1.65)], cell=[5.0, 5.2, 5.5], pbc=True)


@pytest.mark.slow
def test_forces_and_stress_belong_to_the_energy(differences, crystal):
    differences(COARSE, crystal, step=0.02)


def test_a_label_knows_how_it_converged(crystal, tmp_path):
    label = COARSE.label(crystal, tmp_path)
    assert json.loads(label.info["convergence"])["iterations"] > 2
    assert label.info["REF_stress"].shape == (6,)
    assert COARSE.version()


def test_what_does_not_converge_is_no_label_and_leaves_its_log(crystal, tmp_path):
    work = tmp_path / ("long-" * 30)  # CP2K would cut its name off
    with pytest.raises(NotConverged, match="after 2 iterations"):
        COARSE.model_copy(update={"max_iterations": 2}).label(crystal, work)
    assert "SCF run NOT converged" in (work / "log.txt").read_text()
    assert "MAX_SCF 2" in (work / "cp2k.inp").read_text()


def test_a_crash_is_no_lack_of_convergence_and_leaves_its_log(crystal, tmp_path):
    with pytest.raises(RuntimeError, match="NO-SUCH-BASIS") as raised:
        COARSE.model_copy(update={"basis_set": "NO-SUCH-BASIS"}).label(crystal, tmp_path)
    assert not isinstance(raised.value, NotConverged)
    assert (tmp_path / "log.txt").stat().st_size > 0


def test_molecules_are_refused(water):
    with pytest.raises(DataError, match="not periodic"):
        Cp2k().check([water])
