"""Active rounds: when they stop, and how labels join."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from models.datasets import fingerprint, read_structures, write_structures
from models.reference import Tblite
from models.rounds import Budget, Rounds, Standing, decide, merge, selection_gain


def rounds(**given: Any) -> Rounds:
    return Rounds(calculator=Tblite(), **given)


def standing(error: float, *, passed: bool = False, sent: int = 10, hours: float = 0.5) -> Standing:
    """Six test trajectories of about this error."""
    samples = {f"t{k}": (error * (1.0 + 0.01 * k), 1.0) for k in range(6)}
    return Standing(passed=passed, sent=sent, labels=sent, cpu_hours=hours, samples=samples)


START = standing(100.0, sent=0, hours=0.0)


def test_it_asks_for_labels_until_the_gate_holds() -> None:
    plan = rounds(labels_per_round=10)
    assert decide(plan, [START]).wanted == 10
    assert decide(plan, [START, standing(80.0)]).wanted == 10
    assert decide(plan, [START, standing(80.0), standing(50.0, passed=True)]).stopped == "the gate holds"


def test_it_stops_after_its_last_round() -> None:
    plan = rounds(at_most=2)
    assert decide(plan, [START, standing(80.0), standing(50.0)]).stopped == "all rounds are done (at_most: 2)"


def test_it_stops_where_nothing_is_gained_any_more() -> None:
    plan = rounds(patience=2)
    assert decide(plan, [START, standing(80.0), standing(81.0)]).stopped is None
    stopped = decide(plan, [START, standing(80.0), standing(81.0), standing(82.0)]).stopped
    assert stopped is not None
    assert "no gain" in stopped


def test_it_stops_where_no_label_came() -> None:
    nothing = standing(100.0, sent=0)
    assert decide(rounds(), [START, nothing]).stopped == "round 1 brought no new label"


def test_a_budget_of_labels_is_spent_to_the_last_one() -> None:
    plan = rounds(labels_per_round=10, budget=Budget(labels=25))
    done = [START, standing(80.0), standing(60.0)]
    assert decide(plan, done).wanted == 5
    assert decide(plan, [*done, standing(40.0, sent=5)]).stopped == "the budget is spent"


def test_a_budget_of_cpu_hours_buys_labels_at_the_price_so_far() -> None:
    plan = rounds(labels_per_round=10, budget=Budget(cpu_hours=0.8))
    assert decide(plan, [START]).wanted == 10  # no price is known yet
    assert decide(plan, [START, standing(80.0, hours=0.5)]).wanted == 6
    assert decide(plan, [START, standing(80.0, hours=0.8)]).stopped == "the budget is spent"


@pytest.fixture
def campaign(tmp_path: Path, labelled_waters: Sequence[Atoms]) -> dict[str, Any]:
    """Datasets of a campaign, and a round whose twelve structures were all labelled."""
    write_structures(tmp_path / "train.extxyz", labelled_waters[:8])
    write_structures(tmp_path / "valid.extxyz", labelled_waters[8:12])
    asked = []
    for rank, labelled in enumerate(labelled_waters[12:]):
        frame = Atoms(labelled.numbers, positions=labelled.positions)
        frame.info |= {"walker": f"dynamics-{rank // 2}", "rank": rank}
        frame.info["arm"] = "control" if rank % 4 == 3 else "selected"
        asked.append(frame)
    write_structures(tmp_path / "selection.extxyz", asked)
    files = []
    for index, labelled in enumerate(labelled_waters[12:]):
        files.append(tmp_path / f"{index}.extxyz")
        bare = labelled.copy()
        bare.info = {"REF_energy": labelled.info["REF_energy"]}
        write_structures(files[-1], [bare])
    (tmp_path / "work").mkdir()
    return {
        "train": tmp_path / "train.extxyz",
        "valid": tmp_path / "valid.extxyz",
        "selections": [tmp_path / "selection.extxyz"],
        "labels": [files],
        "share": 0.3,
        "seed": 0,
        "work": tmp_path / "work",
    }


def hashes(path: Path) -> list[str]:
    return [fingerprint(frame) for frame in read_structures(path)]


def test_new_labels_join_the_old_ones(campaign: dict[str, Any]) -> None:
    parts = merge(**campaign)
    train, valid = read_structures(parts["train"].path), read_structures(parts["valid"].path)
    assert not json.loads(parts["tally"].path.read_text())["doubtful"]
    assert len(train) + len(valid) == 24
    assert hashes(parts["train"].path)[:8] == hashes(campaign["train"])
    new = [frame for frame in (*train, *valid) if "round" in frame.info]
    assert {fingerprint(f) for f in new} == set(hashes(campaign["selections"][0]))
    assert all(np.isfinite(frame.arrays["REF_forces"]).all() for frame in new)
    walkers = [{f.info["trajectory"] for f in part if "round" in f.info} for part in (train, valid)]
    assert walkers[0]
    assert walkers[1]
    assert not walkers[0] & walkers[1]


def test_a_label_stays_in_its_part_when_more_rounds_come(campaign: dict[str, Any]) -> None:
    first = merge(**campaign | {"labels": [campaign["labels"][0][:6]]})
    before = set(hashes(first["valid"].path))
    more = campaign | {"selections": campaign["selections"] * 2}
    more["labels"] = [campaign["labels"][0][:6], campaign["labels"][0][6:]]
    assert before <= set(hashes(merge(**more)["valid"].path))


def test_both_arms_have_equally_many_labels(campaign: dict[str, Any]) -> None:
    parts = merge(**campaign | {"share": 0.0})
    selected, control = (read_structures(parts[arm].path) for arm in ("selected", "control"))
    assert len(selected) == len(control) == 8 + 3
    assert {frame.info["arm"] for frame in selected[8:]} == {"selected"}
    assert {frame.info["arm"] for frame in control[8:]} == {"control"}
    assert [frame.info["rank"] for frame in selected[8:]] == [0, 1, 2]


def test_a_doubtful_label_is_kept_and_not_trained_on(campaign: dict[str, Any]) -> None:
    wrong = campaign["labels"][0][5]
    (frame,) = read_structures(wrong)
    frame.info["REF_energy"] += 60.0
    write_structures(wrong, [frame])
    parts = merge(**campaign)
    assert hashes(parts["doubtful"].path) == [fingerprint(frame)]
    assert fingerprint(frame) not in hashes(parts["acquired"].path)
    (doubt,) = json.loads(parts["tally"].path.read_text())["doubtful"]
    assert doubt["structure"] == fingerprint(frame)
    assert doubt["round"] == 1
    assert doubt["reason"]


def test_what_did_not_come_back_is_no_error(campaign: dict[str, Any]) -> None:
    parts = merge(**campaign | {"labels": [campaign["labels"][0][:3]]})
    assert parts["acquired"].contents["n_structures"] == 3
    assert "acquired" not in merge(**campaign | {"labels": [[]]})


def test_what_selection_gains_is_a_ratio_with_an_interval() -> None:
    def finding(error: float) -> dict[str, Any]:
        samples = {f"t{k}": (error * (1 + 0.1 * k), 1.0) for k in range(5)}
        return {"figures": {"forces": {"samples": samples}}}

    ratio, interval = selection_gain(finding(20.0), finding(30.0))
    assert ratio == pytest.approx(1.5)
    assert interval == pytest.approx((1.5, 1.5))
