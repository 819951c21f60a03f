import json
import math
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from models.datasets import read_structures, write_structures
from models.e0s import E0Policy, refit_file
from models.validation import acceptance
from models.validation.acceptance import Gate, Simulation, Verdict

BRIEF = Simulation(
    temperature=300.0, time_step=0.5, duration=6.0, replicas=2, save_every=3, equilibration=1.5,
    conservation_time_step=0.5, conservation_duration=5.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def waters(labelled_waters, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("acceptance") / "waters.xyz"
    write_structures(path, labelled_waters)
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_errors_are_measured_on_the_targets_scale(tiny_foundation, waters, tmp_path):
    (tmp_path / "own").mkdir()
    own = read(acceptance.measure_errors(tiny_foundation, {"test": waters}, tmp_path / "own"))
    e0s, fit = refit_file(tiny_foundation, waters, None, E0Policy(), tmp_path)
    shifted = read(
        acceptance.measure_errors(
            tiny_foundation, {"test": waters, "replay": waters}, tmp_path, e0s=e0s, teacher=tiny_foundation
        )
    )
    assert own["errors"]["test"]["energy"]["rmse"] == pytest.approx(fit.residual_before, rel=1e-4)
    assert shifted["errors"]["test"]["energy"]["rmse"] == pytest.approx(fit.residual_after, rel=1e-3)
    assert shifted["errors"]["test"]["forces"] == own["errors"]["test"]["forces"]
    assert shifted["errors"]["replay"] == shifted["errors"]["test"]
    assert shifted["against_teacher"]["forces"]["mae"] == pytest.approx(0.0, abs=1e-3)
    assert own["n_parameters"] > 0
    assert len(own["parity"]["energy_reference"]) == 24


def test_structures_of_elements_that_were_given_up_are_left_out(tiny_foundation, waters, tmp_path):
    known = read(acceptance.measure_errors(tiny_foundation, {"test": waters}, tmp_path))
    gold = Atoms("Au", info={"REF_energy": -1.0})
    gold.arrays["REF_forces"] = np.zeros((1, 3))
    write_structures(tmp_path / "more.extxyz", [*read_structures(waters), gold])
    mixed = read(acceptance.measure_errors(tiny_foundation, {"test": tmp_path / "more.extxyz"}, tmp_path))
    assert mixed["errors"] == known["errors"]
    assert (known["left_out"], mixed["left_out"]) == ({"test": 0}, {"test": 1})


def test_an_acceptance_measured_again_is_the_same(tiny_foundation, waters, tmp_path):
    told = []
    (tmp_path / "again").mkdir()
    made = acceptance.simulate(tiny_foundation, waters, BRIEF, tmp_path, compare_rdf=True, report=told.append)
    measured = acceptance.remeasure(
        tiny_foundation, waters, waters, BRIEF, tmp_path / "again", compare_rdf=True
    )
    assert all((tmp_path / "again" / path.name).read_bytes() == path.read_bytes() for path in made.values())
    dynamics, headline = read(made["dynamics"]), read(measured)
    assert told[-1]["steps"] == 12
    assert dynamics["stability"]["fraction_finished"] == 1.0
    assert headline["replicas that finish, %"] == 100.0
    assert headline["mean RDF distance, Å"] == dynamics["rdf"]["mean_emd"] >= 0.0
    assert headline["energy drift, meV/atom/ps"] == dynamics["conservation"]["short"]["drift"] >= 0.0
    assert acceptance.changes(headline, headline, 1e-6) == []


@pytest.mark.slow
def test_a_teacher_is_as_fast_as_itself_measured_alternately(tiny_foundation, waters, tmp_path):
    speed = read(acceptance.measure_speed(tiny_foundation, tiny_foundation, waters, 2, tmp_path))
    assert (speed["one"]["n_atoms"], speed["batch"]["n_atoms"]) == (3, 6)
    assert speed["one"]["ratio"] > 0.0
    assert len(speed["one"]["rounds"]) == 7


def errors_of(mae: float) -> dict:
    return {"errors": {"test": {"forces": {"mae": mae}, "energy": {"mae": 1.0}}}}


def dynamics_of(
    finished: float = 1.0,
    rdf: float | None = 0.1,
    drift: float | None = 1.0,
    shortest: float = 0.97,
    whole: float = 1.0,
) -> dict:
    return {
        "stability": {"fraction_finished": finished},
        "bonds": {"fraction_whole": whole},
        "rdf": None if rdf is None else {"mean_emd": rdf, "shortest": {"H-O": 1.0, "O-O": shortest}},
        "conservation": None if drift is None else {"short": {"drift": drift}},
    }


GATE = Gate(force_improvement=0.3, fraction_finished=1.0, rdf_distance=0.15, drift=5.0, student_speedup=3.0)


@pytest.mark.parametrize(
    ("mae", "dynamics", "failed"),
    [
        (69.0, dynamics_of(), []),
        (70.5, dynamics_of(), ["fall of the force MAE below the foundation's"]),
        (69.0, dynamics_of(finished=0.75), ["replicas that finish"]),
        (69.0, dynamics_of(whole=0.75), ["replicas whose molecules stay whole"]),
        (69.0, dynamics_of(rdf=0.16), ["mean earth mover's distance of the pair distributions"]),
        (69.0, dynamics_of(rdf=None), []),
        (
            69.0,
            dynamics_of(shortest=0.84),
            ["shortest distance of any pair over the reference's (O-O)"],
        ),
        (69.0, dynamics_of(drift=5.1), ["energy drift at constant energy"]),
        (69.0, dynamics_of(drift=None), ["energy drift at constant energy"]),
        (math.nan, dynamics_of(), ["fall of the force MAE below the foundation's"]),
    ],
)
def test_a_specialist_must_pass_every_check(mae, dynamics, failed):
    verdicts = acceptance.judge_specialist(
        GATE, foundation_errors=errors_of(100.0), errors=errors_of(mae), dynamics=dynamics
    )
    assert [verdict.check for verdict in verdicts if not verdict.passed] == failed
    assert len(verdicts) == (4 if dynamics["rdf"] is None else 6)


@pytest.mark.parametrize(
    ("ratio", "mae", "passed"), [(3.1, 99.0, True), (2.9, 99.0, False), (3.1, 101.0, False)]
)
def test_a_student_must_be_faster_and_no_worse_than_the_foundation(ratio, mae, passed):
    verdicts = acceptance.judge_student(
        GATE, foundation_errors=errors_of(100.0), errors=errors_of(mae), dynamics=dynamics_of(),
        speed={"batch": {"ratio": ratio}},
    )  # fmt: skip
    assert all(verdict.passed for verdict in verdicts) == passed


def test_a_gate_without_an_rdf_threshold_does_not_ask_for_one():
    gate = GATE.model_copy(update={"rdf_distance": None})
    verdicts = acceptance.judge_specialist(
        gate, foundation_errors=errors_of(100.0), errors=errors_of(1.0), dynamics=dynamics_of(rdf=9.0)
    )
    assert all(verdict.passed for verdict in verdicts)


@pytest.mark.parametrize(
    ("value", "at_least", "passed"),
    [(1.0, True, True), (0.9, True, False), (1.0, False, True), (1.1, False, False), (None, True, False),
     (None, False, False), (math.nan, True, False), (math.nan, False, False)],
)  # fmt: skip
def test_a_verdict_without_a_number_is_a_failure(value, at_least, passed):
    assert Verdict(check="c", value=value, threshold=1.0, unit="", at_least=at_least).passed == passed


def test_changes_beyond_the_tolerance_are_said():
    before = {"a": 100.0, "b": None, "c": 1.0, "d": 5.0, "e": None, "f": 2.0}
    after = {"a": 100.9, "b": None, "c": 1.02, "d": None, "e": 3.0, "f": math.nan}
    assert acceptance.changes(before, after, 0.01) == [
        "c: was 1, is 1.02", "d: was 5.0, is None", "e: was None, is 3.0", "f: was 2, is nan",
    ]  # fmt: skip


def test_frames_are_grouped_by_trajectory_in_order(labelled_waters):
    groups = acceptance.by_trajectory(labelled_waters[::-1])
    assert [group[0].info["trajectory"] for group in groups] == [f"w{k}" for k in reversed(range(6))]
    bare = [frame.copy() for frame in labelled_waters[:3]]
    for frame in bare:
        del frame.info["trajectory"]
    assert [len(group) for group in acceptance.by_trajectory(bare)] == [1, 1, 1]
