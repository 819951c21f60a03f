import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from models.datasets import read_structures, write_structures
from models.e0s import E0Policy, refit_file
from models.validation import CHECK, CHECKS, acceptance
from models.validation.acceptance import Simulation
from models.validation.accuracy import Accuracy, Imitation
from models.validation.base import by_trajectory
from models.validation.conservation import EnergyConservation
from models.validation.distributions import Distributions, Dynamics

BRIEF = Simulation(temperature=300.0, time_step=0.5, duration=6.0, replicas=2, save_every=3)


@pytest.fixture(scope="module")
def waters(labelled_waters, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("acceptance") / "waters.xyz"
    write_structures(path, labelled_waters)
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_check_can_be_asked_for_by_its_name_and_says_what_it_measures():
    for kind, check in CHECKS.items():
        made = CHECK.validate_python({"kind": kind})
        assert isinstance(made, check)
        assert CHECK.validate_python(made.model_dump(mode="json")) == made
        assert check.title
        assert check.explanation.endswith(".")
        assert check.quantities
        assert not set(check.needs) & set(check.uses)
        for name in check.quantities:
            assert f"({kind})" in acceptance.described(f"{kind}.{name}")


def test_errors_are_measured_on_the_targets_scale(tiny_foundation, waters, tmp_path):
    own = read(acceptance.measure(Accuracy(), tiny_foundation, {"test": waters}, tmp_path))
    e0s, fit = refit_file(tiny_foundation, waters, None, E0Policy(), tmp_path)
    given = {"test": waters, "e0s": e0s}
    shifted = read(acceptance.measure(Accuracy(), tiny_foundation, given, tmp_path))
    table = {row[0]: row for row in shifted["tables"][0]["rows"]}
    assert own["tables"][0]["rows"][1][2] == pytest.approx(fit.residual_before, rel=1e-4)
    assert table["energy, meV/atom"][2] == pytest.approx(fit.residual_after, rel=1e-3)
    assert shifted["figures"]["forces"] == own["figures"]["forces"]
    taught = {"test": waters, "teacher": tiny_foundation}
    imitated = read(acceptance.measure(Imitation(), tiny_foundation, taught, tmp_path))
    assert imitated["figures"]["forces"]["value"] == pytest.approx(0.0, abs=1e-3)
    assert len(own["plots"][1]["lines"][0]["x"]) == 24


def test_a_figure_is_the_sum_of_its_samples(tiny_foundation, waters, tmp_path):
    found = read(acceptance.measure(Accuracy(), tiny_foundation, {"test": waters}, tmp_path))
    for name in ("forces", "energy"):
        figure = found["figures"][name]
        assert set(figure["samples"]) == {f"w{k}" for k in range(6)}
        sums, weights = np.array(list(figure["samples"].values())).sum(axis=0)
        assert figure["value"] == pytest.approx(sums / weights)
        assert figure["interval"][0] < figure["value"] < figure["interval"][1]
    assert [len(shown["symbols"]) for shown in found["structures"]]
    assert "eV" in found["structures"][0]["text"]


def test_structures_of_elements_that_were_given_up_are_left_out(tiny_foundation, waters, tmp_path):
    known = read(acceptance.measure(Accuracy(), tiny_foundation, {"test": waters}, tmp_path))
    gold = Atoms("Au", info={"REF_energy": -1.0})
    gold.arrays["REF_forces"] = np.zeros((1, 3))
    write_structures(tmp_path / "more.extxyz", [*read_structures(waters), gold])
    files = {"test": tmp_path / "more.extxyz"}
    mixed = read(acceptance.measure(Accuracy(), tiny_foundation, files, tmp_path))
    assert mixed["figures"] == known["figures"]
    assert mixed["notes"][0] == "1 of 25 structures left out: it does not know Au."


def test_an_acceptance_measured_again_is_the_same(tiny_foundation, waters, tmp_path):
    told = []
    (tmp_path / "again").mkdir()
    made = acceptance.simulate(tiny_foundation, waters, BRIEF, tmp_path, report=told.append)
    again = acceptance.simulate(tiny_foundation, waters, BRIEF, tmp_path / "again")
    assert again.read_bytes() == made.read_bytes()
    assert told[-1]["steps"] == 12
    files = {"test": waters, "reference": waters, "trajectories": made}
    checks = [
        Distributions(equilibration=1.5),
        Dynamics(),
        EnergyConservation(temperature=300.0, duration=5.0),
    ]
    findings = {
        check.kind: read(acceptance.measure(check, tiny_foundation, files, tmp_path)) for check in checks
    }
    figures = acceptance.figures(findings)
    assert figures["dynamics.finished"] == 100.0
    assert figures["distributions.emd"] >= 0.0
    assert figures["conservation.drift"] >= 0.0
    assert "distributions.density" not in figures, "a molecule has none"
    (replicas,) = findings["dynamics"]["tables"]
    assert [row[1] for row in replicas["rows"]] == ["finished", "finished"]
    assert {line["name"] for plot in findings["distributions"]["plots"] for line in plot["lines"]} == {
        "", "reference"
    }  # fmt: skip
    measured_again = {
        check.kind: read(acceptance.measure(check, tiny_foundation, files, tmp_path)) for check in checks
    }
    assert measured_again == findings


def test_a_check_says_which_files_it_lacks():
    assert acceptance.lacking(Accuracy(), ["test"]) is None
    assert acceptance.lacking(Distributions(), ["test", "trajectories"]) == "there is nothing for reference"


@pytest.mark.slow
def test_a_teacher_is_as_fast_as_itself_measured_alternately(tiny_foundation, waters, tmp_path):
    speed = CHECKS["speed"](kind="speed", replicas=2)
    files = {"test": waters, "teacher": tiny_foundation}
    found = read(acceptance.measure(speed, tiny_foundation, files, tmp_path))
    assert [row[:2] for row in found["tables"][0]["rows"]] == [[2, 6], [1, 3]]
    assert found["figures"]["ratio"]["value"] > 0.0


def test_frames_are_grouped_by_trajectory_in_order(labelled_waters):
    groups = by_trajectory(labelled_waters[::-1])
    assert [group[0].info["trajectory"] for group in groups] == [f"w{k}" for k in reversed(range(6))]
    bare = [frame.copy() for frame in labelled_waters[:3]]
    for frame in bare:
        del frame.info["trajectory"]
    assert [len(group) for group in by_trajectory(bare)] == [1, 1, 1]
