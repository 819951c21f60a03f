"""Is a killed training, once resumed, the training that was never killed? Kills (SIGKILL) at random instants.

    python benchmarks/resume.py [--kills 20] [--seed 0] [--json FILE]

Each trial starts a training in a child process, kills it at an instant drawn from the time that an
undisturbed one takes, and calls it again until it finishes. It counts where the weights and the history
are, bit for bit, those of the undisturbed training. The state is saved after every update, so that kills
also fall into the writing of it.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from figures import publish

from models import losses
from models.datasets import read_structures
from models.distillation.students import SmallMace
from models.graphs import graph
from models.training import Optimisation, TrainingSetup, fit
from models.training_state import TrainingState, read

LABELS = Path(__file__).parents[1] / "deployments" / "campaigns" / "nacl" / "labels.extxyz"
PLAN = Optimisation(learning_rate=5e-3, decay="cosine", ema_decay=0.9, epochs=12, max_edges=800)
N_TRAIN, N_VALID = 12, 4


@dataclass(frozen=True)
class Trial:
    """One training that was killed: when (s after its start), after how many updates, and how it ended."""

    second: float
    updates: int
    identical: bool


def setup() -> TrainingSetup:
    """A network of a few thousand weights and some of the smallest shipped structures."""
    frames = sorted((a for a in read_structures(LABELS) if len(a) > 1), key=len)[: N_TRAIN + N_VALID]
    elements = sorted({int(z) for atoms in frames for z in atoms.numbers})
    network = SmallMace(channels=4, layers=1)
    items = [graph(atoms, elements, network.cutoff) for atoms in frames]
    energies = np.array([atoms.info["REF_energy"] / len(atoms) for atoms in frames])
    return TrainingSetup(
        network=network.network(dict.fromkeys(elements, float(energies.mean())), items, seed=0),
        train=items[:N_TRAIN],
        valid={"target": items[N_TRAIN:]},
        weights=[losses.TARGET],
    )


def train(folder: Path) -> None:
    """Train from wherever the state in `folder` is; leave a digest of the result there."""
    torch.set_num_threads(1)
    prepared = setup()
    (folder / "started").touch()
    fitted = fit(prepared, PLAN, state_path=folder / "state.pt", save_seconds=0.0)
    digest = hashlib.sha256(json.dumps(fitted.history, sort_keys=True).encode())
    for tensor in fitted.network.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    (folder / "digest").write_text(digest.hexdigest())


def start(folder: Path) -> BaseProcess:
    """A child that trains; returns once it has begun."""
    folder.mkdir(exist_ok=True)
    (folder / "started").unlink(missing_ok=True)
    process = multiprocessing.get_context("forkserver").Process(target=train, args=(folder,))
    process.start()
    while not (folder / "started").exists():
        if not process.is_alive():
            raise RuntimeError(f"the training in {folder.name} did not start, exit code {process.exitcode}")
        time.sleep(0.001)
    return process


def finish(process: BaseProcess, folder: Path) -> str:
    """The digest of what a child made."""
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the training in {folder.name} left with exit code {process.exitcode}")
    return (folder / "digest").read_text()


def trial(folder: Path, second: float, expected: str) -> Trial:
    """Kill a training `second` seconds after it began, then let it finish; earlier if it was over by then."""
    process = start(folder)
    time.sleep(second)
    assert process.pid is not None
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.join()
        shutil.rmtree(folder)
        return trial(folder, 0.5 * second, expected)
    process.join()
    states = [folder / name for name in ("state.pt", "state.pt.previous")]
    saved = next((read(path) for path in states if path.exists()), None)
    updates = 0 if saved is None else TrainingState(**saved["state"]).updates
    return Trial(second, updates, finish(start(folder), folder) == expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--json", type=Path, help="also write the figure here")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["models.training", "models.distillation.students"]
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        finish(start(folder / "first"), folder / "first")  # the first child of all waits for imports
        process, began = start(folder / "undisturbed"), time.monotonic()
        expected = finish(process, folder / "undisturbed")
        seconds = time.monotonic() - began
        instants = np.random.default_rng(args.seed).uniform(0.0, 0.9 * seconds, args.kills)
        print(f"undisturbed: {seconds:.2f} s, digest {expected[:12]}")
        print(f"{'kill':>4} {'at s':>7} {'updates saved':>14} {'bit-identical':>14}")
        trials = []
        for number, second in enumerate(instants):
            trials.append(trial(folder / f"killed-{number}", float(second), expected))
            now = trials[-1]
            print(f"{number:>4} {now.second:>7.2f} {now.updates:>14} {now.identical!s:>14}", flush=True)
    identical = sum(t.identical for t in trials)
    publish([("bit_identical", identical, f"of {args.kills}")], args.json)


if __name__ == "__main__":
    main()
