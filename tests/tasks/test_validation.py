"""The choice among candidates."""

from collections.abc import Callable

from tasks.validation import rank


def test_the_winner_is_best_at_its_best_epoch(recorded_json: Callable[..., str]) -> None:
    def history(best: int, *forces: float) -> str:
        return recorded_json({"best_epoch": best, "epochs": [{"target_forces_mae": f} for f in forces]})

    # The last epoch of the first and the lowest one of the third are not what would be promoted.
    histories = {
        "naive": history(0, 30.0, 10.0),
        "replay": history(1, 40.0, 20.0),
        "lora": history(0, 50.0, 5.0),
    }
    assert rank.fn(histories) == "replay"
