"""What is said while a child works."""

from tasks.progress import epochs, steps


def test_an_epoch_is_a_share_and_a_line() -> None:
    share, line = epochs(4)(
        {"epoch": 1, "target_forces_mae": 80.04, "replay_forces_mae": 12.3, "seconds": 5.0}
    )
    assert share == 0.25
    assert line == "epoch 1/4, target forces 80.0 meV/Å, replay 12.3 meV/Å, 15 s to go"


def test_the_last_epoch_has_nothing_to_go() -> None:
    share, line = epochs(4)({"epoch": 4, "target_forces_mae": 80.0, "seconds": 20.0})
    assert (share, line) == (1.0, "epoch 4/4, target forces 80.0 meV/Å")


def test_a_simulation_says_its_step_and_its_replicas() -> None:
    assert steps({"step": 5, "steps": 20, "running": 3}) == (0.25, "step 5/20, 3 replicas running")
