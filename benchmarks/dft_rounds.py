"""How long a campaign with a round of real density functional theory takes: rock salt and an SN2 reaction.

`python benchmarks/dft_rounds.py [--systems nacl sn2] [--json FILE]`. Rock salt is labelled by GPAW (PBE in
plane waves, with stress), chloride with chloromethane by PySCF (ωB97X/def2-SVPD); both come as optional
extras. The few labels to start with are made first. The campaign then runs from an empty home: it fine-tunes
and measures, explores, selects, labels, fine-tunes on all labels, measures again, and teaches a student. Its
gate is out of reach, so that the round always comes.
"""

import argparse
import json
import multiprocessing
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from ase.build import bulk
from figures import publish
from interruption import Home

from models.datasets import write_structures
from models.reference import CALCULATOR
from models.systems.molecules import methyl_halide_complex

GROUPS, FRAMES = 6, 3  # structures of a group resemble each other, and are never split
WORKERS = 2
PORT = 4320

OPTIMISATION = {
    "learning_rate": 0.001,
    "ema_decay": 0.95,
    "clip_gradient": 1.0,
    "epochs": 60,
    "decay": "cosine",
    "evaluate_every": 5,
}
UNITS = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å³"}
COMMON: dict[str, Any] = {
    "foundation": {"name": "temper-gfn1"},
    "split": {"by": "trajectory", "valid": 0.17, "test": 0.33},
    "replay": {"n_structures": 100},
    "simulation": {"temperature": 300.0, "time_step": 0.5, "duration": 300.0, "replicas": 2},
    "checks": [{"kind": "accuracy"}, {"kind": "retention"}],
    "gate": [{"figure": "accuracy.forces", "at_most": 0.1}],
    "student": {
        "architecture": {"kind": "ace"},
        "n_structures": 100,
        "optimisation": {**OPTIMISATION, "learning_rate": 0.02, "epochs": 10},
    },
}


@dataclass(frozen=True, kw_only=True)
class System:
    """A calculator, the structures of its first labels, how its campaign explores, and what it fits."""

    calculator: Mapping[str, Any]
    structure: Callable[[float, np.random.Generator], Atoms]
    explorers: list[dict[str, Any]]
    weights: Mapping[str, float]


def crystal(way: float, rng: np.random.Generator) -> Atoms:
    """The cubic cell of rock salt, strained and rattled; `way` from 0 to 1 is from pressed to stretched."""
    atoms = bulk("NaCl", "rocksalt", a=5.69 * (0.97 + 0.06 * way), cubic=True)
    strain = np.eye(3) + rng.normal(scale=0.01, size=(3, 3))
    atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
    atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    return atoms


def exchange(way: float, rng: np.random.Generator) -> Atoms:
    """Chloride and chloromethane; `way` from 0 to 1 leads from one complex to the other."""
    atoms = methyl_halide_complex("Cl", "Cl", 3.0 * way - 1.5)
    atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    atoms.info["charge"] = -1
    return atoms


SYSTEMS = {
    "nacl": System(
        calculator={"kind": "gpaw", "k_points": [2, 2, 2]},
        structure=crystal,
        explorers=[
            {"kind": "dynamics", "temperatures": [600.0], "pressures": [0.0], "time_step": 2.0},
            {"kind": "excursions", "walkers": 8},
        ],
        weights={"energy": 1.0, "forces": 10.0, "stress": 10.0},
    ),
    "sn2": System(
        calculator={"kind": "pyscf", "method": "wb97x", "basis": "def2-svpd"},
        structure=exchange,
        explorers=[
            {"kind": "dynamics", "temperatures": [300.0, 600.0], "duration": 300.0, "walkers": 3},
            {"kind": "reaction_paths", "pairs": 2},
        ],
        weights={"energy": 1.0, "forces": 10.0},
    ),
}


def first_labels(name: str, folder: Path) -> Path:
    """The labels that the campaign starts with, made by its own calculator."""
    system = SYSTEMS[name]
    rng = np.random.default_rng(0)
    structures = []
    for group in range(GROUPS):
        way = group / (GROUPS - 1)
        for _ in range(FRAMES):
            structures.append(system.structure(way, rng))
            structures[-1].info["trajectory"] = f"t{group}"
    label = partial(_labelled, dict(system.calculator), folder)
    # Spawned, because the libraries behind the calculators start threads.
    with multiprocessing.get_context("spawn").Pool(WORKERS, maxtasksperchild=1) as pool:
        frames = pool.starmap(label, enumerate(structures), chunksize=1)
    write_structures(folder / "labels.extxyz", frames)
    return folder / "labels.extxyz"


def _labelled(calculator: dict[str, Any], folder: Path, index: int, atoms: Atoms) -> Atoms:
    return CALCULATOR.validate_python(calculator).label(atoms, folder / f"label-{index}")


def campaign(name: str, n_labels: int, folder: Path) -> Path:
    """The campaign's file, beside its labels."""
    system = SYSTEMS[name]
    content = {
        **COMMON,
        "name": f"dft-{name}",
        "labels": {
            "path": "labels.extxyz",
            "level_of_theory": CALCULATOR.validate_python(system.calculator).level_of_theory,
            "names": {figure: f"REF_{figure}" for figure in system.weights},
            "units": {figure: UNITS[figure] for figure in system.weights},
        },
        "candidates": [{"kind": "naive", "weights": dict(system.weights), "optimisation": OPTIMISATION}],
        "rounds": {
            "calculator": dict(system.calculator),
            "limits": {"seconds": 600.0, "memory_gb": 4.0},
            "at_most": 1,
            "labels_per_round": n_labels,
            "control": 0.25,
            "explorers": system.explorers,
        },
    }
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


def measured(name: str, n_labels: int, port: int) -> Iterator[tuple[str, float, str]]:
    """Times of the first labels and of the campaign, what came of its labels, and errors before and after."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        began = time.perf_counter()
        first_labels(name, folder)
        yield f"first_labels_seconds[{name}]", time.perf_counter() - began, "s"
        home = Home(folder / "home", str(campaign(name, n_labels, folder)), port)
        began = time.perf_counter()
        try:
            if home.start().wait() != 0:
                raise SystemExit(f"the campaign failed:\n{home.log()}")
            yield f"campaign_seconds[{name}]", time.perf_counter() - began, "s"
        finally:
            home.stop()
        with closing(sqlite3.connect(home.folder / "temper.db")) as record:
            labels = record.execute("SELECT seconds FROM step WHERE kind = 'label' AND status = 'done'")
            seconds = [row[0] for row in labels]
            failed = record.execute("SELECT count(*) FROM artifact WHERE kind = 'failed-label'").fetchone()[0]
        yield f"labels[{name}]", len(seconds) - failed, "labels"
        yield f"failed[{name}]", failed, "labels"
        yield f"seconds_per_label[{name}]", float(np.mean(seconds)), "s"
        for when, error in zip(("before", "after"), errors(home), strict=True):
            yield f"forces_{when}[{name}]", error, "meV/Å"


def errors(home: Home) -> list[float]:
    """Mean absolute errors of forces on the test set, meV/Å, before the round and after it."""
    (report,) = (home.folder / "reports").glob("dft-*.json")
    page = json.loads(report.read_text(encoding="utf-8"))
    return [float(row["forces"]) for row in page["campaign"]["rounds"]["rows"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", nargs="+", choices=tuple(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--labels", type=int, default=8, help="of the round")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures = [
        figure for port, name in enumerate(args.systems, PORT) for figure in measured(name, args.labels, port)
    ]
    publish(figures, args.json)


if __name__ == "__main__":
    main()
