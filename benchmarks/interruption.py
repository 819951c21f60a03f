"""Kill a campaign with -9 in the middle of several steps, run it again, and compare every hash.

Run `python benchmarks/interruption.py [--campaign nacl] [--json FILE]`. One home runs undisturbed; another,
beside it, is killed once in the middle of each of `--steps` and then left to finish. Both start empty.
"""

import argparse
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from figures import publish

COMMAND = [sys.executable, "-c", "from flows.command import main; main()"]
# All that is computed but speeds: those hold clock times.
RESULTS = """
    SELECT id, kind, name FROM artifact
    WHERE kind IN ('dataset', 'checkpoint', 'e0s', 'history', 'trajectories', 'finding')
        AND name NOT LIKE '%-speed'
"""
MIDDLE = 3.0  # s into a step before it is killed


@dataclass(frozen=True)
class Home:
    """A Temper home and how to run a campaign in it."""

    folder: Path
    campaign: str
    port: int
    options: tuple[str, ...] = ()

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "TEMPER_HOME": str(self.folder),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "TEMPER_PREFECT_PORT": str(self.port),
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> subprocess.Popen[bytes]:
        """Start the campaign in a process group of its own."""
        self.folder.mkdir(exist_ok=True)
        log = (self.folder / "log").open("ab")
        return subprocess.Popen(
            [*COMMAND, "run", self.campaign, *self.options],
            env=self.env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop(self) -> None:
        """Stop the campaign's server."""
        subprocess.run([sys.executable, "-m", "prefect", "server", "stop"], env=self.env, check=False)

    def log(self) -> str:
        """The end of what the campaign has printed."""
        return (self.folder / "log").read_text(encoding="utf-8")[-3000:]

    def ask(self, query: str) -> set[tuple[str, ...]]:
        """Rows of a query on the record; none while there is no record yet."""
        address = f"file:{self.folder}/temper.db?mode=ro"
        try:
            with contextlib.closing(sqlite3.connect(address, uri=True)) as record:
                return set(record.execute(query))
        except sqlite3.OperationalError:
            return set()

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> None:
        """Kill -9 a campaign with all its children."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill_in(self, kind: str) -> int:
        """Run until a step of `kind` is in its middle, kill -9; returns how many steps were done by then."""
        process = self.start()
        query = f"SELECT key FROM step WHERE kind = '{kind}' AND status = 'running'"
        while process.poll() is None and not self.ask(query):
            time.sleep(0.1)
        time.sleep(MIDDLE)
        if process.poll() is not None:
            raise SystemExit(f"the campaign ended before it was killed in {kind}:\n{self.log()}")
        self.kill(process)
        return len(self.ask("SELECT key FROM step WHERE status = 'done'"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--campaign", default="nacl")
    parser.add_argument("--steps", nargs="+", default=["fine_tune", "simulate", "distil"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        undisturbed = Home(base / "undisturbed", args.campaign, 4310)
        disturbed = Home(base / "disturbed", args.campaign, 4311)
        beside = undisturbed.start()
        try:
            for kind in args.steps:
                print(f"killed in {kind}, {disturbed.kill_in(kind)} steps done", flush=True)
            for home, process in ((disturbed, disturbed.start()), (undisturbed, beside)):
                if process.wait() != 0:
                    raise SystemExit(f"the campaign failed:\n{home.log()}")
        finally:
            if beside.poll() is None:
                os.killpg(beside.pid, signal.SIGKILL)
            for home in (undisturbed, disturbed):
                home.stop()
        wanted, got = undisturbed.ask(RESULTS), disturbed.ask(RESULTS)
        twice = disturbed.ask("SELECT key FROM step WHERE attempt > 1")
    figures = [
        ("artifacts", len(wanted), "files"),
        ("identical_artifacts", len(wanted & got), "files"),
        ("kills", len(args.steps), "kills"),
        ("steps_computed_again", len(twice), "steps"),
    ]
    publish(figures, args.json)
    for row in sorted(wanted ^ got):
        print("differs:", *row)


if __name__ == "__main__":
    main()
