import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.training_state import ResumeError, StateFile, TrainingState, read, uninterrupted

SOME = TrainingState(
    rate=1e-3, epoch=2, position=3, done=2.4, updates=17, loss=0.1 + 0.2, losses=3, lows={"target": 41.5},
    stale=1, best_epoch=1, best_weights={"weight": torch.rand(2)}, history=[{"epoch": 0}], seconds=4.5,
)  # fmt: skip


class Training:
    """A layer, its optimiser after a step, and where their state is saved."""

    def __init__(self, path: Path | None, *, seed: int = 0, rate: float = 0.1, writes: bool = True) -> None:
        torch.manual_seed(seed)
        self.layer = torch.nn.Linear(3, 3)
        self.optimiser = torch.optim.AdamW(self.layer.parameters())
        self.layer(torch.rand(3)).sum().backward()
        self.optimiser.step()
        parts = {"network": self.layer, "optimiser": self.optimiser}
        identity = {"rate": rate, "network and data": "abc"}
        self.file = StateFile(path, identity, parts, every_seconds=3600.0, writes=writes)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_everything_comes_back(tmp_path: Path) -> None:
    first, second = Training(tmp_path / "state.pt"), Training(tmp_path / "state.pt", seed=1)
    torch.manual_seed(7)
    first.file.save(SOME)
    drawn = torch.rand(4)
    assert not same(first.layer, second.layer)
    state = second.file.load()
    assert state is not None
    assert torch.equal(torch.rand(4), drawn)
    assert same(first.layer, second.layer)
    ours, theirs = first.optimiser.state_dict()["state"][0], second.optimiser.state_dict()["state"][0]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(state.best_weights["weight"], SOME.best_weights["weight"])
    assert replace(state, best_weights={}) == replace(SOME, best_weights={})


def test_without_a_file_there_is_nothing(tmp_path: Path) -> None:
    assert Training(tmp_path / "state.pt").file.load() is None
    nowhere = Training(None)
    nowhere.file.save(SOME)
    assert nowhere.file.load() is None


def test_one_process_of_several_writes(tmp_path: Path) -> None:
    Training(tmp_path / "state.pt", writes=False).file.save(SOME)
    assert list(tmp_path.iterdir()) == []


def test_a_save_waits_for_its_time(tmp_path: Path) -> None:
    Training(tmp_path / "state.pt").file.save_in_time(SOME)
    assert list(tmp_path.iterdir()) == []


def damaged(content: bytes, how: str) -> bytes:
    middle = len(content) // 2
    return {
        "truncated": content[:-1],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "foreign": b"a note",
        "empty": b"",
    }[how]


@pytest.mark.parametrize("how", ["truncated", "flipped", "foreign", "empty"])
def test_a_damaged_state_is_passed_over_for_the_one_before_or_refused(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, training = tmp_path / "state.pt", Training(tmp_path / "state.pt")
    training.file.save(replace(SOME, updates=17))
    training.file.save(replace(SOME, updates=18))
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, how))
    assert read(path) is None
    state = training.file.load()
    assert state is not None
    assert state.updates == 17
    assert "state.pt is damaged" in caplog.text
    (tmp_path / "state.pt.previous").write_bytes(damaged(whole, how))
    advice = r"delete state\.pt and state\.pt\.previous to start anew"
    with pytest.raises(
        ResumeError, match=rf"state\.pt: truncated, corrupt or not a training state; {advice}"
    ):
        training.file.load()


def test_a_kill_between_the_two_renames_costs_one_save(tmp_path: Path) -> None:
    training = Training(tmp_path / "state.pt")
    training.file.save(SOME)
    (tmp_path / "state.pt").rename(tmp_path / "state.pt.previous")
    state = training.file.load()
    assert state is not None
    assert state.updates == SOME.updates


def test_another_training_is_named_by_its_difference(tmp_path: Path) -> None:
    Training(tmp_path / "state.pt").file.save(SOME)
    with pytest.raises(
        ResumeError, match=r"state\.pt: .*another training \(rate 0\.1 there, 0\.2 here\); delete"
    ):
        Training(tmp_path / "state.pt", rate=0.2).file.load()


@pytest.mark.usefixtures("sigint")
def test_signals_wait_for_the_end_of_an_update() -> None:
    done = []

    @uninterrupted()
    def update() -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("update")

    with pytest.raises(KeyboardInterrupt):
        update()
    assert done == ["update"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
