"""Steps in one process; see ``test_steps_processes.py`` for several."""

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from threading import Barrier, Thread

import pytest
from sqlalchemy import select

from db import artifacts
from db.artifacts import Artifact
from db.errors import MissingFile, NotCanonical, UnknownArtifact
from db.leases import is_gone, new_owner
from db.session import now, session
from db.settings import settings
from db.steps import Done, Output, once
from db.store import store
from db.tables import StepRow, UsedRow

Import = Callable[..., Artifact]
Compute = Callable[[Path], Mapping[str, Output]]


def write(text: str, calls: list[str] | None = None) -> Compute:
    """A computation that writes one file; ``calls`` grows each time it runs."""

    def compute(work: Path) -> Mapping[str, Output]:
        if calls is not None:
            calls.append(text)
        path = work / "model.txt"
        path.write_text(text)
        return {"model": Output(path=path, kind="checkpoint", name=text, metadata={"epochs": 3})}

    return compute


def row(key: str) -> StepRow:
    with session(read_only=True) as s:
        return s.get_one(StepRow, key)


def text_of(done: Done) -> str:
    return artifacts.path(done.outputs["model"]).read_text()


def test_computed_once_and_recorded(imported: Import) -> None:
    labels, replay = imported("labels"), imported("replay")
    calls: list[str] = []

    def train(**more: str) -> Done:
        inputs = {"data": [labels.id, replay.id], "start": labels.id}
        return once("train", 2, {"lr": 0.01}, inputs, write("weights", calls), seed=7, **more)

    first, again = train(flow_run_id="run-1"), train(flow_run_id="run-2")
    assert calls == ["weights"]
    assert (first.reused, again.reused) == (False, True)
    assert (again.key, again.outputs, again.seconds) == (first.key, first.outputs, first.seconds)
    made = artifacts.get(first.outputs["model"])
    assert (made.kind, made.name, made.size, made.metadata) == ("checkpoint", "weights", 7, {"epochs": 3})
    assert text_of(first) == "weights"
    step = row(first.key)
    assert (step.kind, step.version, step.parameters, step.seed) == ("train", 2, {"lr": 0.01}, 7)
    assert (step.status, step.attempt, step.error, step.flow_run_id) == ("done", 1, None, "run-1")
    assert (step.lease_owner, step.lease_until) == (None, None)
    assert step.finished_at is not None
    assert step.started_at <= step.finished_at
    assert step.software["sqlalchemy"] == version("sqlalchemy")
    with session(read_only=True) as s:
        edges = s.scalars(select(UsedRow).order_by(UsedRow.role, UsedRow.position)).all()
    assert [(edge.role, edge.position, edge.artifact_id) for edge in edges] == [
        ("data", 0, labels.id),
        ("data", 1, replay.id),
        ("start", 0, labels.id),
    ]
    assert not (settings().work_root / first.key).exists()


def test_another_seed_is_another_step(url: str) -> None:
    one, two = (once("train", 1, {}, {}, write(f"weights {seed}"), seed=seed) for seed in (1, 2))
    assert text_of(one) != text_of(two)


def test_threads_of_one_process_compute_once(url: str) -> None:
    calls: list[str] = []
    results: list[Done] = []
    together = Barrier(6)

    def ask() -> None:
        together.wait()
        results.append(once("train", 1, {}, {}, write("weights", calls)))

    threads = [Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["weights"]
    assert sorted(done.reused for done in results) == [False] + [True] * 5
    assert len({done.outputs["model"] for done in results}) == 1


def test_failure_is_recorded_and_retried_in_the_same_folder(url: str) -> None:
    def fail(work: Path) -> Mapping[str, Output]:
        (work / "checkpoint").write_text("epoch 1")
        raise RuntimeError("diverged\0at epoch 2")

    with pytest.raises(RuntimeError, match="diverged"):
        once("train", 1, {}, {}, fail)
    with session(read_only=True) as s:
        step = s.scalars(select(StepRow)).one()
    assert (step.status, step.attempt, step.lease_owner) == ("failed", 1, None)
    assert step.error is not None
    assert "in fail" in step.error
    assert step.error.endswith("RuntimeError: divergedat epoch 2\n")

    def resume(work: Path) -> Mapping[str, Output]:
        assert (work / "checkpoint").read_text() == "epoch 1"
        return write("weights")(work)

    done = once("train", 1, {}, {}, resume)
    assert (row(done.key).status, row(done.key).attempt, row(done.key).error) == ("done", 2, None)


class Terminated(BaseException):
    """Stands for what a scheduler raises on SIGTERM."""


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, Terminated])
def test_interruption_frees_the_step(url: str, interruption: type[BaseException]) -> None:
    def interrupted(work: Path) -> Mapping[str, Output]:
        raise interruption

    with pytest.raises(interruption):
        once("train", 1, {}, {}, interrupted)
    with session(read_only=True) as s:
        step = s.scalars(select(StepRow)).one()
    assert (step.status, step.error, step.lease_owner) == ("failed", "interrupted", None)
    assert not once("train", 1, {}, {}, write("weights")).reused


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (Output(path=Path("absent"), kind="", name=""), MissingFile, "output model should be at absent"),
        (
            Output(path=Path(__file__), kind="", name="", metadata={"mae": float("nan")}),
            NotCanonical,
            "metadata of output model.mae is nan",
        ),
    ],
)
def test_bad_output_fails_the_step(url: str, output: Output, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        once("train", 1, {}, {}, lambda work: {"model": output})
    with session(read_only=True) as s:
        assert s.scalars(select(StepRow.status)).all() == ["failed"]


def test_unknown_input_is_refused_before_computing(imported: Import) -> None:
    calls: list[str] = []
    with pytest.raises(UnknownArtifact, match=f"its input replay '{'0' * 64}' is not on record"):
        once("train", 1, {}, {"data": imported("1").id, "replay": ["0" * 64]}, write("weights", calls))
    with session(read_only=True) as s:
        assert s.scalars(select(StepRow)).all() == []
    assert calls == []


@pytest.mark.parametrize("second", ["weights", "other weights"])
def test_lost_files_are_computed_again(url: str, second: str, caplog: pytest.LogCaptureFixture) -> None:
    first = once("train", 1, {}, {}, write("weights"))
    store().path(first.outputs["model"]).unlink()
    again = once("train", 1, {}, {}, write(second))
    assert not again.reused
    assert text_of(again) == second
    assert row(first.key).attempt == 2
    assert ("bytes differ" in caplog.text) == (second != "weights")
    assert once("train", 1, {}, {}, write("never")).outputs == again.outputs
    assert artifacts.get(first.outputs["model"]).name == "weights"  # the old one stays on record


def test_left_scratch_folder_of_a_finished_step_is_removed(url: str) -> None:
    done = once("train", 1, {}, {}, write("weights"))
    work = settings().work_root / done.key
    work.mkdir()
    once("train", 1, {}, {}, write("weights"))
    assert not work.exists()


def hand_over(key: str, owner: str, seconds: float) -> None:
    """Give the lease of a step to ``owner`` for so many seconds from now."""
    with session() as s:
        step = s.get_one(StepRow, key)
        step.status, step.lease_owner, step.lease_until = (
            "running",
            owner,
            now(s) + timedelta(seconds=seconds),
        )


def test_lease_of_another_host_is_waited_for_until_it_runs_out(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(SystemExit):
        once("train", 1, {}, {}, lambda work: sys.exit())
    with session(read_only=True) as s:
        key = s.scalars(select(StepRow.key)).one()
    hand_over(key, "elsewhere/1/0.0/x", 0.5)
    done = once("train", 1, {}, {}, write("weights"))
    assert not done.reused
    assert row(key).attempt == 2
    assert "waiting for elsewhere/1/0.0/x" in caplog.text


@pytest.mark.parametrize("late", ["finishes", "fails"])
def test_late_finisher_gets_the_result_on_record(url: str, tmp_path: Path, late: str) -> None:
    results: list[Done] = []

    def suspended(work: Path) -> Mapping[str, Output]:
        # As after a suspended laptop wakes up: the lease ran out and another caller took over and finished.
        hand_over(work.name, "elsewhere/1/0.0/x", -1.0)
        results.append(once("train", 1, {}, {}, write("the other's")))
        if late == "fails":
            raise FileNotFoundError("scratch folder is gone")
        return write("mine")(tmp_path)

    done = once("train", 1, {}, {}, suspended)
    assert text_of(done) == "the other's"
    assert done.reused
    assert done.outputs == results[0].outputs
    assert (row(done.key).status, row(done.key).attempt) == ("done", 2)


def test_interruption_after_the_lease_was_lost_is_not_swallowed(url: str) -> None:
    def suspended(work: Path) -> Mapping[str, Output]:
        hand_over(work.name, "elsewhere/1/0.0/x", -1.0)
        once("train", 1, {}, {}, write("the other's"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once("train", 1, {}, {}, suspended)
    assert text_of(once("train", 1, {}, {}, write("never"))) == "the other's"


def test_lease_is_renewed_while_computing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_LEASE_SECONDS", "0.3")
    seen = []

    def slow(work: Path) -> Mapping[str, Output]:
        first = row(work.name).lease_until
        while (later := row(work.name).lease_until) == first:
            pass
        seen.append((first, later))
        return write("weights")(work)

    once("train", 1, {}, {}, slow)
    [(first, later)] = seen
    assert first is not None
    assert later is not None
    assert later > first


def test_only_a_process_seen_to_be_dead_is_gone() -> None:
    place, pid, start, unique = new_owner().rsplit("/", 3)
    assert not is_gone(f"{place}/{pid}/{start}/{unique}")
    assert is_gone(f"{place}/{pid}/{float(start) - 100:.2f}/{unique}")  # its number was given to another
    assert not is_gone(f"elsewhere/{pid}/0.0/{unique}")
