import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from db import aliases, artifacts
from db.artifacts import Artifact
from db.errors import (
    AmbiguousArtifact,
    BadAlias,
    ConflictingMetadata,
    MissingFile,
    NotCanonical,
    ProvenanceError,
    UnknownArtifact,
)

Import = Callable[..., Artifact]


def test_import_records_bytes_and_what_is_known(imported: Import) -> None:
    made = imported("Na Cl", "nacl", level_of_theory="GFN2-xTB")
    assert made.id == hashlib.sha256(b"Na Cl").hexdigest()
    assert (made.kind, made.name, made.size) == ("dataset", "nacl", 5)
    assert made.metadata == {"level_of_theory": "GFN2-xTB"}
    assert made.created_by.count("@") == 1
    assert artifacts.get(made.id) == made
    assert artifacts.path(made.id).read_text() == "Na Cl"


def test_importing_again_is_the_same_artifact(imported: Import) -> None:
    assert imported("Na Cl", "nacl", licence="MIT") == imported("Na Cl", "other", licence="MIT")


def test_metadata_may_be_added_but_not_contradicted(imported: Import) -> None:
    first = imported("Na Cl", "nacl", level_of_theory="GFN2-xTB")
    more = imported("Na Cl", "nacl", licence="MIT")
    assert more.metadata == {"level_of_theory": "GFN2-xTB", "licence": "MIT"}
    with pytest.raises(ConflictingMetadata, match="level_of_theory='GFN2-xTB', now level_of_theory='MP2'"):
        imported("Na Cl", "nacl", level_of_theory="MP2")
    assert artifacts.get(first.id) == more


def test_bad_import_leaves_no_record(url: str, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"absent\.xyz is not a file"):
        artifacts.import_file(tmp_path / "absent.xyz", "dataset", "absent")
    present = tmp_path / "present.xyz"
    present.write_text("1")
    with pytest.raises(NotCanonical, match=r"metadata of .*present\.xyz\.error is nan"):
        artifacts.import_file(present, "dataset", "present", {"error": float("nan")})
    with pytest.raises(UnknownArtifact):
        artifacts.find(hashlib.sha256(b"1").hexdigest())


def test_find_by_id_prefix_and_alias(imported: Import) -> None:
    made = imported("Na Cl")
    aliases.promote("nacl@labels", made.id, reason="test")
    assert [artifacts.find(text) for text in (made.id, made.id[:6], "nacl@labels")] == [made] * 3


def test_find_says_what_is_unknown(imported: Import) -> None:
    aliases.promote("nacl@labels", imported("Na Cl").id, reason="test")
    for text, message in {
        "0" * 64: "starts with",
        "abcde": "neither an alias",
        "nacl": "neither an alias",
        "%%%%%%": "neither an alias",
        "nacl@nobody": "no alias 'nacl@nobody'; known: nacl@labels",
    }.items():
        with pytest.raises(UnknownArtifact, match=message):
            artifacts.find(text)


def test_find_lists_candidates(imported: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "SHORTEST_PREFIX", 1)  # 17 files surely share a first digit
    made = [imported(str(number), f"file{number}") for number in range(17)]
    digits = [artifact.id[0] for artifact in made]
    shared = next(digit for digit in digits if digits.count(digit) > 1)
    with pytest.raises(AmbiguousArtifact, match="give more digits") as caught:
        artifacts.find(shared)
    among = sorted(artifact.id for artifact in made if artifact.id[0] == shared)
    assert all(id_[:16] in str(caught.value) for id_ in among[: artifacts.CANDIDATES_SHOWN])


def test_get_unknown(url: str) -> None:
    with pytest.raises(UnknownArtifact, match="no artifact has the id 'x'"):
        artifacts.get("x")


def test_alias_moves_and_remembers(imported: Import) -> None:
    first, second = imported("1"), imported("2")
    aliases.promote("nacl@champion", first.id, reason="first")
    aliases.promote("nacl@champion", second.id, reason="better")
    again = aliases.promote("nacl@champion", second.id, reason="run again")
    assert again.reason == "better"
    aliases.promote("nacl@champion", first.id, reason="back")
    aliases.promote("ice@champion", second.id, reason="other")
    assert aliases.resolve("nacl@champion") == first
    assert [(event.artifact_id, event.reason) for event in aliases.history("nacl@champion")] == [
        (first.id, "first"),
        (second.id, "better"),
        (first.id, "back"),
    ]
    assert [(alias.name, alias.artifact_id) for alias in aliases.all()] == [
        ("ice@champion", second.id),
        ("nacl@champion", first.id),
    ]
    assert aliases.all()[1] == aliases.history("nacl@champion")[-1]
    assert aliases.history("nobody@champion") == []


def test_alias_names_have_one_form(imported: Import) -> None:
    id_ = imported("1").id
    for name in ("nacl", "NaCl@champion", "nacl@", "@champion", "a@b@c", "-a@b", "a b@c", "a@b\n"):
        with pytest.raises(BadAlias):
            aliases.promote(name, id_, reason="test")
        with pytest.raises(BadAlias):
            aliases.resolve(name)
    assert aliases.all() == []


def test_alias_to_nothing_is_refused(url: str) -> None:
    with pytest.raises(UnknownArtifact, match=f"alias nacl@champion: no artifact has the id '{'0' * 64}'"):
        aliases.promote("nacl@champion", "0" * 64, reason="test")
    with pytest.raises(ProvenanceError, match="no alias 'nacl@champion'; known: none yet"):
        aliases.resolve("nacl@champion")
