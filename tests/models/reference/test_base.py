import json
import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from pydantic import ValidationError

from models.datasets import DataError, write_structures
from models.reference import CALCULATOR, NotConverged, Tblite, Unavailable
from models.reference.base import charge_and_multiplicity, package

KINDS = [
    {"kind": "tblite", "method": "GFN1-xTB"},
    {"kind": "gpaw", "magnetic_moments": {"Mn": 4.0}},
    {"kind": "pyscf", "method": "mp2", "density_fitting": False},
    {"kind": "cp2k", "cutoff": 800.0},
    {"kind": "command", "level_of_theory": "X", "run": "x {input}", "output": "o", "output_format": "extxyz"},
    {"kind": "ase", "calculator": "emt", "level_of_theory": "EMT"},
    {"kind": "external", "level_of_theory": "X"},
]


@pytest.mark.parametrize("given", KINDS, ids=lambda given: given["kind"])
def test_every_kind_is_read_from_its_yaml_and_named(given):
    calculator = CALCULATOR.validate_python(given)
    assert CALCULATOR.validate_json(CALCULATOR.dump_json(calculator)) == calculator
    assert calculator.kind == given["kind"]
    assert calculator.level_of_theory
    with pytest.raises(ValidationError, match="Extra inputs"):
        CALCULATOR.validate_python({**given, "unknown": 1})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "pyscf", "method": "mp2"}, "density_fitting: false"),
        ({"kind": "gpaw", "k_points": (2, 2, 0)}, "at least 1"),
        ({"kind": "cp2k", "template": "&FORCE_EVAL\n&END FORCE_EVAL"}, "template_level"),
        ({**KINDS[4], "run": "x {inputs}"}, "inputs"),
        ({**KINDS[4], "output": "../o"}, "without folders"),
        ({**KINDS[4], "output_format": "no-such"}, "no format"),
        ({**KINDS[4], "unconverged": "("}, "regular expression"),
        ({**KINDS[5], "calculator": "subprocess.run"}, "Input should be"),
        ({**KINDS[5], "parameters": {"command": "rm"}}, "command"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_read(given, said):
    with pytest.raises(ValidationError, match=said):
        CALCULATOR.validate_python(given)


@pytest.mark.parametrize(
    ("symbols", "info", "expected"),
    [
        ("H2O", {}, (0, 1)),
        ("OH", {}, (0, 2)),
        ("OH", {"charge": -1}, (-1, 1)),
        ("O", {"multiplicity": np.int64(3)}, (0, 3)),
        ("Cl", {"charge": -1.0}, (-1, 1)),
    ],
)
def test_charge_and_multiplicity_are_those_of_the_structure_or_the_lowest(symbols, info, expected):
    assert charge_and_multiplicity(Atoms(symbols, info=info)) == expected


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"charge": 0.5}, "'charge' is 0.5, not a whole number"),
        ({"charge": "none"}, "not a whole number"),
        ({"multiplicity": 2}, "cannot have multiplicity 2"),
        ({"multiplicity": 13}, "cannot have multiplicity 13"),
    ],
)
def test_an_impossible_charge_or_multiplicity_names_the_structure(info, said, water):
    water.info |= info
    with pytest.raises(DataError, match=rf"structure 1 \(H2O\): .*{said}"):
        Tblite().check([Atoms("Ne"), water])


def test_a_label_keeps_what_a_structure_carries_but_for_other_labels(water, tmp_path):
    water.info |= {"walker": "w1", "REF_energy": 1.0, "REF_stress": np.ones(6)}
    water.arrays |= {"uncertainty": np.arange(3.0), "REF_magmoms": np.ones(3), "momenta": np.ones((3, 3))}
    label = Tblite().label(water, tmp_path / "work")
    assert label.info["walker"] == "w1"
    assert label.info["REF_energy"] == pytest.approx(-137.06007453156312, abs=1e-6)
    assert label.info["level_of_theory"] == "GFN2-xTB"
    assert set(label.arrays) == {"numbers", "positions", "uncertainty", "REF_forces"}
    assert "REF_stress" not in label.info
    assert water.info["REF_energy"] == 1.0
    write_structures(tmp_path / "label.extxyz", [label])
    assert json.loads(read(tmp_path / "label.extxyz").info["convergence"]) == {"iterations": 10}
    (inputs,) = read(tmp_path / "work" / "structure.extxyz", ":")
    assert inputs.info == {"charge": 0, "multiplicity": 1}


def test_the_reason_survives_the_way_between_processes():
    for error in (NotConverged("no field after 2 iterations"), Unavailable("pip install it")):
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back)) == (type(error), str(error))


def test_a_missing_package_says_how_it_is_installed():
    with pytest.raises(Unavailable, match=r"no_such_package cannot be imported .*: pip install it"):
        package("no_such_package", "pip install it")
    assert package("ase.io", "pip install ase").read is read
