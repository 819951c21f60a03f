"""What is said while a child works."""

import pytest
from prefect.artifacts import create_markdown_artifact
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks.display import display
from tasks.progress import epochs, steps

ROW = {
    "epoch": 1, "loss": 0.123456, "learning_rate": 1e-3, "target_forces_mae": 80.04,
    "target_energy_per_atom_mae": 2.0, "replay_forces_mae": 12.3, "updates": 7, "seconds": 5.0,
    "structures_per_s": 41.23, "seconds_left": 15.0, "gpu_memory_gb": 3.14,
}  # fmt: skip


def test_an_evaluation_is_a_share_and_a_line() -> None:
    share, line = epochs(4)(ROW)
    assert share == 0.25
    assert line == (
        "epoch 1/4, loss 0.123 at rate 0.001, target 80.0 meV/Å and 2.0 meV/atom, replay 12.3 meV/Å, "
        "41.2 structures/s, 3.1 GB on the GPU, 15 s to go"
    )


def test_before_training_there_are_errors_alone() -> None:
    row = {"epoch": 0, "loss": 0.0, "learning_rate": 1e-3, "target_forces_mae": 80.0, "seconds": 0.1}
    assert epochs(4)(row) == (0.0, "epoch 0/4, target 80.0 meV/Å")


def test_a_training_that_stops_early_is_done() -> None:
    share, line = epochs(4)({**ROW, "epoch": 2.25, "seconds_left": 0.0})
    assert share == 1.0
    assert line.startswith("epoch 2.25/4, ")
    assert "to go" not in line


def test_a_simulation_says_its_step_and_its_replicas() -> None:
    assert steps({"step": 5, "steps": 20, "running": 3}) == (0.25, "step 5/20, 3 replicas running")


def test_a_server_that_is_gone_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    nobody_listens = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(nobody_listens):
        assert display(create_markdown_artifact, "text", key="text") is None
    (warning,) = (record for record in caplog.records if record.name == "tasks.display")
    assert "the work goes on" in warning.message
