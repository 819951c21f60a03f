"""Children of a task of Dask: ended as soon as nobody waits for it."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client, LocalCluster

from tasks.children import Interrupted, in_child
from tasks.wanted import wanted


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Who submits to one worker, which is a thread of this process."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def attend(pid_file: str, last_words: str) -> None:
    """What a task does: wait for a child that waits for a program, and write down why that ended."""
    try:
        in_child(subprocess.run, ["sh", "-c", f"echo $$ > {pid_file}; exec sleep 3600"])
    except Interrupted as error:
        Path(last_words).write_text(str(error))


def test_a_child_ends_when_its_task_is_cancelled(client: Client, tmp_path: Path) -> None:
    pid_file, last_words = tmp_path / "pid", tmp_path / "words"
    future = client.submit(attend, str(pid_file), str(last_words), pure=False)
    while not (future.done() or (pid_file.exists() and pid_file.read_text())):
        time.sleep(0.05)
    pid = int(pid_file.read_text())
    assert psutil.pid_exists(pid)
    future.cancel()
    while psutil.pid_exists(pid) or not (last_words.exists() and last_words.read_text()):
        time.sleep(0.05)
    assert last_words.read_text() == "run was ended: nobody waits for it any more"


def test_a_child_of_a_task_that_is_waited_for_ends_by_itself(client: Client) -> None:
    assert client.submit(in_child, os.getpid, pure=False).result() != os.getpid()


def test_outside_of_dask_nobody_is_asked(client: Client) -> None:
    assert wanted() is None
