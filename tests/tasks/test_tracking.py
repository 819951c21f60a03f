"""Rows of a training in TensorBoard, Weights & Biases and MLflow, read back by their own libraries."""

import logging
import os
import sys
import threading
from pathlib import Path

import pytest

from tasks.tracking import tracked
from waiting import until

ROWS = [
    {"epoch": 0, "loss": 0.0, "target_forces_mae": 80.0, "updates": 0},
    {"epoch": 1, "loss": 0.25, "target_forces_mae": 40.0, "updates": 7},
]
PARAMETERS = {"kind": "naive", "optimisation": {"epochs": 1}}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def track(rows: list[dict[str, float]], run_id: str = "0123456789abcdef") -> None:
    with tracked("salt-naive", run_id, PARAMETERS) as show:
        for row in rows:
            show(row)


def test_nothing_is_tracked_or_imported_unless_asked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEMPER_TRACKERS", raising=False)
    track(ROWS)
    assert not home.exists()


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow"])
def test_a_library_that_is_missing_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_TRACKERS", kind)
    monkeypatch.setitem(sys.modules, kind, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(RuntimeError, match=rf"asks for {kind}, .*install temper-mlip\[tracking\]"):
        track(ROWS)


def test_tensorboard_shows_every_row(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TEMPER_TRACKERS", "tensorboard")
    track(ROWS[:1])
    track(ROWS[1:])  # resumed: the same run
    events = EventAccumulator(str(home / "tensorboard" / "salt-naive-01234567"))
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("target_forces_mae")]
    assert seen == [(0, 80.0), (7, 40.0)]


def test_wandb_keeps_every_row_offline(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("TEMPER_TRACKERS", "wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    threads = [threading.Thread(target=track, args=(ROWS, name)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logs = list(home.glob("wandb/offline-run-*/run-*.wandb"))
    assert {log.stem for log in logs} == {"run-one", "run-two"}
    # Its service writes on for a moment.
    until(lambda: all(b"target_forces_mae" in log.read_bytes() for log in logs), "rows are missing")


def test_mlflow_goes_on_with_the_same_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("TEMPER_TRACKERS", "mlflow")

    def interrupted() -> None:
        with tracked("salt-naive", "abc", PARAMETERS) as show:
            show(ROWS[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    track(ROWS[1:], "abc")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("temper").experiment_id])
    assert run.info.run_name == "salt-naive"
    assert run.info.status == "FINISHED"
    seen = client.get_metric_history(run.info.run_id, "target_forces_mae")
    assert [(metric.step, metric.value) for metric in seen] == [(0, 80.0), (7, 40.0)]


def test_a_tracker_that_fails_does_not_end_the_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TEMPER_TRACKERS", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    with caplog.at_level(logging.WARNING):
        track(ROWS)
    assert caplog.text.count("tensorboard no longer tracks salt-naive: no space left on device") == 1
