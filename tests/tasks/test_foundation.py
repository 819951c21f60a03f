"""Foundations on record."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from db import artifacts, retractions
from db.trust import trust
from models import potentials
from models.campaign import FoundationChoice
from models.foundation import FoundationError, Untrusted, shipped
from tasks.foundation import resolve_foundation


def test_the_shipped_foundation_is_recorded_as_it_is() -> None:
    id_ = resolve_foundation.fn(FoundationChoice(name="temper-gfn1"))
    assert artifacts.path(id_).read_bytes() == shipped()["temper-gfn1"].read_bytes()
    artifact = artifacts.get(id_)
    assert artifact.kind == "foundation"
    assert artifact.metadata["level_of_theory"] == "GFN1-xTB"
    assert artifact.metadata["licence"]


def test_a_foundation_that_nobody_knows_is_one_error_with_the_known_ones() -> None:
    with pytest.raises(FoundationError, match=r"'temper-dft'.*known: .*temper-gfn1.*medium"):
        resolve_foundation.fn(FoundationChoice(name="temper-dft"))


class MakesFolder:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_is_opened_once_somebody_vouches_for_it_and_not_before(tmp_path: Path) -> None:
    file, opened = tmp_path / "theirs.model", tmp_path / "opened"
    file.write_bytes(pickle.dumps(MakesFolder(opened)))
    choice = FoundationChoice(name=str(file))
    with pytest.raises(Untrusted, match=f"temper trust {file} --reason"):
        resolve_foundation.fn(choice)
    id_ = trust(file, "model-file", "ours").artifact.id
    retractions.retract(id_, "not ours")
    with pytest.raises(Untrusted):
        resolve_foundation.fn(choice)
    assert not opened.exists()
    retractions.reinstate(id_)
    with pytest.raises(FoundationError, match="not a MACE model file"):
        resolve_foundation.fn(choice)
    assert opened.exists()


def test_a_mace_model_that_somebody_vouches_for_is_recorded_as_a_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "theirs.model"
    potentials.export_mace(potentials.load(shipped()["temper-gfn1"]), file)
    given = trust(file, "model-file", "ours")
    id_ = resolve_foundation.fn(FoundationChoice(name=str(file)))
    assert artifacts.get(id_).metadata["name"] == "theirs.model"
    assert set(potentials.load(artifacts.path(id_)).heads) == {"Default"}
    assert artifacts.get(given.artifact.id).name == "theirs.model"
