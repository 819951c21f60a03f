"""The choice among candidates."""

from collections.abc import Callable

from tasks.validation import rank


def test_the_winner_is_best_at_its_best_epoch(recorded_json: Callable[..., str]) -> None:
    def history(best: float, *forces: float) -> str:
        # Evaluated twice in each epoch.
        rows = [{"epoch": 0.5 * k, "target_forces_mae": f} for k, f in enumerate(forces)]
        return recorded_json({"best_epoch": best, "epochs": rows})

    # The last epoch of the first and the lowest one of the third are not what would be promoted.
    histories = {
        "naive": history(0, 30.0, 10.0),
        "replay": history(0.5, 40.0, 20.0),
        "lora": history(0, 50.0, 5.0),
    }
    assert rank.fn(histories) == "replay"
