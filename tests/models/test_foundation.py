import hashlib
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import foundation, potentials
from models.foundation import FoundationError, Untrusted, resolve
from models.graphs import graphs, predict


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class MakesFolder:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def opened(tmp_path) -> Path:
    """The folder that exists once `foreign` was opened."""
    return tmp_path / "opened"


@pytest.fixture
def foreign(tmp_path, opened) -> Path:
    """A pickle that runs code when it is opened."""
    path = tmp_path / "foreign.model"
    path.write_bytes(pickle.dumps(MakesFolder(opened)))
    return path


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
    read = resolve(str(path), trusted=sha256(path))
    assert read.dtype == torch.float32
    assert read.provenance["name"] == "theirs.model"
    [theirs], [ours] = (predict(p, graphs([salt_water], p)) for p in (read, tiny_potential))
    assert theirs.energy == pytest.approx(ours.energy, abs=1e-4)


def test_files_that_hold_no_mace_network(tmp_path):
    text, linear = tmp_path / "text.model", tmp_path / "linear.model"
    text.write_text("no model")
    torch.save(torch.nn.Linear(2, 2), linear)
    with pytest.raises(FoundationError, match=r"text\.model: not a MACE model file"):
        resolve(str(text), trusted=sha256(text))
    with pytest.raises(FoundationError, match=r"linear\.model': Linear is not supported"):
        resolve(str(linear), trusted=sha256(linear))


def test_a_pickle_runs_nothing_before_somebody_vouches_for_it(foreign, opened):
    with pytest.raises(Untrusted) as caught:
        resolve(str(foreign))
    message = str(caught.value)
    assert sha256(foreign) in message
    assert f"temper trust {foreign} --reason" in message
    assert "\n" not in message
    with pytest.raises(Untrusted) as early:
        foundation.admit(str(foreign), lambda digest: False)
    assert str(early.value) == message
    assert not opened.exists()
    trusted = foundation.admit(str(foreign), lambda digest: digest == sha256(foreign))
    assert not opened.exists()
    with pytest.raises(FoundationError):  # it is no network, but was opened
        resolve(str(foreign), trusted=trusted)
    assert opened.exists()


def test_a_pickle_that_changed_since_somebody_vouched_for_it_runs_nothing(foreign, opened):
    before = sha256(foreign)
    foreign.write_bytes(foreign.read_bytes() + b"more")
    with pytest.raises(Untrusted, match=sha256(foreign)):
        resolve(str(foreign), trusted=before)
    assert not opened.exists()


def test_a_pickle_by_another_name_runs_nothing(foreign, opened):
    for name in ("foreign.pt", "foreign", "foreign.ckpt", "foreign.safetensors"):
        path = foreign.rename(foreign.with_name(name))
        with pytest.raises(FoundationError):
            resolve(str(path))
        path.rename(foreign)
    assert not opened.exists()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where mace-torch keeps what it has downloaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "mace").mkdir()
    return tmp_path / "mace"


@pytest.fixture
def offline(monkeypatch) -> None:
    """Nothing listens on the discard port, so a download fails at once on a machine with a network too."""
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")


def put(potential, name: str) -> Path:
    """Keep a model in mace-torch's cache, as if it had been downloaded."""
    file = foundation.cached(name)
    potentials.export_mace(potential, file.with_suffix(".model"))
    return file.with_suffix(".model").rename(file)


def test_a_published_model_comes_from_maces_cache(cache, tiny_potential, monkeypatch):
    file = put(tiny_potential, "small")
    known = replace(foundation.PUBLISHED["small"], sha256=sha256(file))
    monkeypatch.setitem(foundation.PUBLISHED, "small", known)
    assert foundation.admit("small", lambda digest: False) == sha256(file)
    potential = resolve("small")
    assert potential.e0s() == tiny_potential.e0s()
    assert potential.dtype == torch.float32
    assert potential.provenance == {
        "name": "small", "licence": "MIT", "citation": foundation.PUBLISHED["small"].citation,
    }  # fmt: skip
    assert list(potential.level_of_theory.values()) == ["PBE+U (MPtrj)"]


@pytest.mark.parametrize("name", ["small", "off-large", "mh-0"])
def test_a_published_name_opens_no_other_file_than_the_published_one(
    name, cache, foreign, opened, tiny_potential
):
    file = foundation.cached(name)
    foreign.rename(file)
    published = foundation.PUBLISHED[name].sha256
    what = f"is not the published file ({published})" if published else "is a pickle"
    with pytest.raises(Untrusted, match=rf"{re.escape(what)}.*{sha256(file)}.*temper trust {name} --reason"):
        foundation.admit(name, lambda digest: False)
    with pytest.raises(Untrusted):
        resolve(name)
    assert not opened.exists()
    file = put(tiny_potential, name)
    assert resolve(name, trusted=sha256(file)).e0s() == tiny_potential.e0s()


def test_what_is_published_and_known_is_admitted_before_it_is_downloaded(cache, offline):
    assert foundation.admit("small", lambda digest: False) == foundation.PUBLISHED["small"].sha256
    with pytest.raises(FoundationError, match="'mh-0' is not in mace-torch's cache"):
        foundation.admit("mh-0", lambda digest: False)


def test_the_cache_is_that_of_mace_torch(cache, offline, tiny_potential):
    from mace.calculators import foundations_models

    for name, entry in foundation.PUBLISHED.items():
        file = foundation.cached(name)
        file.touch()
        if entry.family == "mp":
            assert foundations_models.download_mace_mp_checkpoint(entry.model) == str(file)
    put(tiny_potential, "off-small")
    foundations_models.mace_off("small", device="cpu", return_raw_model=True)


@pytest.mark.parametrize("name", ["medium-mpa-0", "off-small"])
def test_a_model_that_cannot_be_had_gives_one_clear_error(name, cache, offline):
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

    known = {"mp": foundations_models.mace_mp_urls, "off": foundations_models.mace_off_urls}
    assert all(entry.model in known[entry.family] for entry in foundation.PUBLISHED.values())


def test_every_known_sha256_is_of_one_published_model():
    known = [entry.sha256 for entry in foundation.PUBLISHED.values() if entry.sha256]
    assert len(known) == len(set(known)) == len(foundation.PUBLISHED) - 2
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in known)


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
