"""What becomes of the children of other threads when the main thread is interrupted."""

import os
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.children import ChildDied, Interrupted, in_child, interruptible


def start(threads: ThreadPoolExecutor, folder: Path) -> list[Future[int]]:
    """Two children in two threads, both at work."""
    signs = [folder / name for name in ("first", "second")]
    children = [
        threads.submit(in_child, subprocess.call, ["sh", "-c", f"touch {sign}; exec sleep 600"])
        for sign in signs
    ]
    while not all(sign.exists() for sign in signs):
        assert not any(child.done() for child in children)
        time.sleep(0.01)
    return children


def test_an_interruption_ends_the_children_of_all_threads(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as threads:
        children = start(threads, tmp_path)
        with pytest.raises(KeyboardInterrupt), interruptible():
            raise KeyboardInterrupt
        for child in children:
            with pytest.raises(ChildDied, match="asked to stop"):
                child.result()


def test_an_error_of_one_leaves_the_others_at_work(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as threads:
        children = start(threads, tmp_path)
        with pytest.raises(ValueError, match="one of them"), interruptible():
            raise ValueError("one of them")
        time.sleep(0.2)
        assert not any(child.done() for child in children)
        with pytest.raises(KeyboardInterrupt), interruptible():
            raise KeyboardInterrupt


def test_nothing_more_is_started_of_what_was_interrupted() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible("this batch"):
        raise KeyboardInterrupt
    with pytest.raises(Interrupted, match="getpid was not started: what it is part of was interrupted"):
        in_child(os.getpid, part_of="this batch")
    assert in_child(os.getpid, part_of="the next batch") != os.getpid()
