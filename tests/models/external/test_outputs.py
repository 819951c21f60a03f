"""Outputs of real programs: what is a label, what is a failure, and what still runs."""

from collections.abc import Callable
from pathlib import Path

import ase.test
import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from models.datasets import DataError
from models.external.matching import match
from models.external.outputs import is_output, read_output

Output = Callable[[str], Path]
VASP = Path(ase.test.__file__).parent / "testdata/vasp"
"""Outputs of VASP that are installed with ASE."""


@pytest.mark.parametrize("name", ["cp2k.out", "espresso.pwo"])
@pytest.mark.parametrize("structure", ["molecule", "crystal"])
def test_a_single_point_is_a_label_of_the_structure(
    output: Output, hydrogen: dict[str, Atoms], structure: str, name: str
) -> None:
    (calculation,) = read_output(output(f"{structure}-{name}"))
    assert calculation.failure == ""
    assert calculation.structure is not None
    found = match(calculation.structure, hydrogen)
    assert found is not None
    assert found[0] == structure
    result = calculation.result
    assert result is not None
    assert -35 < result.energy < -30  # two hydrogen atoms have -27.2 eV, and a bond
    assert np.abs(result.forces.sum(axis=0)).max() < 0.2  # the cutoffs are low
    assert (result.stress is not None) == (structure == "crystal")


def test_the_units_of_cp2k_are_ours(output: Output) -> None:
    """It prints Hartree, Hartree/Bohr and GPa, and counts compression as positive."""
    (calculation,) = read_output(output("crystal-cp2k.out"))
    result = calculation.result
    assert result is not None
    assert result.energy == pytest.approx(-1.238134893433737 * 27.211386, abs=1e-5)
    assert result.forces[1, 2] == pytest.approx(0.03606424 * 51.422067, abs=1e-6)
    assert result.stress is not None
    assert result.stress[2] == pytest.approx(9.51788408072 / 160.21766, abs=1e-6)


@pytest.mark.parametrize("name", ["cp2k.out", "espresso.pwo"])
def test_what_did_not_converge_is_a_failure(output: Output, name: str) -> None:
    (calculation,) = read_output(output(f"unconverged-{name}"))
    assert calculation.result is None
    assert "the electrons did not converge" in calculation.failure
    assert not calculation.running


@pytest.mark.parametrize("name", ["cp2k.out", "espresso.pwo", "vasprun.xml", "OUTCAR"])
def test_half_an_output_may_still_be_running(output: Output, tmp_path: Path, name: str) -> None:
    whole = {"vasprun.xml": VASP / "vasprun_pstress.xml", "OUTCAR": VASP / "OUTCAR_example_1"}
    path = whole[name] if name in whole else output(f"molecule-{name}")
    half = tmp_path / f"half-{name}"
    half.write_bytes(path.read_bytes()[: int(0.7 * path.stat().st_size)])
    (calculation,) = read_output(half)
    assert calculation.result is None
    assert "ends before the calculation does" in calculation.failure
    assert calculation.running


def test_an_aborted_calculation_does_not_run_any_more(output: Output, tmp_path: Path) -> None:
    text = output("molecule-cp2k.out").read_text()
    aborted = tmp_path / "aborted.out"
    aborted.write_text(text[: text.index("SCF run converged")] + "\n * [ABORT] *\n")
    (calculation,) = read_output(aborted)
    assert "it was aborted" in calculation.failure
    assert not calculation.running


@pytest.mark.parametrize(("file", "atoms"), [("vasprun_pstress.xml", 2), ("OUTCAR_example_1", 18)])
def test_vasp_is_read_as_ase_reads_it(file: str, atoms: int) -> None:
    (calculation,) = read_output(VASP / file)
    assert calculation.failure == ""
    result, expected = calculation.result, read(VASP / file)
    assert result is not None
    assert result.energy == pytest.approx(expected.get_potential_energy(force_consistent=True))
    np.testing.assert_allclose(result.forces, expected.get_forces(apply_constraint=False))
    assert result.forces.shape == (atoms, 3)


def test_vasp_that_used_all_its_steps_did_not_converge(tmp_path: Path) -> None:
    text = (VASP / "vasprun_pstress.xml").read_text()
    path = tmp_path / "vasprun.xml"
    path.write_text(text.replace('name="NELM">    60<', 'name="NELM">     9<'))
    (calculation,) = read_output(path)
    assert calculation.failure == "VASP: the electrons did not converge"
    assert not calculation.running
    outcar = tmp_path / "OUTCAR"
    reached, not_reached = "aborting loop because EDIFF is reached", "aborting loop EDIFF was not reached"
    outcar.write_text((VASP / "OUTCAR_example_1").read_text().replace(reached, not_reached))
    (calculation,) = read_output(outcar)
    assert calculation.failure == "VASP: the electrons did not converge"


def test_other_files_are_no_outputs(tmp_path: Path) -> None:
    path = tmp_path / "slurm-17.out"
    path.write_text("Submitted batch job 17\n")
    assert not is_output(path)
    with pytest.raises(DataError, match="of none of the programs"):
        read_output(path)
