"""How far apart two files are, and where."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from safetensors.numpy import save_file

from models.comparison import Difference, compare
from models.datasets import write_structures


@pytest.fixture
def between(tmp_path: Path) -> Callable[..., Difference]:
    """The difference between two files that `write` makes of two contents."""

    def difference(write: Callable[[Path, Any], None], suffix: str, before: Any, after: Any) -> Difference:
        files = [tmp_path / f"{name}{suffix}" for name in ("before", "after")]
        for file, content in zip(files, (before, after), strict=True):
            write(file, content)
        return compare(*files)

    return difference


def checkpoint(path: Path, content: tuple[np.ndarray, dict[str, Any]]) -> None:
    weights, header = content
    tensors = {"a.weight": weights.astype(np.float32), "b.index": np.arange(3)}
    save_file(tensors, path, {"temper": json.dumps(header)})


def test_the_worst_tensor_is_named_with_its_difference(between: Callable[..., Difference]) -> None:
    weights = np.linspace(-2.0, 2.0, 5)
    found = between(checkpoint, ".safetensors", (weights, {}), (weights + np.array([0, 0, 0.25, 0, 0]), {}))
    assert found == Difference(where="tensor a.weight", absolute=0.25, relative=0.25 / 4.0)
    same = between(checkpoint, ".safetensors", (weights, {"e0s": [1.0]}), (weights, {"e0s": [1.0]}))
    assert (same.absolute, same.relative) == (0.0, 0.0)


def test_dynamics_differ_by_units_of_their_own(between: Callable[..., Difference]) -> None:
    run = {"00000.positions": np.arange(9.0), "00000.potential_energy": np.array([-500.0, -500.001])}
    later = {name: values.copy() for name, values in run.items()}
    later["00000.potential_energy"][1] += 1e-6
    found = between(lambda path, content: save_file(content, path), ".safetensors", run, later)
    assert found.where == "tensor 00000.potential_energy"
    assert found.relative == pytest.approx(1e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("weights", "header", "where"),
    [
        (np.zeros(4), {"level": "PBE", "r_max": 4.0}, "tensor a.weight"),
        (np.zeros(5), {"level": "MP2", "r_max": 4.0}, "header.temper.level"),
        (np.full(5, np.nan), {"level": "PBE", "r_max": 4.0}, "tensor a.weight"),
        (np.zeros(5), {"level": "PBE"}, "header.temper.r_max, which only one of them has"),
    ],
)
def test_what_is_no_difference_of_numbers_is_infinite(
    between: Callable[..., Difference], weights: np.ndarray, header: dict[str, Any], where: str
) -> None:
    before = (np.zeros(5), {"level": "PBE", "r_max": 4.0})
    found = between(checkpoint, ".safetensors", before, (weights, header))
    assert found == Difference(where=where, absolute=np.inf, relative=np.inf)


def frames() -> list[Atoms]:
    made = []
    for k, name in enumerate(("H2O", "NH3")):
        made.append(molecule(name))
        made[-1].info |= {"REF_energy": -2000.0 - k, "trajectory": f"t{k}", "labels_from": k}
        made[-1].arrays["REF_forces"] = np.full((len(made[-1]), 3), float(k))
    return made


def shifted(change: Callable[[Atoms], None]) -> list[Atoms]:
    made = frames()
    change(made[1])
    return made


def energy(atoms: Atoms) -> None:
    atoms.info["REF_energy"] += 0.4


def position(atoms: Atoms) -> None:
    atoms.positions[2, 1] += 0.01


def forces(atoms: Atoms) -> None:
    atoms.arrays["REF_forces"][0, 0] += 0.5


def name(atoms: Atoms) -> None:
    atoms.info["trajectory"] = "another"


def element(atoms: Atoms) -> None:
    atoms.numbers[0] = 15


@pytest.mark.parametrize(
    ("change", "where", "relative"),
    [
        (energy, "REF_energy per atom", 0.1),  # of 1 eV per atom, however large the total is
        (position, "positions", 0.01),  # of 1 Å
        (forces, "REF_forces", 0.5),  # of their range
        (name, "trajectory[1]", np.inf),
        (element, "species", np.inf),
    ],
)
def test_structures_differ_in_what_was_changed(
    between: Callable[..., Difference], change: Callable[[Atoms], None], where: str, relative: float
) -> None:
    found = between(write_structures, ".extxyz", frames(), shifted(change))
    assert found.where == where
    assert found.relative == pytest.approx(relative, rel=1e-6)


def test_other_frames_are_another_set(between: Callable[..., Difference]) -> None:
    found = between(write_structures, ".extxyz", frames(), frames()[:1])
    assert found.relative == np.inf


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def test_numbers_in_json_are_found_by_their_place(between: Callable[..., Difference]) -> None:
    before = {"epochs": [{"loss": 0.5, "epoch": 0}, {"loss": 0.25, "epoch": 1}], "forces": [0.0, 1e-9, 2.0]}
    after = json.loads(json.dumps(before))
    after["forces"][1] = 2e-9  # next to nothing beside the others
    assert between(write_json, ".json", before, after).relative == pytest.approx(5e-10)
    after["epochs"][1]["loss"] *= 1.01
    found = between(write_json, ".json", before, after)
    assert found.where == "epochs[1].loss"
    assert found.relative == pytest.approx(0.01)
    after["epochs"].append({"loss": 0.1, "epoch": 2})
    assert between(write_json, ".json", before, after).relative == np.inf


def test_of_other_files_only_the_bytes_tell(tmp_path: Path) -> None:
    for suffix in ("svg", "json"):
        (tmp_path / f"a.{suffix}").write_text("{}")
    assert compare(tmp_path / "a.svg", tmp_path / "a.svg") == Difference(where="the bytes")
    assert compare(tmp_path / "a.json", tmp_path / "a.svg") == Difference(where="the bytes")
