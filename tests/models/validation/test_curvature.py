import pytest
from ase import Atoms

from models import potentials
from models.datasets import write_structures
from models.validation.base import Subject
from models.validation.curvature import Curvature
from models.validation.faults import FAULTS


@pytest.fixture(scope="module")
def files(tiny_potential, labelled_waters, tmp_path_factory):
    folder = tmp_path_factory.mktemp("curvature")
    write_structures(folder / "test.extxyz", labelled_waters)
    potentials.save(tiny_potential, folder / "teacher.safetensors")
    return {"test": folder / "test.extxyz", "teacher": folder / "teacher.safetensors"}


def test_a_student_that_is_its_teacher_bends_like_it(tiny_potential, files):
    found = Curvature(rows=3).measure(Subject(potential=tiny_potential, files=files))
    assert found.figures["hessian"].value == pytest.approx(0.0, abs=1e-6)
    assert set(found.figures["hessian"].samples) == {f"w{k}" for k in range(6)}
    (parity,) = found.plots
    assert parity.lines[0].x == parity.lines[0].y
    assert max(parity.lines[0].x) > 0.1


@pytest.mark.parametrize("fault", ["other bond lengths", "molecules that fall apart"])
def test_a_potential_with_a_fault_is_caught(tiny_potential, labelled_waters, files, fault):
    faulty = FAULTS[fault](tiny_potential, labelled_waters)
    found = Curvature(rows=3).measure(Subject(potential=faulty, files=files)).figures
    assert found["hessian"].value > 10.0
    assert found["relative"].value > 1.0
    low, high = found["hessian"].interval
    assert low < found["hessian"].value < high


def test_structures_that_it_does_not_know_are_left_out(tiny_potential, files, tmp_path):
    write_structures(tmp_path / "argon.extxyz", [Atoms("Ar2", [(0, 0, 0), (0, 0, 3)])])
    found = Curvature(rows=3).measure(
        Subject(potential=tiny_potential, files={**files, "test": tmp_path / "argon.extxyz"})
    )
    assert found.figures["hessian"].value is None
    assert "does not know" in found.notes[0]
