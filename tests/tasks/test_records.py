"""What a step is computed from, and in what surroundings."""

import os
from pathlib import Path

import pytest
import torch

from db import artifacts
from db.agent import software
from tasks.children import in_child
from tasks.records import Recipe


def test_the_surroundings_on_record_are_those_of_a_child() -> None:
    said = software()["children"]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        assert in_child(os.getenv, name) == said[name]
    assert f"at::get_num_threads() : {said['torch_threads']}\n" in in_child(torch.__config__.parallel_info)
    deterministic = in_child(torch.are_deterministic_algorithms_enabled)
    assert deterministic == said["torch_deterministic_algorithms"]


def test_an_imported_file_has_its_name_back_and_cannot_be_written_over(tmp_path: Path) -> None:
    labels, work = tmp_path / "train.extxyz", tmp_path / "work"
    labels.write_text("labels")
    work.mkdir()
    id_ = artifacts.import_file(labels, "labels", labels.name).id
    recipe = Recipe(parameters={}, inputs={"labels": id_}, names={})
    for _ in range(2):  # again in the same folder, after a kill
        file = recipe.imported("labels", work)
    assert (file.name, file.read_text()) == ("train.extxyz", "labels")
    (work / "train.extxyz").write_text("a part of the same name")
    assert artifacts.path(id_).read_text() == "labels"


@pytest.mark.parametrize("name", ["{folder}/mine", "../../mine", "../mine"])
def test_a_name_that_is_a_path_reaches_nothing_outside(name: str, tmp_path: Path) -> None:
    work, mine, labels = tmp_path / "work" / "step", tmp_path / "mine", tmp_path / "labels"
    work.mkdir(parents=True)
    (tmp_path / "work" / "mine").write_text("mine")
    mine.write_text("mine")
    labels.write_text("theirs")
    id_ = artifacts.import_file(labels, "labels", name.format(folder=tmp_path)).id
    file = Recipe(parameters={}, inputs={"labels": id_}, names={}).imported("labels", work)
    assert file == work / "imported" / "mine"
    assert file.read_text() == "theirs"
    assert mine.read_text() == (tmp_path / "work" / "mine").read_text() == "mine"
    assert not mine.is_symlink()


def test_the_artifacts_of_a_role_keep_their_order(tmp_path: Path) -> None:
    ids = []
    for text in ("b", "a"):
        (tmp_path / text).write_text(text)
        ids.append(artifacts.import_file(tmp_path / text, "trajectories", text).id)
    recipe = Recipe(parameters={}, inputs={"dynamics": ids, "teacher": ids[1]}, names={})
    assert recipe.ids("dynamics") == ids
    assert recipe.ids("teacher") == [ids[1]]
    assert recipe.input("teacher").name == "a"
