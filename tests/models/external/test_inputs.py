"""Inputs are read back with what reads such files, and say what was asked for."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read
from ase.io.espresso import read_fortran_namelist
from ase.io.orca import read_geom_orcainp
from pydantic import ValidationError
from pymatgen.io.vasp import Incar, Kpoints, Poscar

from models.datasets import DataError
from models.external.inputs import boxed, mesh, write_inputs
from models.external.matching import match
from models.reference.external import External

UPF = {"H": "H.upf", "O": "O.upf", "Na": "Na.upf", "Cl": "Cl.upf"}
ALL = External.model_validate(
    {
        "level_of_theory": "PBE",
        "inputs": ["vasp", "cp2k", "espresso", "orca"],
        "vasp": {"incar": {"ENCUT": 450}, "potcar": {"O": "O_s"}, "electrons": {"H": 1, "O": 6}},
        "espresso": {"pseudopotentials": UPF},
        "orca": {"simple_input": "PBE def2-SVP TightSCF", "blocks": "%pal nprocs 4 end"},
        "cp2k": {"input": {"FORCE_EVAL": {"DFT": {"SCF": {"MAX_SCF": 17}, "WFN_RESTART_FILE_NAME": "w"}}}},
    }
)
PERIODIC = ALL.model_copy(update={"inputs": ("vasp", "cp2k", "espresso")})


@pytest.fixture
def radical(tmp_path: Path) -> Path:
    """The inputs of H2O+, whose atoms are not in blocks."""
    cation = molecule("H2O")[[1, 0, 2]]
    cation.info["charge"] = 1
    write_inputs(ALL, cation, tmp_path)
    return tmp_path


def test_vasp_gets_a_box_with_the_charge_and_the_spin(radical: Path) -> None:
    incar = Incar.from_file(radical / "vasp/INCAR")
    assert (incar["NELECT"], incar["ISPIN"], incar["NUPDOWN"]) == (7, 2, 1)
    assert (incar["ENCUT"], incar["NSW"]) == (450, 0)
    poscar = Poscar.from_file(radical / "vasp/POSCAR", check_for_potcar=False)
    assert poscar.site_symbols == ["H", "O"]
    assert Kpoints.from_file(radical / "vasp/KPOINTS").kpts == [(1, 1, 1)]
    assert "cat H/POTCAR O_s/POTCAR" in (radical / "vasp/POTCAR.txt").read_text()
    assert match(read(radical / "vasp/POSCAR"), {"it": molecule("H2O")}) is not None


def test_cp2k_gets_sections_in_which_a_person_has_the_last_word(radical: Path) -> None:
    lines = [line.strip() for line in (radical / "cp2k/cp2k.inp").read_text().splitlines()]
    for line in (
        "CHARGE 1",
        "MULTIPLICITY 2",
        "UKS True",
        "MAX_SCF 17",
        "EPS_SCF 1e-07",
        "&XC_FUNCTIONAL PBE",
    ):
        assert line in lines
    assert "WFN_RESTART_FILE_NAME w" in lines
    places = [line.split() for line in lines if line.split()[0] in ("H", "O")]
    atoms = Atoms([symbol for symbol, *_ in places], [[float(x) for x in xyz] for _, *xyz in places])
    assert match(atoms, {"it": molecule("H2O")}) is not None
    opened = [line[1:].split()[0] for line in lines if line.startswith("&") and not line.startswith("&END")]
    closed = [line.split()[1] for line in lines if line.startswith("&END")]
    assert sorted(opened) == sorted(closed)


def test_espresso_is_told_the_charge_and_the_magnetisation(radical: Path) -> None:
    with (radical / "espresso/espresso.pwi").open() as file:
        said, _ = read_fortran_namelist(file)
    assert (said["system"]["tot_charge"], said["system"]["tot_magnetization"]) == (1, 1)
    assert said["control"]["tprnfor"] is True
    assert match(read(radical / "espresso/espresso.pwi"), {"it": molecule("H2O")}) is not None


def test_orca_is_asked_for_the_gradient(radical: Path) -> None:
    text = (radical / "orca/orca.inp").read_text()
    assert "! PBE def2-SVP TightSCF EnGrad" in text
    assert "*xyz 1 2" in text
    assert match(read_geom_orcainp(radical / "orca/orca.inp"), {"it": molecule("H2O")}) is not None


def test_a_crystal_keeps_its_cell_and_gets_k_points(tmp_path: Path) -> None:
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    salt.positions += 0.1
    write_inputs(PERIODIC, salt, tmp_path)
    assert Kpoints.from_file(tmp_path / "vasp/KPOINTS").kpts == [(4, 4, 4)]
    assert "4 4 4  0 0 0" in (tmp_path / "espresso/espresso.pwi").read_text()
    assert "SCHEME MACDONALD 4 4 4 0.125000" in (tmp_path / "cp2k/cp2k.inp").read_text()
    for file in ("vasp/POSCAR", "espresso/espresso.pwi"):
        again = read(tmp_path / file)
        np.testing.assert_allclose(again.cell.array, salt.cell.array, atol=1e-9)
        assert match(again, {"it": salt}) is not None
    assert "ISPIN" not in Incar.from_file(tmp_path / "vasp/INCAR")


def test_a_magnet_finds_its_moment_unless_a_multiplicity_is_given(tmp_path: Path) -> None:
    iron = bulk("Fe", cubic=True)
    iron.set_initial_magnetic_moments([2.2, 2.2])
    vasp = ALL.model_copy(update={"inputs": ("vasp",)})
    write_inputs(vasp, iron, tmp_path / "free")
    free = Incar.from_file(tmp_path / "free/vasp/INCAR")
    assert free["MAGMOM"] == [2.2, 2.2]
    assert "NUPDOWN" not in free
    iron.info["multiplicity"] = 5
    write_inputs(vasp, iron, tmp_path / "given")
    assert Incar.from_file(tmp_path / "given/vasp/INCAR")["NUPDOWN"] == 4


def test_k_points_are_no_further_apart_than_asked_for() -> None:
    cell = Atoms("H", cell=[2.0, 4.0, 40.0], pbc=True)
    assert mesh(cell, 2 * np.pi / 8) == (4, 2, 1)
    assert mesh(Atoms("H"), 0.1) == (1, 1, 1)


def test_a_box_is_empty_around_a_molecule_and_twice_as_long() -> None:
    long = Atoms("H2", [(0, 0, 0), (0, 0, 20.0)])
    box = boxed(long, 4.0)
    np.testing.assert_allclose(box.cell.lengths(), [8.0, 8.0, 44.0])
    np.testing.assert_allclose(box.positions.mean(axis=0), [4.0, 4.0, 22.0])


@pytest.mark.parametrize(
    ("change", "structure", "says"),
    [
        ({}, bulk("NaCl", "rocksalt", a=5.64), "remove orca from inputs"),
        ({"inputs": ("espresso",)}, molecule("LiF"), "espresso.pseudopotentials has no entry for F, Li"),
        ({"inputs": ("cp2k",)}, Atoms("H2", [(0, 0, 0), (0, 0, 0.7)], pbc=True), "fewer than three vectors"),
        ({"inputs": ()}, Atoms("H", info={"multiplicity": 3}), "multiplicity 3"),
    ],
)
def test_what_cannot_be_written_is_named_before(change: dict, structure: Atoms, says: str) -> None:
    with pytest.raises(DataError, match=says):
        ALL.model_copy(update=change).check([molecule("H2O"), structure])


def test_a_charged_structure_needs_the_electrons_of_its_potcars() -> None:
    ion = Atoms("Na", info={"charge": 1})
    with pytest.raises(DataError, match=r"vasp.electrons, since it is charged, has no entry for Na"):
        ALL.check([ion])


def test_orca_needs_its_line() -> None:
    with pytest.raises(ValidationError, match=r"orca\.simple_input is empty"):
        External(level_of_theory="PBE", inputs=("orca",))
