from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from models import e0s
from models.datasets import write_structures
from models.e0s import E0Policy
from models.finetuning import fine_tune
from models.foundation import shipped
from models.reference.xtb import calculator, labelled_copy
from models.strategies import Naive
from models.systems.packing import pack
from models.training import Optimisation
from models.uncertainty import AnyUncertainty, Committee, Estimator, Heads, LastLayer
from models.uncertainty.files import fit_files, load


def droplets(seed: int, trajectories: int) -> list[Atoms]:
    """Shaken droplets of one to three water molecules, four of each, labelled at GFN2-xTB."""
    rng = np.random.default_rng(seed)
    frames = []
    for trajectory in range(trajectories):
        start = pack([molecule("H2O")] * (1 + trajectory % 3), rng, closest=1.8)
        for _ in range(4):
            frame = start.copy()
            frame.positions += rng.normal(scale=rng.uniform(0.03, 0.09), size=frame.positions.shape)
            frame.calc = calculator("GFN2-xTB")
            frame.info |= {"trajectory": f"{seed}-{trajectory}"}
            frames.append(labelled_copy(frame))
    return frames


@dataclass(frozen=True)
class Trained:
    """Specialists for droplets at GFN2-xTB that differ in their seed, and labels."""

    members: list[Path]
    train: Path
    valid: Path
    test: list[Atoms]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    files = {"foundation": shipped()["temper-gfn1"]}
    for seed, part in enumerate(("train", "valid")):
        files[part] = folder / f"{part}.extxyz"
        write_structures(files[part], droplets(seed, 6))
    files["e0s"], _ = e0s.refit_file(files["foundation"], files["train"], None, E0Policy(), folder)
    members = []
    for seed in range(2):
        plan = Naive(
            optimisation=Optimisation(learning_rate=1e-3, ema_decay=0.5, epochs=4, max_edges=250, seed=seed)
        )
        (folder / str(seed)).mkdir()
        members.append(fine_tune(plan, files, "GFN2-xTB", {}, folder / str(seed))["checkpoint"])
    return Trained(
        members=members,
        train=files["train"],
        valid=files["valid"],
        test=droplets(2, 12),
    )


@dataclass(frozen=True)
class Fitted:
    """An uncertainty with the files that were made of it, and what they are read as."""

    uncertainty: AnyUncertainty
    checkpoints: list[Path]
    files: dict[str, Path]
    estimator: Estimator


KINDS = (Committee(members=2), Heads(), LastLayer())


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: kind.kind)
def fitted(
    request: pytest.FixtureRequest, trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> Fitted:
    checkpoints = trained.members[: 1 + request.param.trainings]
    folder = tmp_path_factory.mktemp(request.param.kind)
    files = fit_files(request.param, checkpoints, trained.train, trained.valid, folder)
    return Fitted(
        uncertainty=request.param,
        checkpoints=checkpoints,
        files=files,
        estimator=load(files["uncertainty"], checkpoints),
    )
