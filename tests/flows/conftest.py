"""A campaign in miniature: a tiny network, real GFN2-xTB labels of clusters of 5 to 6 atoms."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import write

from models import potentials
from models.potentials import Potential
from models.reference.xtb import Method, calculator, labelled_copy
from waiting import until

ROOT = Path(__file__).parents[2]
ELEMENTS = [1, 8, 11, 17]

CAMPAIGN = """
name: mini
description: Water and salt in clusters of a few atoms
foundation: {name: foundation.safetensors}
labels:
  path: labels.extxyz
  level_of_theory: GFN2-xTB
  licence: CC0-1.0
  units: {energy: eV, forces: eV/Å}
further:
  gfn1:
    path: gfn1.extxyz
    level_of_theory: GFN1-xTB
    licence: CC-BY-4.0
    units: {energy: eV, forces: eV/Å}
reference: {path: reference.extxyz, level_of_theory: GFN2-xTB, temperature: 300.0, licence: CC0-1.0}
replay: {path: replay.extxyz, level_of_theory: GFN1-xTB, n_structures: 12}
candidates:
  - {kind: naive, optimisation: {learning_rate: 0.01, ema_decay: 0.9, clip_gradient: 10.0, epochs: 12}}
  - {kind: pseudolabelled_replay, optimisation: {learning_rate: 0.01, clip_gradient: 10.0, epochs: 2}}
simulation:
  {temperature: 100.0, time_step: 0.5, duration: 20.0, replicas: 2, save_every: 4}
checks:
  - {kind: accuracy}
  - {kind: imitation}
  - {kind: curvature, rows: 2}
  - {kind: retention}
  - {kind: distributions, equilibration: 4.0}
  - {kind: dynamics}
  - {kind: conservation, temperature: 100.0, duration: 10.0}
  - {kind: speed, replicas: 2}
gate:
  - {figure: accuracy.forces, relative_to: foundation, at_most: 51.0}
  - {figure: accuracy.forces, relative_to: current, at_most: 2.0}
  - {figure: dynamics.finished, at_least: 0.0}
  - {figure: distributions.emd, at_most: 50.0}
  - {figure: conservation.drift, at_most: 1.0e+6}
  - {figure: speed.ratio, at_least: 0.001, of: engine}
student:
  architecture: {kind: small_mace, channels: 4, max_ell: 1, layers: 1, cutoff: 3.5}
  optimisation: {learning_rate: 0.01, ema_decay: 0.9, clip_gradient: 10.0, epochs: 12}
  objectives: [{kind: hessian_rows, stored: 2}]
  n_structures: 12
  rounds: 1
"""


def clusters(method: Method, trajectories: int, seed: int) -> list[Atoms]:
    """Three labelled frames of each trajectory: two molecules of water, or one and a pair of ions."""
    rng = np.random.default_rng(seed)
    frames = []
    for trajectory in range(trajectories):
        for _ in range(3):
            cluster = molecule("H2O")
            other = Atoms("NaCl", [(0, 0, 0), (0, 0, 2.5)]) if trajectory % 2 else molecule("H2O")
            other.rotate(50 * trajectory, "x")
            other.translate((2.8, 0.2, 0.6))
            cluster += other
            cluster.positions += rng.normal(scale=0.05, size=cluster.positions.shape)
            cluster.calc = calculator(method)
            frames.append(labelled_copy(cluster))
            frames[-1].info["trajectory"] = f"t{trajectory}"
    return frames


def foundation() -> Potential:
    """An untrained network that knows its level of theory and its licence, as every foundation must."""
    description = {
        "r_max": 4.0,
        "num_bessel": 4,
        "num_polynomial_cutoff": 5,
        "max_ell": 1,
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticInteractionBlock",
        "num_interactions": 2,
        "num_elements": len(ELEMENTS),
        "hidden_irreps": "8x0e",
        "MLP_irreps": "8x0e",
        "atomic_energies": [[-10.9, -117.9, -4.6, -124.4]],
        "avg_num_neighbors": 4.0,
        "atomic_numbers": ELEMENTS,
        "correlation": 2,
        "gate": "silu",
        "radial_MLP": [8],
        "radial_type": "bessel",
        "pair_repulsion": True,
        "distance_transform": "None",
        "atomic_inter_scale": [0.5],
        "atomic_inter_shift": [0.0],
        "heads": ["Default"],
        "readout_cls": "NonLinearReadoutBlock",
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = potentials.build(description)
    return Potential(
        network=network.eval(),
        level_of_theory={"Default": "GFN1-xTB"},
        provenance={"name": "untrained", "licence": "MIT"},
    )


@dataclass(frozen=True)
class Temper:
    """The command on a home of its own, against a running server."""

    home: Path
    env: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", "from flows.command import main; main()", *arguments],
            env={**self.env, "TEMPER_HOME": str(self.home)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        process = self.start(*arguments)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query on the record."""
        with contextlib.closing(sqlite3.connect(f"file:{self.home}/temper.db?mode=ro", uri=True)) as record:
            record.row_factory = sqlite3.Row
            return [dict(row) for row in record.execute(query)]


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the miniature campaign, with all its inputs beside it."""
    folder = tmp_path_factory.mktemp("mini")
    write(folder / "labels.extxyz", clusters("GFN2-xTB", 7, seed=1))
    write(folder / "gfn1.extxyz", clusters("GFN1-xTB", 7, seed=1))
    write(folder / "replay.extxyz", clusters("GFN1-xTB", 6, seed=2))
    write(folder / "reference.extxyz", clusters("GFN2-xTB", 2, seed=3))
    potentials.save(foundation(), folder / "foundation.safetensors")
    (folder / "mini.yaml").write_text(CAMPAIGN)
    return folder / "mini.yaml"


@pytest.fixture(scope="session")
def temper(prefect_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Temper]:
    """The command in a new home, empty or a copy of another."""
    env = {**prefect_server.env, "PREFECT_API_URL": prefect_server.url}

    def in_new_home(like: Temper | None = None) -> Temper:
        home = tmp_path_factory.mktemp("home")
        if like is not None:
            shutil.copytree(like.home, home, dirs_exist_ok=True)
        return Temper(home, env)

    return in_new_home


def in_the_middle_of(kind: str, command: Temper) -> bool:
    """Whether a step of this kind is being computed; a training only after its first saved epoch."""
    try:
        running = command.ask(f"SELECT key FROM step WHERE kind = '{kind}' AND status = 'running'")
    except sqlite3.OperationalError:  # there is no record yet
        return False
    resumable = kind in ("fine_tune", "distil")
    return any(not resumable or (command.home / "work" / row["key"] / "state.pt").exists() for row in running)


@pytest.fixture(scope="session")
def killed(mini: Path) -> Callable[..., set[str]]:
    """Runs the miniature campaign until a step of a kind is being computed, and kills all of it with -9.

    The value is which steps were being computed.
    """

    def run(command: Temper, kind: str) -> set[str]:
        process = command.start("run", str(mini))
        try:
            until(
                lambda: in_the_middle_of(kind, command) or process.poll() is not None, f"{kind} is not seen"
            )
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            output = "".join(process.communicate())
        assert process.returncode == -signal.SIGKILL, f"it ended before {kind} was seen running: {output}"
        return {row["key"] for row in command.ask("SELECT key FROM step WHERE status = 'running'")}

    return run


@pytest.fixture(scope="session")
def finished(
    temper: Callable[..., Temper], mini: Path, killed: Callable[..., set[str]]
) -> tuple[Temper, str, set[str]]:
    """A home in which the miniature campaign was killed while it trained, and then ran to its end.

    What the command said, and which steps were being computed when it was killed. Only to be read.
    """
    command = temper()
    interrupted = killed(command, "fine_tune")
    done = command("run", str(mini))
    assert done.returncode == 0, done.stdout + done.stderr
    return command, done.stdout, interrupted


@pytest.fixture(scope="session")
def deployed(prefect_server: Any, temper: Callable[..., Temper]) -> Any:
    """The server, with everything in deployments/prefect.yaml on a work pool that nobody serves."""
    done = temper()("deploy", "--pool", "local-cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    return prefect_server
