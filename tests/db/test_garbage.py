import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from db import aliases, artifacts, garbage, retractions
from db.artifacts import Artifact
from db.errors import UnknownArtifact
from db.garbage import EmptyRecord
from db.session import session
from db.settings import settings
from db.steps import Done, Output, once, step_key
from db.store import store
from db.tables import ArtifactRow, StepRow
from db.verification import verify

Import = Callable[..., Artifact]
Start = Callable[..., subprocess.Popen[str]]

LONG_AGO = datetime.now(UTC) - timedelta(days=3)


def make(name: str, inputs: Mapping[str, str | Sequence[str]]) -> Done:
    """Run a step that makes one file of its own name."""

    def compute(work: Path) -> Mapping[str, Output]:
        (work / "out").write_text(name)
        return {"out": Output(path=work / "out", kind="file", name=name)}

    return once(name, 1, {}, inputs, compute)


def age(*paths: Path) -> None:
    """Let files be three days old."""
    for path in paths:
        os.utime(path, (LONG_AGO.timestamp(), LONG_AGO.timestamp()))


def age_record() -> None:
    """Let all that is on record be three days old."""
    with session() as s:
        s.execute(update(ArtifactRow).values(created_at=LONG_AGO))
        s.execute(update(StepRow).values(started_at=LONG_AGO, finished_at=LONG_AGO))
    age(*(Path(file.location) for file in store().files()))


def orphan(tmp_path: Path, text: str = "orphan") -> Path:
    """A file in the store that nothing on record refers to, as a kill leaves it."""
    (tmp_path / "orphan.txt").write_text(text)
    return store().path(store().put(tmp_path / "orphan.txt", ".txt"))


def test_nothing_is_garbage_in_a_sound_store(imported: Import) -> None:
    make("train", {"data": imported("labels").id})
    found = garbage.find()
    assert (found.files, found.unfinished, found.folders, found.artifacts, found.steps) == (
        [],
        [],
        [],
        [],
        [],
    )
    assert (found.size, garbage.remove(found)) == (0, 0)


def test_old_files_without_a_row_go_and_young_ones_stay(imported: Import, tmp_path: Path) -> None:
    labels = imported("labels")
    old, young = orphan(tmp_path, "old"), orphan(tmp_path, "young")
    cut_off = store().root / ".incoming" / "half"
    cut_off.write_text("half")
    age(old, cut_off, store().path(labels.id))
    found = garbage.find()
    assert [file.location for file in found.files] == [str(old)]
    assert [file.location for file in found.unfinished] == [str(cut_off)]
    assert garbage.remove(found) == found.size == 7
    assert [path.exists() for path in (old, cut_off, young)] == [False, False, True]
    assert verify() == []
    assert [file.location for file in garbage.find(grace=timedelta(0)).files] == [str(young)]


def test_a_file_that_is_imported_after_it_was_shown_stays(imported: Import, tmp_path: Path) -> None:
    imported("labels")
    age(orphan(tmp_path))
    found = garbage.find()
    assert len(found.files) == 1
    late = imported("orphan")
    assert garbage.remove(found) == 0
    assert artifacts.path(late.id).read_text() == "orphan"


def test_a_file_whose_row_is_still_to_come_stays_though_it_was_shown(
    imported: Import, tmp_path: Path
) -> None:
    imported("labels")
    path = orphan(tmp_path)
    age(path)
    found = garbage.find()
    assert orphan(tmp_path) == path  # put again by a step that is about to record it
    assert garbage.remove(found) == 0
    assert path.exists()


def test_a_store_with_another_database_is_left_alone(url: str, tmp_path: Path) -> None:
    age(orphan(tmp_path))
    with pytest.raises(
        EmptyRecord, match="holds 1 files, but nothing is on record: check TEMPER_DATABASE_URL"
    ):
        garbage.find()


def test_scratch_folders_of_done_steps_and_of_abandoned_ones_go(imported: Import) -> None:
    done = make("train", {"data": imported("labels").id})

    def fail(work: Path) -> Mapping[str, Output]:
        (work / "deep").mkdir()
        (work / "deep" / "checkpoint").write_text("epoch 1")
        raise RuntimeError

    for kind in ("abandoned", "recent"):
        with pytest.raises(RuntimeError):
            once(kind, 1, {}, {}, fail)
    work = settings().work_root
    abandoned, recent = (work / step_key(kind, 1, {}, {}) for kind in ("abandoned", "recent"))
    age(abandoned / "deep" / "checkpoint", abandoned / "deep", abandoned)
    age(recent / "deep", recent)  # but not the checkpoint in it
    (work / done.key).mkdir()
    (work / "notes").mkdir()
    (work / f"{garbage.REMOVED}0").mkdir()
    age(work / "notes")
    found = garbage.find()
    assert {folder.path: folder.reason for folder in found.folders} == {
        work / done.key: "its step is done",
        work / f"{garbage.REMOVED}0": "its removal was cut off",
        abandoned: f"untouched since {LONG_AGO:%Y-%m-%d}",
    }
    garbage.remove(found)
    assert sorted(work.iterdir()) == sorted([recent, work / "notes"])


RUNNING = """
import sys, time
from pathlib import Path
from db.steps import Output, once

labels, go = sys.argv[1], Path(sys.argv[2])

def compute(work):
    (work / "checkpoint").write_text("epoch 1")
    print("computing", flush=True)
    while not go.exists():
        time.sleep(0.01)
    (work / "model").write_text((work / "checkpoint").read_text() + ", epoch 2")
    return {"model": Output(path=work / "model", kind="checkpoint", name="model")}

print(once("train", 1, {}, {"data": labels}, compute).outputs["model"], flush=True)
"""


def test_a_running_step_survives(imported: Import, process: Start, tmp_path: Path) -> None:
    labels = make("clean", {"raw": imported("raw").id}).outputs["out"]
    child = process(RUNNING, labels, str(tmp_path / "go"))
    assert child.stdout is not None
    assert child.stdout.readline() == "computing\n"
    age_record()
    (work,) = settings().work_root.iterdir()
    age(work / "checkpoint", work)
    found = garbage.find(unreachable=True)
    assert (found.folders, found.artifacts, found.steps) == ([], [], [])
    garbage.remove(found)
    (tmp_path / "go").touch()
    made = child.communicate()[0].strip()
    assert artifacts.path(made).read_text() == "epoch 1, epoch 2"
    assert verify(grace=timedelta(0)) == []


def test_a_step_that_is_started_after_its_folder_was_shown_keeps_it(
    imported: Import, process: Start, tmp_path: Path
) -> None:
    labels = imported("labels")
    work = settings().work_root / step_key("train", 1, {}, {"data": labels.id})
    work.mkdir(parents=True)
    (work / "checkpoint").touch()
    age(work / "checkpoint", work)
    found = garbage.find()
    assert [folder.path for folder in found.folders] == [work]
    child = process(RUNNING, labels.id, str(tmp_path / "go"))
    assert child.stdout is not None
    assert child.stdout.readline() == "computing\n"
    assert garbage.remove(found) == 0
    (tmp_path / "go").touch()
    assert len(child.communicate()[0].strip()) == 64
    assert child.returncode == 0


@pytest.fixture
def campaigns(imported: Import) -> dict[str, str]:
    """One campaign that promoted its student, one that came to nothing, and one of today; ids by name."""
    ids = {"labels": imported("labels").id, "lost labels": imported("lost labels", "lost").id}
    ids["teacher"] = make("teacher", {"data": ids["labels"]}).outputs["out"]
    ids["student"] = make("student", {"teacher": ids["teacher"]}).outputs["out"]
    ids["lost"] = make("lost", {"data": [ids["lost labels"], ids["labels"]]}).outputs["out"]
    aliases.promote("nacl@engine", ids["student"], reason="test")
    age_record()
    ids["today"] = make("today", {"data": ids["labels"]}).outputs["out"]
    return ids


def test_what_no_alias_rests_on_goes_only_when_asked(campaigns: dict[str, str]) -> None:
    assert garbage.find().size == 0
    found = garbage.find(unreachable=True)
    assert {artifact.id for artifact in found.artifacts} == {campaigns["lost"], campaigns["lost labels"]}
    assert len(found.steps) == 1
    assert garbage.remove(found) == found.size == len("lost") + len("lost labels")
    assert verify(grace=timedelta(0)) == []
    with pytest.raises(UnknownArtifact):
        artifacts.get(campaigns["lost"])
    with session(read_only=True) as s:
        assert set(s.scalars(select(StepRow.kind))) == {"teacher", "student", "today"}
    assert make("student", {"teacher": campaigns["teacher"]}).reused
    assert garbage.find(unreachable=True).size == 0


def test_what_an_alias_stood_for_once_and_what_was_retracted_stay(campaigns: dict[str, str]) -> None:
    aliases.promote("nacl@engine", campaigns["today"], reason="better")
    retractions.retract(campaigns["lost labels"], "wrong charges")
    assert [a.id for a in garbage.find(unreachable=True).artifacts] == [campaigns["lost"]]


def test_what_comes_into_use_after_it_was_shown_stays(campaigns: dict[str, str]) -> None:
    found = garbage.find(unreachable=True)
    used = make("new", {"data": campaigns["lost"]})
    assert garbage.remove(found) == 0
    assert make("lost", {"data": [campaigns["lost labels"], campaigns["labels"]]}).reused
    assert artifacts.path(used.outputs["out"]).exists()
    assert verify(grace=timedelta(0)) == []


def test_a_step_that_remade_what_is_kept_goes_without_it(imported: Import) -> None:
    labels, other = imported("labels"), imported("other", "other")
    kept = make("clean", {"data": labels.id}).outputs["out"]

    def same(work: Path) -> Mapping[str, Output]:
        (work / "out").write_text("clean")
        return {"out": Output(path=work / "out", kind="file", name="again")}

    again = once("filter", 1, {}, {"data": other.id}, same)
    assert again.outputs == {"out": kept}
    aliases.promote("nacl@labels", kept, reason="test")
    age_record()
    found = garbage.find(unreachable=True)
    assert [artifact.id for artifact in found.artifacts] == [other.id]
    assert found.steps == [again.key]
    garbage.remove(found)
    assert artifacts.path(kept).read_text() == "clean"
    assert verify(grace=timedelta(0)) == []
