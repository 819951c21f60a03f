from collections.abc import Callable, Mapping
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
