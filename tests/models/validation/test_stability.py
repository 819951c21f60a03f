import json
from pathlib import Path

import pytest
import torch
from ase.build import bulk

from models.datasets import write_structures
from models.dynamics.limits import Limits, Reason
from models.foundation import shipped
from models.potentials import Potential, load
from models.validation.base import Subject
from models.validation.faults import FAULTS, Pairs, with_term
from models.validation.stability import Stability

SHORT = Stability(duration=60.0, ramp_duration=200.0, time_step=2.0, barostat_time=150.0, replicas=2)


@pytest.fixture(scope="module")
def foundation() -> Potential:
    return load(shipped()["temper-gfn1"])


@pytest.fixture(scope="module")
def crystal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stability") / "crystal.extxyz"
    write_structures(path, [bulk("NaCl", "rocksalt", a=5.64, cubic=True)])
    return path


def test_a_sound_potential_finishes_both_stages(foundation, crystal):
    found = SHORT.measure(Subject(potential=foundation, files={"test": crystal}))
    assert found.figures["finished"].value == 100.0
    assert found.figures["finished"].interval == (100.0, 100.0)
    assert sorted(found.figures["finished"].samples) == [
        "replica 0, cold",
        "replica 0, heated",
        "replica 1, cold",
        "replica 1, heated",
    ]
    assert found.figures["first_failure"].value == pytest.approx(0.26)
    assert found.structures == []
    assert [row[1:3] for row in found.tables[0].rows] == [["cold", "finished"], ["heated", "finished"]] * 2
    temperature, energy = found.plots
    assert [line.name for line in temperature.lines] == ["", "", "target"]
    assert list(temperature.lines[-1].y) == [100.0, 100.0, 50.0, 800.0]
    assert list(temperature.lines[-1].x) == pytest.approx([0.0, 0.06, 0.06, 0.26])
    assert energy.lines[0].y[0] == 0.0
    assert len(found.notes) == 1
    assert json.dumps(found.to_json(), allow_nan=False)


def test_a_stress_of_the_wrong_sign_lets_the_volume_run_away(foundation, crystal):
    wrong = FAULTS["a stress of the wrong sign"](foundation, [])
    found = SHORT.model_copy(update={"duration": 200.0}).measure(
        Subject(potential=wrong, files={"test": crystal})
    )
    assert found.figures["finished"].value == 0.0
    assert found.figures["first_failure"].value < 0.2
    assert [row[2] for row in found.tables[0].rows] == ["volume changed too much", "not reached"] * 2
    assert len(found.structures) == 2
    assert found.structures[0].title == "Replica 0: volume changed too much"
    assert len(found.structures[0].positions) == 8


def test_what_explodes_only_when_it_is_hot_fails_in_the_second_stage(foundation, crystal):
    def fall(pairs: Pairs) -> torch.Tensor:
        return -200.0 * (2.5 - pairs.lengths).clamp(min=0.0)

    found = SHORT.measure(Subject(potential=with_term(foundation, fall), files={"test": crystal}))
    assert found.figures["finished"].value in (50.0, 75.0)
    assert 0.06 < found.figures["first_failure"].value < 0.26
    ends = {(row[1], row[2]) for row in found.tables[0].rows}
    assert {end for stage, end in ends if stage == "cold"} == {"finished"}
    assert {end for stage, end in ends if stage == "heated"} & {Reason.FORCE.value, Reason.CONTACT.value}


def test_clusters_run_without_a_cell_beside_crystals(tiny_potential, salt_water, salt_crystal, tmp_path):
    unknown = bulk("Cu", cubic=True)
    write_structures(tmp_path / "test.extxyz", [salt_water, unknown])
    write_structures(tmp_path / "reference.extxyz", [salt_crystal[:16], salt_water, unknown])
    check = Stability(
        duration=4.0, ramp_duration=4.0, time_step=1.0, replicas=3, limits=Limits(temperature_ratio=50.0)
    )
    files = {"test": tmp_path / "test.extxyz", "reference": tmp_path / "reference.extxyz"}
    found = check.measure(Subject(potential=tiny_potential, files=files))
    assert found.figures["finished"].value == 100.0
    assert len(found.tables[0].rows) == 4
    assert found.notes[0].startswith("2 replicas: 4 fs at 100 K")
    assert found.notes[1].startswith("1 of them")

    write_structures(tmp_path / "test.extxyz", [unknown])
    nothing = check.measure(Subject(potential=tiny_potential, files={"test": tmp_path / "test.extxyz"}))
    assert nothing.figures["finished"].value is None
    assert nothing.notes == ["The model does not know the elements of any start."]


def test_a_potential_without_a_value_is_a_finding(tiny_potential, salt_water, tmp_path):
    write_structures(tmp_path / "test.extxyz", [salt_water])
    nowhere = with_term(tiny_potential, lambda pairs: torch.nan * pairs.lengths)
    found = SHORT.measure(Subject(potential=nowhere, files={"test": tmp_path / "test.extxyz"}))
    assert found.figures["finished"].value == 0.0
    assert found.figures["first_failure"].value == 0.0
    assert found.tables[0].rows[0][2] == Reason.NOT_FINITE.value
    assert json.dumps(found.to_json(), allow_nan=False)
