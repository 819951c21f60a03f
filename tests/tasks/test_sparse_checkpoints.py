"""A specialist that changes few weights: kept small on record, and used like any other checkpoint."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from db import aliases, archives, artifacts, garbage
from db.artifacts import NEEDS
from db.settings import settings
from db.steps import Output
from db.store import store
from db.verification import verify
from models import checkpoints, potentials
from models.foundation import shipped
from tasks.differences import compare
from tasks.exporting import export_checkpoint
from tasks.foundation import FoundationChoice, resolve_foundation
from tasks.records import Kind, Recipe, made
from tasks.training import fitted


@pytest.fixture
def foundation(tmp_path: Path) -> str:
    """A foundation on record that does not ship: of other bytes than the one in the box."""
    start = potentials.load(shipped()["temper-gfn1"])
    start.network.scale_shift.scale *= 1.01
    potentials.save(start, tmp_path / "other.safetensors")
    return resolve_foundation.fn(FoundationChoice(name=str(tmp_path / "other.safetensors")))


@pytest.fixture
def specialist(foundation: str, tmp_path: Path) -> tuple[str, bytes]:
    """The id of a specialist, promoted, and the bytes that its whole checkpoint has."""
    content: list[bytes] = []

    def compute(recipe: Recipe, work: Path) -> dict[str, Output]:
        potential = potentials.load(recipe.file("foundation"))
        generator = torch.Generator().manual_seed(0)
        for parameter in potential.network.parameters():
            parameter.data[torch.rand(parameter.shape, generator=generator) < 0.01] += 0.01
        whole = work / "checkpoint.safetensors"
        potentials.save(potential, whole)
        content.append(whole.read_bytes())
        (work / "history.json").write_text("{}")
        (work / "cost.json").write_text("{}")
        kept = checkpoints.smallest(whole, recipe.file("foundation"))
        files = {"history": work / "history.json", "cost": work / "cost.json"}
        return fitted({"checkpoint": kept, **files}, recipe, {})

    names = {"checkpoint": "salt-sparse", "history": "salt-sparse-history"}
    recipe = Recipe(parameters={}, inputs={"foundation": foundation}, names=names)
    id_ = made(Kind(name="fine_tune", version=1, compute=compute), recipe)["checkpoint"]
    aliases.promote("salt@champion", id_, reason="few weights")
    return id_, content[0]


def whole(path: Path, folder: Path) -> bytes:
    potentials.save(potentials.load(path), folder / "whole")
    return (folder / "whole").read_bytes()


def test_it_is_small_and_everything_reads_it(
    foundation: str, specialist: tuple[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_, content = specialist
    found = artifacts.get(id_)
    assert found.size < len(content) / 20
    assert found.metadata[NEEDS] == foundation
    assert whole(artifacts.path(id_), tmp_path) == content
    assert verify() == []

    said: dict[str, Any] = compare(foundation, "salt@champion", with_pattern=True)
    assert 0.005 < said["share"] < 0.015
    assert said["pattern"]["sparse"]
    assert not [g for g in said["pattern"]["groups"] if g["dimension"] == "degree" and g["stands_out"]]
    with pytest.raises(ValueError, match="no weights belong to Fe; there are Br, C"):
        compare(foundation, id_, with_pattern=True, elements=["Fe"])

    exported = export_checkpoint("salt@champion", tmp_path / "out", ["ase"])
    (file,) = exported.folder.glob("*.safetensors")
    assert checkpoints.foundation_of(file) is None

    # As a foundation it stands on its own.
    start = resolve_foundation.fn(FoundationChoice(name=str(artifacts.path(id_))))
    assert artifacts.path(start).read_bytes() == content

    # Without aliases on the foundation itself, it is kept as long as the specialist is.
    removed = garbage.find(unreachable=True, grace=timedelta(0))
    assert foundation not in {artifact.id for artifact in removed.artifacts}

    archives.push([id_], tmp_path / "salt.tar")
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "elsewhere"))
    archives.pull(tmp_path / "salt.tar")
    assert whole(artifacts.path(artifacts.find("salt@champion").id), tmp_path) == content


def test_a_damaged_foundation_is_named_before_the_specialist_is_used(
    foundation: str, specialist: tuple[str, bytes]
) -> None:
    path = artifacts.path(foundation)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Exception, match=f"foundation 'other' .*{foundation[:12]}"):
        artifacts.path(specialist[0])


def test_from_a_remote_store_its_foundation_comes_along(
    foundation: str, specialist: tuple[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_, content = specialist
    local = settings().store_place
    monkeypatch.setenv("TEMPER_STORE", "memory://sparse")
    for artifact_id in (id_, foundation):
        store().put(next((Path(local) / artifact_id[:2]).glob(f"{artifact_id[2:]}*")), ".safetensors")
    for file in settings().cache_root.glob("*/*"):
        file.unlink()
    assert whole(artifacts.path(id_), tmp_path) == content
