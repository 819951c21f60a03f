"""How long a whole acceptance takes, and whether every check catches the fault it is there for.

    python benchmarks/acceptance.py [--model FILE] [--workers 2] [--json FILE]

Fine-tunes the shipped foundation as the shipped campaign does (or takes the checkpoint given), and times
`temper validate CHECKPOINT --against nacl` in a home of its own: every check, the models that it is compared
with, the gate and the report. Then faults are planted in the same potential, one at a time, and the checks
that have to catch each are made again: a fault is missed where none of the gate's lines on the check fails.
That the sound potential passes all the same lines is the control. Labels are GFN2-xTB droplets of the shipped
campaign; paths and crystals, which it does not have, are the sound potential's own.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from figures import publish

from models.campaign import Campaign
from models.campaign_files import load_campaign
from models.datasets import ingest, read_structures
from models.dynamics import trajectories
from models.e0s import E0Policy, refit_file
from models.finetuning import fine_tune
from models.foundation import save_resolved
from models.potentials import load
from models.pseudolabels import replay_set
from models.validation import CHECKS, acceptance
from models.validation.base import Subject
from models.validation.faults import FAULTS
from models.validation.gate import judge

COMMAND = [sys.executable, "-c", "from flows.command import main; main()"]
PORT = "4397"

# Each check with a fault that it alone, or it first of all, has to see.
PLANTED = (
    ("accuracy", "a wrong E0"),
    ("accuracy", "other bond lengths"),
    ("retention", "a part of what it knew is forgotten"),
    ("distributions", "another liquid"),
    ("dynamics", "molecules that fall apart"),
    ("stability", "it explodes above 600 K"),
    ("conservation", "forces that are no gradient"),
    ("consistency", "forces that are no gradient"),
    ("consistency", "a stress of the wrong sign"),
    ("consistency", "an energy that depends on orientation"),
    ("consistency", "an energy that depends on the order of atoms"),
    ("consistency", "an energy that is not extensive"),
    ("repulsion", "a hole between two atoms"),
    ("repulsion", "a hole of many atoms"),
    ("holes", "a hole between two atoms"),
    ("holes", "a hole of many atoms"),
    ("relaxation", "other bond lengths"),
)


def specialist(campaign: Campaign, work: Path) -> Path:
    """The campaign's first candidate, as the campaign trains it."""
    files = prepare(campaign, work)
    strategy = campaign.candidates[0]
    given = {role: files[role] for role in ("foundation", "e0s", "train", "valid")}
    print(f"fine-tuning {strategy.name} …", flush=True)
    return fine_tune(strategy, given, campaign.labels.level_of_theory, {}, work)["checkpoint"]


def prepare(campaign: Campaign, work: Path) -> dict[str, Path]:
    """The campaign's files by role."""
    labels = campaign.labels
    parts = ingest(labels.path, labels.names, labels.units, campaign.split, work)
    files = {role: part.path for role, part in parts.items()}
    files["foundation"] = save_resolved(campaign.foundation.name, None, work)
    files["e0s"], _ = refit_file(files["foundation"], files["train"], None, E0Policy(), work)
    replay = campaign.replay
    files["replay_test"] = replay_set(
        files["foundation"], replay.file, replay.n_structures, replay.seed, work
    )["replay_test"].path
    return files | {role: section.path for role, section in campaign.comparable.items()}


def validated(checkpoint: Path, home: Path) -> tuple[float, dict[str, Any]]:
    """The wall time, s, of `temper validate`, and the report's figures."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TEMPER_"))}
    env |= {"TEMPER_HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "TEMPER_PREFECT_PORT": PORT}
    began = time.perf_counter()
    command = [*COMMAND, "validate", str(checkpoint), "--against", "nacl"]
    done = subprocess.run(command, env=env, text=True, capture_output=True, check=False)
    seconds = time.perf_counter() - began
    stop = [sys.executable, "-m", "prefect", "server", "stop"]
    subprocess.run(stop, env=env, capture_output=True, check=False)
    print(done.stdout, done.stderr if done.returncode not in (0, 1) else "", sep="")
    (report,) = (home / "reports").glob("*.json")
    return seconds, json.loads(report.read_text(encoding="utf-8"))


def failed_lines(
    kind: str, fault: str | None, checkpoint: Path, files: Mapping[str, Path], foundation: Mapping[str, Any]
) -> list[str]:
    """The lines of the gate on one check that a potential with this fault does not pass."""
    torch.set_num_threads(1)
    campaign = load_campaign("nacl")
    (check,) = (check for check in campaign.checks if check.kind == kind)
    potential = load(checkpoint)
    if fault is not None:
        potential = FAULTS[fault](potential, read_structures(files["reference"]))
    subject = Subject(potential=potential, files=files)
    with tempfile.TemporaryDirectory() as folder:
        if "trajectories" in check.needs:
            made = Path(folder) / "trajectories.safetensors"
            trajectories.save(acceptance.run(subject, campaign.simulation), made)
            subject = Subject(potential=potential, files={**files, "trajectories": made})
        finding = check.measure(subject).to_json()
    gate = [threshold for threshold in campaign.gate if threshold.check == kind]
    quantities = {name: check.quantities for name, check in CHECKS.items()}
    verdicts = judge(gate, "champion", {kind: finding}, {"foundation": foundation}, quantities)
    if not verdicts:
        raise SystemExit(f"the gate asks for nothing of {kind}")
    return [
        f"{v.figure} {'–' if v.value is None else f'{v.value:.4g}'} {v.unit}"
        for v in verdicts
        if not v.passed
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, help="a fine-tuned checkpoint; without it one is made first")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    campaign = load_campaign("nacl")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        files = prepare(campaign, work)
        checkpoint = args.model or specialist(campaign, work)
        seconds, report = validated(checkpoint, work / "home")
        print(f"the whole acceptance took {seconds:.0f} s\n", flush=True)
        model, foundation = report["acceptances"]
        sound = [verdict["figure"] for verdict in model["verdicts"] if not verdict["passed"]]
        compared = {measured["kind"]: measured["finding"] for measured in foundation["checks"]}
        spawning = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.workers, mp_context=spawning) as pool:
            running = [
                (kind, fault, pool.submit(failed_lines, kind, fault, checkpoint, files, compared))
                for kind, fault in PLANTED
            ]
            missed = 0
            print(f"{'check':14}{'planted fault':48}what says so")
            for kind, fault, future in running:
                lines = future.result()
                missed += not lines
                print(f"{kind:14}{fault:48}{', '.join(lines) or 'MISSED'}", flush=True)
    print(f"\nlines of the gate that the sound potential fails: {', '.join(sound) or 'none'}\n")
    publish(
        [
            ("seconds", seconds, "s"),
            ("planted_faults", len(PLANTED), ""),
            ("planted_faults_missed", missed, ""),
            ("sound_potential_refused", len(sound), "lines of the gate"),
        ],
        args.json,
    )


if __name__ == "__main__":
    main()
