import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ase.build import molecule
from ase.io import write

from db import artifacts
from models.campaign import Campaign
from models.reference.xtb import calculator, labelled_copy


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """A campaign on GFN2-xTB labels of stretched water, in three trajectories of two frames."""
    frames = []
    for trajectory in range(3):
        for frame in range(2):
            water = molecule("H2O")
            water.positions *= 1.0 + 0.02 * trajectory + 0.007 * frame
            water.calc = calculator("GFN2-xTB")
            frames.append(labelled_copy(water))
            frames[-1].info["trajectory"] = f"t{trajectory}"
    write(tmp_path / "labels.extxyz", frames)
    labels = {
        "path": tmp_path / "labels.extxyz",
        "level_of_theory": "GFN2-xTB",
        "licence": "CC-BY-4.0",
        "units": {"energy": "eV", "forces": "eV/Å"},
    }
    return Campaign.model_validate({"name": "salt", "labels": labels, "candidates": [{"kind": "naive"}]})


@pytest.fixture
def recorded_json(tmp_path: Path, temper_home: Path) -> Callable[..., str]:
    """Put a JSON file on record; the id of the artifact."""

    def put(content: Mapping[str, Any], kind: str = "evaluation", **metadata: str) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(content))
        return artifacts.import_file(path, kind, path.stem, metadata).id

    return put
