"""Files that may be opened although that runs code."""

import hashlib
import json
import tarfile
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest

from db import aliases, archives, artifacts, garbage, retractions
from db.archives import BadArchive
from db.artifacts import Artifact
from db.canonical import canonical
from db.errors import MissingFile, Retracted
from db.trust import BadTrust, trust, trusted
from db.verification import verify

NO_GRACE = timedelta(0)


@pytest.fixture
def pickle(url: str, tmp_path: Path) -> Path:
    path = tmp_path / "foreign.model"
    path.write_bytes(b"any bytes")
    return path


def test_trust_holds_for_these_bytes_and_says_who_and_why(pickle: Path) -> None:
    given = trust(pickle, "model-file", " from the group's share ")
    assert artifacts.get(given.artifact.id) == given.artifact
    assert (given.artifact.kind, given.artifact.name) == ("model-file", "foreign.model")
    assert trusted(given.artifact.id)
    pickle.write_bytes(b"other bytes")
    other = artifacts.import_file(pickle, "model-file", "foreign.model")
    assert not trusted(other.id)
    assert not trusted("0" * 64)
    (event,) = aliases.history("trusted")
    assert (event.artifact_id, event.set_by) == (given.artifact.id, given.by)
    assert event.reason == given.reason == "from the group's share"
    assert event.set_at == given.at
    assert aliases.all() == []
    assert verify(grace=NO_GRACE) == []


@pytest.mark.parametrize("reason", ["", "  "])
def test_trust_without_a_reason_is_refused(pickle: Path, reason: str) -> None:
    with pytest.raises(BadTrust, match=r"foreign\.model: say why"):
        trust(pickle, "model-file", reason)
    with pytest.raises(MissingFile):
        trust(pickle.with_name("gone.model"), "model-file", "ours")


def test_a_retraction_ends_trust_until_it_is_taken_back(pickle: Path) -> None:
    id_ = trust(pickle, "model-file", "ours").artifact.id
    retractions.retract(id_, "it was not ours")
    assert not trusted(id_)
    with pytest.raises(Retracted, match=rf"it was not ours.*temper reinstate {id_[:12]}"):
        trust(pickle, "model-file", "ours")
    retractions.reinstate(id_)
    assert trusted(id_)


def test_gc_keeps_what_is_trusted(pickle: Path, imported: Callable[..., Artifact]) -> None:
    id_ = trust(pickle, "model-file", "ours").artifact.id
    other = imported("labels")
    found = garbage.find(unreachable=True, grace=NO_GRACE)
    assert [artifact.id for artifact in found.artifacts] == [other.id]
    garbage.remove(found)
    assert trusted(id_)
    assert artifacts.path(id_).read_bytes() == b"any bytes"


def test_trust_does_not_come_in_with_an_archive(
    pickle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = trust(pickle, "model-file", "ours").artifact.id
    aliases.promote("ours@model", id_, reason="ours")
    archive, forged = tmp_path / "ours.tar", tmp_path / "forged.tar"
    archives.push([id_], archive)
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "theirs"))
    monkeypatch.setenv("TEMPER_DATABASE_URL", f"sqlite:///{tmp_path / 'theirs.db'}")
    with tarfile.open(archive) as tar, tarfile.open(forged, "w") as copy:
        for member in tar:
            content = tar.extractfile(member).read()  # type: ignore[union-attr]
            if member.name == archives.MANIFEST:
                manifest = json.loads(content)
                manifest["record"]["aliases"][0]["name"] = "trusted"
                manifest["sha256"] = hashlib.sha256(canonical(manifest["record"]).encode()).hexdigest()
                content = json.dumps(manifest).encode()
                member.size = len(content)
            copy.addfile(member, BytesIO(content))
    with pytest.raises(BadArchive, match=r"aliases\.0\.name"):
        archives.pull(forged)
    archives.pull(archive)
    assert aliases.resolve("ours@model").id == id_
    assert not trusted(id_)
