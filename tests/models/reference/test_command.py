import shutil
import sys
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk

from models.datasets import DataError
from models.reference import CALCULATOR, Command, NotConverged, Tblite, Unavailable

SCRIPT = """
import sys
from ase.calculators.emt import EMT
from ase.io import read, write
atoms = read(sys.argv[1])
atoms.calc = EMT()
atoms.get_potential_energy(), atoms.get_stress()
print("as told:", *sys.argv[3:])
write(sys.argv[2], atoms, format="extxyz")
"""

needs_xtb = pytest.mark.skipif(shutil.which("xtb") is None, reason="the program xtb is not installed")


@pytest.fixture
def xtb() -> Command:
    return CALCULATOR.validate_python(
        {
            "kind": "command",
            "level_of_theory": "GFN2-xTB",
            "run": "xtb {input} --gfn 2 --acc 0.1 --chrg {charge} --uhf {unpaired} --grad",
            "version_command": "xtb --version",
            "input": "structure.xyz",
            "input_format": "xyz",
            "output": "gradient",
            "output_format": "turbomole-gradient",
            "converged": "normal termination",
            "unconverged": "Self consistent charge iterator did not converge",
        }
    )


def script(text: str = SCRIPT, more: str = "", **settings: str) -> Command:
    return Command(
        level_of_theory="EMT",
        run=f"{sys.executable} emt.py {{input}} {{output}} {more}",
        output="result.extxyz",
        output_format="extxyz",
        files={"emt.py": text},
        **settings,
    )


@needs_xtb
def test_a_program_gives_the_labels_of_the_library(differences, xtb, water, tmp_path):
    label = differences(xtb, water)
    library = Tblite().label(water, tmp_path / "library")
    assert label.info["REF_energy"] == pytest.approx(library.info["REF_energy"], abs=1e-5)
    assert label.arrays["REF_forces"] == pytest.approx(library.arrays["REF_forces"], abs=1e-3)
    assert xtb.version().count(".") == 2


@needs_xtb
def test_charge_and_spin_reach_the_program(xtb, tmp_path):
    for atoms in (Atoms("Cl", info={"charge": -1}), Atoms("O", info={"multiplicity": 3})):
        expected = Tblite().label(atoms, tmp_path / "library").info["REF_energy"]
        assert xtb.label(atoms, tmp_path / "own").info["REF_energy"] == pytest.approx(expected, abs=1e-4)


@needs_xtb
def test_what_the_program_says_decides_whether_it_has_converged(xtb, water, tmp_path):
    hasty = xtb.model_copy(update={"run": f"{xtb.run} --iterations 2"})
    with pytest.raises(NotConverged, match="did not converge"):
        hasty.label(water, tmp_path)
    assert "2 iterations" in (tmp_path / "log.txt").read_text()


def test_any_format_that_ase_reads_will_do_and_stress_comes_along(tmp_path):
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.1, seed=1)
    label = script(more="{charge} {multiplicity} {unpaired}").label(crystal, tmp_path)
    assert label.arrays["REF_forces"].shape == (4, 3)
    assert label.info["REF_stress"].shape == (6,)
    assert "as told: 0 1 0" in (tmp_path / "log.txt").read_text()


def test_a_missing_pattern_is_a_lack_of_convergence(tmp_path):
    with pytest.raises(NotConverged, match="'finished' is not in what"):
        script(converged="finished").label(bulk("Cu"), tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit('out of luck')", "exit code 1:\n(?s:.*)out of luck"),
        ("", "left no result.extxyz"),
        (SCRIPT.replace("EMT()\n", "EMT()\natoms = atoms[:1]\natoms.calc = EMT()\n"), "other atoms"),
    ],
)
def test_a_crash_is_no_lack_of_convergence(tmp_path, text, said):
    work: Path = tmp_path / "label"
    work.mkdir()
    (work / "result.extxyz").write_text("what an earlier try left")
    with pytest.raises(RuntimeError, match=said) as raised:
        script(text).label(bulk("Cu").repeat((2, 1, 1)), work)
    assert not isinstance(raised.value, NotConverged)
    assert (work / "log.txt").exists()


def test_a_missing_program_is_named_before_anything_runs():
    missing = Command(level_of_theory="X", run="no-such-program {input}", output="o", output_format="extxyz")
    with pytest.raises(Unavailable, match="'no-such-program'"):
        missing.check([Atoms("Ne")])


def test_a_charge_that_the_program_is_not_told_is_refused():
    with pytest.raises(DataError, match=r"\{charge\}"):
        script().check([Atoms("Cl", info={"charge": -1})])
