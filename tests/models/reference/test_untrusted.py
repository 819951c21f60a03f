"""Settings of calculators that try to run more than the calculator."""

import gc
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import molecule
from pydantic import ValidationError

from models.reference import CALCULATOR, Cp2k

SALT = Atoms("LiH", [(0.0, 0.0, 0.0), (0.1, 0.2, 1.65)], cell=[5.0, 5.2, 5.5], pbc=True)


def test_a_basis_is_a_name_and_nothing_to_be_evaluated(tmp_path: Path) -> None:
    """PySCF evaluates numbers of a basis that is written out, or in a file."""
    text = f"H S\n 1.0 __import__('os').mkdir('{tmp_path}/made')\nO S\n 1.0 1.0"
    file = tmp_path / "basis.dat"
    file.write_text(text)
    for basis in (text, str(file), "../basis", "basis.dat"):
        with pytest.raises(ValidationError, match="basis"):
            CALCULATOR.validate_python({"kind": "pyscf", "method": "hf", "basis": basis}).check(
                [molecule("H2O")]
            )
    assert not (tmp_path / "made").exists()
    for basis in ("6-31++g(d,p)", "def2-tzvpd", "aug-cc-pVTZ", "6-311g**"):
        assert CALCULATOR.validate_python({"kind": "pyscf", "basis": basis}).level_of_theory


# ASE's adapter leaves the pipes of a shell that never answers to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "more", ["$(mkdir {folder})", "`mkdir {folder}`", "; mkdir {folder}", "| mkdir {folder}"]
)
def test_the_line_that_starts_cp2k_is_words_to_the_shell(more: str, tmp_path: Path) -> None:
    calculator = Cp2k(run=f"true {more.format(folder=tmp_path / 'made')}")
    with pytest.raises(RuntimeError, match="CP2K has stopped"):
        calculator.label(SALT, tmp_path / "work")
    gc.collect()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["command", "profile", "directory", "restart", "label"])
def test_parameters_of_ase_say_nothing_of_programs_and_places(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name}: is not set here"):
        CALCULATOR.validate_python(
            {"kind": "ase", "calculator": "emt", "level_of_theory": "EMT", "parameters": {name: "x"}}
        )


def test_other_calculators_than_those_listed_are_refused() -> None:
    with pytest.raises(ValidationError, match="calculator"):
        CALCULATOR.validate_python({"kind": "ase", "calculator": "socketio", "level_of_theory": "X"})
