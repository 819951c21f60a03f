import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from sqlalchemy import text

from db import aliases
from db.artifacts import Artifact
from db.engine import open_engine
from db.steps import Output, once
from db.store import store
from db.verification import Problem, verify

Import = Callable[..., Artifact]


def test_sound_store_has_no_problem(imported: Import) -> None:
    aliases.promote("nacl@labels", imported("1").id, reason="test")
    assert verify() == []


def test_changed_and_missing_files(imported: Import) -> None:
    sound, changed, missing = imported("1", "sound"), imported("2", "changed"), imported("3", "missing")
    path = store().path(changed.id)
    path.chmod(0o644)
    path.write_text("4")
    store().path(missing.id).unlink()
    found = [
        Problem(
            kind="changed",
            artifact_id=changed.id,
            detail=f"dataset 'changed': the bytes of {path} have changed",
        ),
        Problem(
            kind="missing", artifact_id=missing.id, detail="dataset 'missing': its file is not in the store"
        ),
    ]
    assert sorted(verify(), key=lambda problem: problem.kind) == found
    assert verify([sound.id]) == []
    assert verify(iter([changed.id, changed.id])) == found[:1]


def test_unknown_id(url: str) -> None:
    assert [(problem.kind, problem.artifact_id) for problem in verify(["0" * 64])] == [("unknown", "0" * 64)]


def test_pointers_to_nothing(url: str, imported: Import) -> None:
    labels = imported("1")

    def compute(work: Path) -> Mapping[str, Output]:
        (work / "out").write_text("2")
        return {"out": Output(path=work / "out", kind="file", name="out")}

    done = once("train", 1, {}, {"data": labels.id}, compute)
    aliases.promote("nacl@labels", labels.id, reason="test")
    # Damage from outside: no foreign keys in force.
    with open_engine(url, foreign_keys=False).begin() as connection:
        if url.startswith("postgresql"):
            connection.execute(text("SET session_replication_role = replica"))
        connection.execute(text("DELETE FROM artifact"))
    assert {(problem.kind, problem.artifact_id, problem.detail.split(":")[0]) for problem in verify()} == {
        ("dangling", labels.id, "alias nacl@labels"),
        ("dangling", labels.id, f"step {done.key[:12]}, data"),
        ("dangling", done.outputs["out"], f"step {done.key[:12]}, out"),
    }


def test_files_that_nothing_refers_to(imported: Import, tmp_path: Path) -> None:
    imported("1")
    (tmp_path / "file").write_text("of a step that was killed before it was recorded")
    orphan = store().put(tmp_path / "file", ".txt")
    half = store().root / "ab" / ("0" * 62 + ".txt")
    half.parent.mkdir(exist_ok=True)
    half.write_text("")
    cut_off = store().root / ".incoming" / "0123"
    cut_off.write_text("")
    (store().root / "ab" / "notes.txt").write_text("not the store's")
    assert verify() == []  # their rows may still come
    found = {problem.kind: problem for problem in verify(grace=timedelta(0))}
    assert {kind: problem.artifact_id for kind, problem in found.items()} == {
        "orphan": orphan,
        "half-written": "ab" + "0" * 62,
        "unfinished": "",
    }
    assert found["orphan"].detail == (
        f"{store().path(orphan)}: nothing on record refers to it; temper gc removes it"
    )
    assert verify([orphan], grace=timedelta(0))[0].kind == "unknown"
    os.utime(cut_off, (0, 0))
    assert [problem.kind for problem in verify()] == ["unfinished"]
