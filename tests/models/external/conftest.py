import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms

from models.external.requests import Request, ask
from models.reference.external import External

OUTPUTS = Path(__file__).parent / "outputs"
"""Of CP2K 2023.1 and Quantum ESPRESSO 6.7, run on inputs as Temper writes them for the structures below."""


@pytest.fixture
def hydrogen() -> dict[str, Atoms]:
    """The molecule, and a crystal of it."""
    cell = [[3.0, 0.0, 0.0], [0.3, 3.0, 0.0], [0.0, 0.0, 3.4]]
    return {
        "molecule": Atoms("H2", [(0, 0, 0), (0, 0, 0.75)]),
        "crystal": Atoms("H2", [(0, 0, 0), (0.02, 0.01, 0.75)], cell=cell, pbc=True),
    }


@pytest.fixture
def output(tmp_path: Path) -> Callable[[str], Path]:
    """A program's output as it wrote it, in a folder of the test."""

    def unpacked(name: str) -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.decompress((OUTPUTS / f"{name}.gz").read_bytes()))
        return path

    return unpacked


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., Request]:
    """Ask for the labels of structures at PBE, without inputs."""

    def ask_for(*frames: Atoms) -> Request:
        return ask(tmp_path / "request", "test", External(level_of_theory="PBE"), frames)

    return ask_for
