import hashlib
import io
import json
import random
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import func, select

from db import aliases, artifacts, retractions
from db.archives import BadArchive, pull, push
from db.artifacts import Artifact
from db.canonical import canonical
from db.errors import ConflictingMetadata, MissingFile, UnknownArtifact
from db.lineage import ancestors
from db.session import session
from db.steps import Done, Output, once
from db.store import DamagedFile, store
from db.tables import AliasEventRow, ArtifactRow, GeneratedRow, RetractionEventRow, StepRow, UsedRow
from db.transfer import ConflictingRecords, UnfinishedStep
from db.verification import verify

Import = Callable[..., Artifact]
TABLES = (ArtifactRow, StepRow, UsedRow, GeneratedRow, AliasEventRow, RetractionEventRow)


def make(name: str, inputs: Mapping[str, str | Sequence[str]], text: str = "") -> Done:
    """Run a step that makes two files."""

    def compute(work: Path) -> Mapping[str, Output]:
        (work / "model.txt").write_text(text or name)
        (work / "log.json").write_text(f"log of {text or name}")
        return {
            "model": Output(path=work / "model.txt", kind="checkpoint", name=name, metadata={"mae": 0.1}),
            "log": Output(path=work / "log.json", kind="history", name=name),
        }

    return once(name, 1, {"lr": 0.01, "layers": [1, 2.0]}, inputs, compute, seed=3)


@pytest.fixture
def student(imported: Import) -> Done:
    """A student of a teacher of labels, promoted; beside it something that does not belong to it."""
    labels = imported("labels", licence="CC0-1.0")
    teacher = make("teacher", {"data": [labels.id]})
    student = make("student", {"teacher": teacher.outputs["model"], "data": labels.id})
    make("unrelated", {"data": labels.id})
    aliases.promote("nacl@engine", student.outputs["model"], reason="3.4 times faster")
    return student


@pytest.fixture
def archive(student: Done, tmp_path: Path) -> Path:
    """The student and all behind it."""
    file = tmp_path / "nacl.tar"
    push([student.outputs["model"]], file)
    return file


@pytest.fixture
def elsewhere(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Go to another, empty home with a database of the same kind, or of the kind that is given."""

    def go(kind: str = url.partition("://")[0]) -> None:
        home = tmp_path / uuid4().hex
        address = f"sqlite:///{home}/temper.db"
        if kind.startswith("postgresql"):
            socket = url.rpartition("host=")[2]
            with psycopg.connect(host=socket, user="postgres", dbname="postgres", autocommit=True) as admin:
                admin.execute(f"CREATE DATABASE temper_{home.name}")
            address = f"postgresql://postgres@/temper_{home.name}?host={socket}"
        monkeypatch.setenv("TEMPER_HOME", str(home))
        monkeypatch.setenv("TEMPER_DATABASE_URL", address)

    return go


Elsewhere = Callable[..., None]


def counts() -> list[int]:
    """How many rows each table has, and how many files the store."""
    with session(read_only=True) as s:
        rows = [s.scalar(select(func.count()).select_from(table)) or 0 for table in TABLES]
    return [*rows, len(list(store().files()))]


def test_a_pulled_campaign_is_the_same_and_counts_as_done(
    archive: Path, student: Done, elsewhere: Elsewhere
) -> None:
    before = ancestors(student.outputs["model"])
    elsewhere()
    entered = pull(archive)
    assert (entered.artifacts, entered.steps, entered.aliases) == (5, 2, ["nacl@engine"])
    assert verify() == []
    assert ancestors(student.outputs["model"]) == before
    (labels,) = (a for a in before.artifacts.values() if a.kind == "dataset")
    teacher = make("teacher", {"data": labels.id})
    again = make("student", {"teacher": teacher.outputs["model"], "data": labels.id})
    assert (teacher.reused, again.reused) == (True, True)
    assert again.outputs == student.outputs
    (alias,) = aliases.history("nacl@engine")
    assert alias.reason.startswith("3.4 times faster (pulled; set there on 20")


def test_pulling_into_the_store_it_comes_from_changes_nothing(archive: Path) -> None:
    before = counts()
    entered = pull(archive)
    assert (entered.artifacts, entered.steps, entered.aliases) == (0, 0, [])
    assert counts() == before


def test_from_one_kind_of_database_to_another(archive: Path, student: Done, elsewhere: Elsewhere) -> None:
    """With a row of every kind."""
    elsewhere("sqlite")
    pull(archive)
    retractions.retract(student.outputs["log"], "cut short")
    again = archive.with_name("again.tar")
    push([student.outputs["model"]], again)
    elsewhere()
    assert pull(again).steps == 2
    before = counts()
    pull(again)
    assert counts() == before
    assert retractions.tainted(student.outputs["log"]) is not None
    retractions.reinstate(student.outputs["log"])
    pull(again)
    assert retractions.tainted(student.outputs["log"]) is None


def test_the_same_record_gives_the_same_bytes(archive: Path, student: Done) -> None:
    again = archive.with_name("again.tar")
    pushed = push(list(student.outputs.values()), again)
    assert again.read_bytes() == archive.read_bytes()
    assert (pushed.artifacts, pushed.steps, pushed.aliases) == (5, 2, ["nacl@engine"])
    assert pushed.size == again.stat().st_size


def test_an_archive_is_an_ordinary_tar(archive: Path, student: Done) -> None:
    with tarfile.open(archive) as tar:
        first, *files = tar.getmembers()
        assert first.name == "manifest.json"
        for member in files:
            bytes_ = tar.extractfile(member)
            assert bytes_ is not None
            assert member.name == f"files/{hashlib.sha256(bytes_.read()).hexdigest()}"
    assert len(files) == 5


def test_what_cannot_be_pushed(student: Done, imported: Import, archive: Path) -> None:
    with pytest.raises(BadArchive, match=r"nacl\.tar is there already"):
        push([student.outputs["model"]], archive)
    with pytest.raises(UnknownArtifact):
        push(["0" * 64], archive.with_name("new.tar"))
    with pytest.raises(BadArchive, match="cannot be written: No such file or directory"):
        push([student.outputs["model"]], archive.parent / "absent" / "new.tar")
    path = store().path(student.outputs["log"])
    path.chmod(0o644)
    path.write_text("changed")
    with pytest.raises(DamagedFile, match=r"history 'student' \(\w+\): the bytes of .* have changed: remove"):
        push([student.outputs["model"]], archive.with_name("new.tar"))
    path.unlink()
    with pytest.raises(MissingFile, match="has no file"):
        push([student.outputs["model"]], archive.with_name("new.tar"))
    labels = next(a for a in ancestors(student.outputs["model"]).artifacts.values() if a.kind == "dataset")
    teacher = make("teacher", {"data": labels.id})

    def fail(work: Path) -> Mapping[str, Output]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        once(
            "student",
            1,
            {"lr": 0.01, "layers": [1, 2.0]},
            {"teacher": teacher.outputs["model"], "data": labels.id},
            fail,
            seed=3,
        )
    with pytest.raises(UnfinishedStep, match=r"step student .* is on record as failed"):
        push([student.outputs["model"]], archive.with_name("new.tar"))
    assert sorted(file.name for file in archive.parent.glob("*.tar*")) == ["nacl.tar"]


def test_a_file_that_left_the_store_comes_back(archive: Path, student: Done) -> None:
    store().path(student.outputs["model"]).unlink()
    pull(archive)
    assert verify() == []


def test_a_failed_step_becomes_done(
    archive: Path, student: Done, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    elsewhere()
    (tmp_path / "labels.txt").write_text("labels")
    labels = artifacts.import_file(tmp_path / "labels.txt", "dataset", "labels", {"units": "eV"})

    def fail(work: Path) -> Mapping[str, Output]:
        raise RuntimeError

    parameters = {"lr": 0.01, "layers": [1, 2.0]}
    with pytest.raises(RuntimeError):
        once("teacher", 1, parameters, {"data": labels.id}, fail, seed=3)
    entered = pull(archive)
    assert (entered.artifacts, entered.steps) == (4, 2)
    assert make("teacher", {"data": labels.id}).reused
    assert artifacts.get(labels.id).metadata == {"units": "eV", "licence": "CC0-1.0"}


def test_a_step_that_made_something_else_here_is_named(
    archive: Path, student: Done, elsewhere: Elsewhere, imported: Import
) -> None:
    elsewhere()
    make("teacher", {"data": imported("labels").id}, text="other")
    before = counts()
    with pytest.raises(ConflictingRecords, match=r"step teacher [0-9a-f]{12} made another log, model here"):
        pull(archive, "replace")
    assert counts() == before


def test_an_import_with_other_metadata_is_named(
    archive: Path, elsewhere: Elsewhere, imported: Import
) -> None:
    elsewhere()
    imported("labels", licence="MIT")
    before = counts()
    with pytest.raises(ConflictingMetadata, match=r"licence='MIT' here and with licence='CC0-1.0' there"):
        pull(archive)
    assert counts() == before


def test_an_alias_that_stands_for_something_else_is_kept_or_replaced(
    archive: Path, student: Done, elsewhere: Elsewhere, imported: Import
) -> None:
    elsewhere()
    mine = imported("mine", "mine")
    aliases.promote("nacl@engine", mine.id, reason="first")
    before = counts()
    message = rf"nacl@engine stands for {mine.id[:12]} here and for {student.outputs['model'][:12]} there"
    with pytest.raises(ConflictingRecords, match=message):
        pull(archive)
    assert counts() == before
    assert pull(archive, "keep").kept == ["nacl@engine"]
    assert aliases.resolve("nacl@engine").id == mine.id
    assert pull(archive, "replace").aliases == ["nacl@engine"]
    assert aliases.resolve("nacl@engine").id == student.outputs["model"]
    assert len(aliases.history("nacl@engine")) == 2


def test_a_retraction_travels_and_blocks_the_alias(
    student: Done, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    (labels,) = (a for a in ancestors(student.outputs["model"]).artifacts.values() if a.kind == "dataset")
    retractions.retract(labels.id, "wrong charges")
    push([student.outputs["model"]], tmp_path / "nacl.tar")
    elsewhere()
    entered = pull(tmp_path / "nacl.tar")
    assert entered.aliases == []
    assert "wrong charges" in entered.blocked["nacl@engine"]
    assert retractions.tainted(student.outputs["model"]) is not None
    assert aliases.all() == []


def refused(file: Path, message: str) -> None:
    """Pulling ends in this error, and leaves no row and no file."""
    before = counts()
    with pytest.raises(BadArchive, match=message) as caught:
        pull(file)
    assert "\n" not in str(caught.value)
    assert counts() == before
    assert list(store().unfinished()) == []


def rewritten(
    archive: Path,
    change: Callable[[dict[str, Any]], object] = lambda manifest: None,
    members: Callable[[list[tuple[tarfile.TarInfo, bytes]]], object] = lambda members: None,
    *,
    sign: bool = True,
) -> Path:
    """A copy of an archive with another manifest or other members."""
    with tarfile.open(archive) as tar:
        parts = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    manifest = json.loads(parts[0][1])
    change(manifest)
    if sign:
        manifest["sha256"] = hashlib.sha256(canonical(manifest["record"]).encode()).hexdigest()
    text = json.dumps(manifest).encode()
    parts[0][0].size = len(text)
    parts[0] = (parts[0][0], text)
    members(parts)
    file = archive.with_name(f"{uuid4().hex}.tar")
    with tarfile.open(file, "w") as tar:
        for member, bytes_ in parts:
            tar.addfile(member, io.BytesIO(bytes_))
    return file


def test_a_rewritten_archive_without_changes_is_taken(archive: Path, elsewhere: Elsewhere) -> None:
    elsewhere()
    assert pull(rewritten(archive)).artifacts == 5


def test_a_newer_format_is_refused(archive: Path, elsewhere: Elsewhere) -> None:
    elsewhere()
    newer = rewritten(archive, lambda manifest: manifest.update(format=2))
    refused(newer, r"has format 2, this Temper reads 1: upgrade Temper")


def record(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: change(manifest["record"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            record(lambda r: r["artifacts"][0].update(suffix="./../../x")),
            r"artifacts\.0\.suffix: String should",
        ),
        (record(lambda r: r["artifacts"][0].update(id="../" * 21 + "x")), r"artifacts\.0\.id: String should"),
        (record(lambda r: r["aliases"][0].update(name="../engine")), r"aliases\.0\.name: String should"),
        (record(lambda r: r["artifacts"].pop()), "it refers to .* which it does not list"),
        (record(lambda r: r["steps"].pop()), "it refers to .* which it does not list"),
        (record(lambda r: r["steps"].append(r["steps"][0])), "it lists something twice"),
        (record(lambda r: r["artifacts"][0].update(size=1 << 40)), "the bytes of .* have changed"),
        (record(lambda r: r.update(more=1)), "more: Extra inputs"),
        (lambda m: m.pop("record") and m.update(record=float("nan")), "cannot be read"),
    ],
)
def test_a_wrong_manifest_is_refused(
    archive: Path, elsewhere: Elsewhere, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    elsewhere()
    sign = message != "cannot be read"
    refused(rewritten(archive, change, sign=sign), message)


def test_a_manifest_that_was_edited_is_refused(archive: Path, elsewhere: Elsewhere) -> None:
    elsewhere()
    better = record(lambda r: r["artifacts"][0].update(metadata={"mae": 0.01}))
    refused(rewritten(archive, better, sign=False), r"its manifest\.json has changed")


def extra(
    name: str, type_: bytes = tarfile.REGTYPE
) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = type_, "/etc/passwd"
    return lambda members: members.append((member, b""))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (extra("../../outside"), r"holds '\.\./\.\./outside', which its manifest\.json does not list"),
        (extra("/outside", tarfile.SYMTYPE), "holds '/outside'"),
        (lambda members: members.append(members[1]), "holds something twice"),
        (lambda members: members.reverse(), r"does not begin with manifest\.json"),
        (lambda members: members.pop(), "it lacks .*; get it again"),
        (
            lambda members: members.append((members[-1][0], members.pop()[1][::-1])),
            "have changed; get it again",
        ),
        (
            lambda members: extra(members.pop()[0].name, tarfile.SYMTYPE)(members),
            "have changed; get it again",
        ),
    ],
)
def test_other_members_are_refused(
    archive: Path, elsewhere: Elsewhere, members: Callable[[list[Any]], object], message: str
) -> None:
    elsewhere()
    refused(rewritten(archive, members=members), message)
    assert not (archive.parent / "outside").exists()


def test_what_is_no_archive_is_refused(elsewhere: Elsewhere, tmp_path: Path) -> None:
    elsewhere()
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("labels\n" * 1000)
    with tarfile.open(tmp_path / "other", "w") as tar:
        tar.add(tmp_path / "text", "text")
    refused(tmp_path / "absent", "cannot be read as an archive: No such file or directory")
    refused(tmp_path, "cannot be read as an archive: Is a directory")
    refused(tmp_path / "empty", "cannot be read as an archive")
    refused(tmp_path / "text", "cannot be read as an archive")
    refused(tmp_path / "other", "is not an archive of Temper")


def test_damage_anywhere_is_refused(archive: Path, elsewhere: Elsewhere) -> None:
    elsewhere()
    whole = archive.read_bytes()
    with tarfile.open(archive) as tar:  # some bits of its own headers mean nothing
        places = [place for m in tar for place in range(m.offset_data, m.offset_data + m.size)]
    damaged = archive.with_name("damaged.tar")
    chosen = random.Random(0)
    for place in chosen.sample(places, 100):
        bytes_ = bytearray(whole)
        bytes_[place] ^= 1 << chosen.randrange(8)
        damaged.write_bytes(bytes_)
        refused(damaged, re.escape(str(damaged)))
    for place in chosen.sample(places, 30):
        damaged.write_bytes(whole[:place])
        refused(damaged, re.escape(str(damaged)))
