"""Members of a committee, trained in processes of their own."""

from pathlib import Path

import pytest

from models import e0s, potentials
from models.committee import fine_tune_committee, members
from models.datasets import write_structures
from models.e0s import E0Policy
from models.finetuning import fine_tune
from models.strategies import Naive
from models.training import Optimisation
from models.training_state import ResumeError

PLAN = Naive(optimisation=Optimisation(learning_rate=3e-3, ema_decay=0.5, epochs=2, max_edges=60, seed=5))


@pytest.fixture(scope="module")
def files(tiny_foundation, labelled_waters, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    for role, frames in {"train": labelled_waters[:8], "valid": labelled_waters[8:12]}.items():
        write_structures(folder / f"{role}.extxyz", frames)
    made = {role: folder / f"{role}.extxyz" for role in ("train", "valid")}
    path, _ = e0s.refit_file(tiny_foundation, made["train"], None, E0Policy(), folder)
    return {**made, "e0s": path, "foundation": tiny_foundation}


def test_members_differ_in_their_seed_alone():
    assert [m.optimisation.seed for m in members(PLAN, 3)] == [5, 6, 7]
    assert members(PLAN, 3)[0] == PLAN
    assert {m.model_copy(update={"optimisation": PLAN.optimisation}) for m in members(PLAN, 3)} == {PLAN}


def test_each_member_is_the_training_with_its_seed(files, tmp_path):
    told = []
    made = fine_tune_committee(PLAN, files, "GFN2-xTB", {}, tmp_path, number=2, workers=2, report=told.append)
    assert {(row["member"], row["epoch"]) for row in told} == {(s, e) for s in (5, 6) for e in (0, 1, 2)}
    alone = tmp_path / "alone"
    alone.mkdir()
    expected = fine_tune(members(PLAN, 2)[1], files, "GFN2-xTB", {}, alone)
    for name, path in expected.items():
        assert made[1][name].read_bytes() == path.read_bytes()
        assert made[0][name].read_bytes() != path.read_bytes()
    assert made[1]["checkpoint"].parent == tmp_path / "member-6"
    assert potentials.load(made[0]["checkpoint"]).heads == ["target"]

    # What is finished is not repeated, and what one member raises ends the call.
    assert fine_tune_committee(PLAN, files, "GFN2-xTB", {}, tmp_path, number=2, report=told.append) == made
    assert len(told) == 6
    for saved in (tmp_path / "member-6").glob("state.pt*"):
        saved.write_bytes(b"torn")
    with pytest.raises(ResumeError, match=r"member-6/state\.pt: truncated"):
        fine_tune_committee(PLAN, files, "GFN2-xTB", {}, tmp_path, number=2, workers=2)
