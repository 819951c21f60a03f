import shutil
from pathlib import Path

import pytest
import torch

from models import foundation, potentials
from models.foundation import FoundationError, resolve
from models.graphs import graphs, predict


def test_the_shipped_foundation_resolves_by_name(salt_water):
    potential = resolve("temper-gfn1")
    assert {"H", "Li", "C", "N", "O", "F", "Na", "P", "S", "Cl", "Br"} <= set(potential.symbols)
    assert set(potential.level_of_theory.values()) == {"GFN1-xTB"}
    assert potential.provenance["licence"] == "MIT"
    assert foundation.describe("temper-gfn1")["architecture"]["heads"] == potential.heads
    [prediction] = predict(potential, graphs([salt_water], potential))
    assert prediction.forces.shape == salt_water.positions.shape
    assert foundation.shipped_replay().is_file()


def test_a_checkpoint_of_ours_resolves_by_path(tiny_foundation, tmp_path):
    resolved = foundation.save_resolved(str(tiny_foundation), None, tmp_path)
    assert resolved.read_bytes() == tiny_foundation.read_bytes()
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(FoundationError, match=r"broken\.safetensors: not a readable safetensors file"):
        resolve(str(tmp_path / "broken.safetensors"))


def test_a_mace_file_resolves_by_path_in_float32(tiny_potential, tmp_path, salt_water):
    path = tmp_path / "theirs.model"
    potentials.export_mace(tiny_potential, path)
    assert foundation.describe(str(path)) is None
    read = resolve(str(path))
    assert read.dtype == torch.float32
    assert read.provenance["name"] == "theirs.model"
    [theirs], [ours] = (predict(p, graphs([salt_water], p)) for p in (read, tiny_potential))
    assert theirs.energy == pytest.approx(ours.energy, abs=1e-4)


def test_files_that_hold_no_mace_network(tmp_path):
    (tmp_path / "text.model").write_text("no model")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "linear.model")
    with pytest.raises(FoundationError, match=r"text\.model: not a MACE model file"):
        resolve(str(tmp_path / "text.model"))
    with pytest.raises(FoundationError, match=r"linear\.model': Linear is not supported"):
        resolve(str(tmp_path / "linear.model"))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where mace-torch keeps what it has downloaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "mace").mkdir()
    return tmp_path / "mace"


def test_a_published_model_comes_from_maces_cache(cache, tiny_potential):
    from mace.calculators.foundations_models import mace_mp_urls

    url = mace_mp_urls["small"]
    name = "".join(c for c in url.rsplit("/", 1)[1] if c.isalnum() or c == "_")
    potentials.export_mace(tiny_potential, cache / "tiny.model")
    shutil.move(cache / "tiny.model", cache / name)
    potential = resolve("small")
    assert potential.e0s() == tiny_potential.e0s()
    assert potential.dtype == torch.float32
    assert potential.provenance == {
        "name": "small", "licence": "MIT", "citation": foundation.PUBLISHED["small"].citation,
    }  # fmt: skip
    assert list(potential.level_of_theory.values()) == ["PBE+U (MPtrj)"]


@pytest.mark.parametrize("name", ["medium-mpa-0", "off-small"])
def test_a_model_that_cannot_be_had_gives_one_clear_error(name, cache, monkeypatch):
    # Nothing listens on the discard port, so this fails at once on a machine with a network too.
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    with pytest.raises(FoundationError) as caught:
        resolve(name)
    message = str(caught.value)
    assert message.startswith(
        f"foundation {name!r} is not in mace-torch's cache and could not be downloaded ("
    )
    assert message.endswith("Go online once, copy the model file into the cache, or give a path")
    assert "\n" not in message


def test_every_published_name_is_one_that_mace_knows():
    from mace.calculators import foundations_models

    known = {*foundations_models.mace_mp_names, "small", "medium", "large"}
    assert {entry.model for entry in foundation.PUBLISHED.values()} <= known


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        FoundationError, match="'smal' is neither a file nor known; known: temper-gfn1, small, "
    ):
        resolve("smal")


def test_one_head_of_several_is_chosen_by_name(two_heads, tmp_path, salt_water):
    potentials.save(two_heads, tmp_path / "both.safetensors")
    path = str(tmp_path / "both.safetensors")
    for head in (None, "other"):
        with pytest.raises(
            FoundationError, match=r"has the heads replay, target: set foundation\.head to one"
        ):
            resolve(path, head)
    chosen = resolve(path, "replay")
    assert (chosen.heads, dict(chosen.level_of_theory)) == (["replay"], {"replay": "none"})
    [one], [both] = (predict(p, graphs([salt_water], p, "replay")) for p in (chosen, two_heads))
    assert one.energy == pytest.approx(both.energy, abs=1e-9)
