import errno
import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from safetensors.torch import load_file, save_file

from models import checkpoints, potentials
from models.dynamics import trajectories
from models.graphs import Prediction, graphs, predict
from models.heads import select_head, with_heads
from models.potentials import CheckpointError, Potential


def answers(potential: Potential, frames: list[Atoms], head: str | None = None) -> list[Prediction]:
    return predict(potential, graphs(frames, potential, head))


def same(a: list[Prediction], b: list[Prediction]) -> bool:
    return all(x.energy == y.energy and (x.forces == y.forces).all() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["tiny_potential", "two_heads"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_round_trip_keeps_bytes_and_predictions(name, dtype, request, tmp_path, salt_water):
    potentials.save(request.getfixturevalue(name), tmp_path / "start")
    first = potentials.load(tmp_path / "start", dtype)
    potentials.save(first, tmp_path / "a")
    second = potentials.load(tmp_path / "a")
    potentials.save(second, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert second.dtype == dtype
    assert (second.heads, second.elements, second.e0s()) == (first.heads, first.elements, first.e0s())
    assert (second.level_of_theory, second.provenance) == (first.level_of_theory, first.provenance)
    for head in first.heads:
        assert same(answers(first, [salt_water], head), answers(second, [salt_water], head))


def test_e0s_keep_their_float64_in_a_float32_checkpoint(tiny_potential, tmp_path):
    network = with_heads(tiny_potential, {"target": dict.fromkeys(tiny_potential.elements, -12345.678901234)})
    potentials.save(
        Potential(network=network.float(), level_of_theory={}, provenance={}), tmp_path / "rounded"
    )
    potentials.set_e0s(network, np.full(4, -12345.678901234))
    potentials.save(Potential(network=network, level_of_theory={}, provenance={}), tmp_path / "exact")
    assert potentials.load(tmp_path / "rounded").e0s()[1] != -12345.678901234
    assert potentials.load(tmp_path / "exact").e0s()[1] == -12345.678901234


def test_the_header_is_read_without_the_weights(tiny_foundation):
    described = potentials.header(tiny_foundation)
    assert described["architecture"]["atomic_numbers"] == [1, 8, 11, 17]
    assert described["dtype"] == "float32"


def rewritten(source: Path, target: Path, **changes: object) -> Path:
    described = potentials.header(source) | changes
    save_file(load_file(source), target, {"temper": json.dumps(described)})
    return target


def test_files_that_are_no_checkpoint_are_refused(tiny_foundation, tmp_path):
    whole = tiny_foundation.read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise").write_bytes(b"not a checkpoint at all")
    for name in ("cut", "noise", "absent"):
        with pytest.raises(CheckpointError, match=f"{name}: not a readable safetensors file"):
            potentials.load(tmp_path / name)
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign")
    trajectories.save([], tmp_path / "trajectories")
    for name in ("foreign", "trajectories"):
        with pytest.raises(CheckpointError, match=f"{name}: a safetensors file, but not a Temper checkpoint"):
            potentials.load(tmp_path / name)
    newer = rewritten(tiny_foundation, tmp_path / "newer", format=checkpoints.FORMAT + 1)
    with pytest.raises(CheckpointError, match="format 3 is newer than 2; update Temper"):
        potentials.load(newer)


def test_weights_of_another_shape_are_refused_by_name(tiny_foundation, tmp_path):
    other = potentials.header(tiny_foundation)["architecture"] | {"radial_MLP": [16, 24]}
    with pytest.raises(CheckpointError, match=r"do not fit .*interactions\.0\.conv_tp_weights"):
        potentials.load(rewritten(tiny_foundation, tmp_path / "wide", architecture=other))
    weights = load_file(tiny_foundation)
    del weights["atomic_energies_fn.atomic_energies"]
    save_file(weights, tmp_path / "less", {"temper": json.dumps(potentials.header(tiny_foundation))})
    with pytest.raises(CheckpointError, match=r"do not fit .*atomic_energies"):
        potentials.load(tmp_path / "less")


def test_set_e0s_leaves_the_callers_array_alone(two_heads):
    network = select_head(two_heads.network, "target")
    mine = np.array([1.0, 2.0, 3.0, 4.0])
    potentials.set_e0s(network, mine)
    network.atomic_energies_fn.atomic_energies += 1.0
    assert mine.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_an_exported_model_opens_in_maces_own_calculator(tiny_foundation, tmp_path, salt_water):
    from mace.calculators import MACECalculator

    potential = potentials.load(tiny_foundation)
    potentials.export_mace(potential, tmp_path / "tiny.model")
    salt_water.calc = MACECalculator(
        model_paths=str(tmp_path / "tiny.model"), device="cpu", default_dtype="float64"
    )
    [ours] = answers(potentials.load(tiny_foundation, torch.float64), [salt_water])
    assert salt_water.get_potential_energy() == pytest.approx(ours.energy, abs=1e-6)
    np.testing.assert_allclose(salt_water.get_forces(), ours.forces, atol=1e-5)


def test_from_mace_reads_models_older_than_heads(tiny_potential, tmp_path, salt_water):
    potentials.export_mace(tiny_potential, tmp_path / "tiny.model")
    old = torch.load(tmp_path / "tiny.model", weights_only=False)
    block = old.atomic_energies_fn
    block.atomic_energies = block.atomic_energies[0]
    del old.heads
    given = block.atomic_energies.clone()
    read = potentials.from_mace(old, level_of_theory="PBE", provenance={"name": "old"})
    assert read.level_of_theory == {"default": "PBE"}
    assert list(read.e0s().values()) == given.tolist()
    assert same(answers(read, [salt_water]), answers(tiny_potential, [salt_water]))
    halved = potentials.from_mace(old, level_of_theory="PBE", provenance={}, dtype=torch.float32)
    assert (halved.dtype, halved.e0s()) == (torch.float32, read.e0s())


def test_from_mace_refuses_what_it_cannot_rebuild(tiny_potential, tmp_path):
    with pytest.raises(CheckpointError, match="Linear is not supported"):
        potentials.from_mace(torch.nn.Linear(2, 2), level_of_theory="PBE", provenance={})
    potentials.export_mace(tiny_potential, tmp_path / "tiny.model")
    odd = torch.load(tmp_path / "tiny.model", weights_only=False)
    odd.readouts[-1].non_linearity.acts[0].f = torch.nn.functional.gelu
    with pytest.raises(CheckpointError, match=r"activation .* is not supported"):
        potentials.from_mace(odd, level_of_theory="PBE", provenance={})


def test_a_disk_without_room_is_told_as_by_every_other_file(tiny_potential, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            potentials.save(tiny_potential, tmp_path / "tiny")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
