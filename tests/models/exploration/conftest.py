from pathlib import Path

import pytest

from models.datasets import write_structures
from models.foundation import shipped
from models.potentials import Potential, load
from models.uncertainty import Estimator, Heads
from models.uncertainty.files import fit_files
from models.uncertainty.files import load as load_uncertainty


@pytest.fixture(scope="session")
def foundation() -> Potential:
    return load(shipped()["temper-gfn1"])


@pytest.fixture(scope="session")
def uncertainty(labelled_waters, tmp_path_factory) -> Path:
    """What the foundation does not know of water: a committee of heads, fitted to real labels."""
    work = tmp_path_factory.mktemp("uncertainty")
    write_structures(work / "train.extxyz", labelled_waters[:8])
    write_structures(work / "valid.extxyz", labelled_waters[8:])
    files = fit_files(
        Heads(members=4),
        [shipped()["temper-gfn1"]],
        work / "train.extxyz",
        work / "valid.extxyz",
        work,
    )
    return files["uncertainty"]


@pytest.fixture
def estimator(uncertainty) -> Estimator:
    return load_uncertainty(uncertainty, [shipped()["temper-gfn1"]])
