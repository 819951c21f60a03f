import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import checkpoints, potentials
from models.checkpoints import CheckpointError
from models.comparison import compare
from models.foundation import shipped
from models.heads import with_heads
from models.potentials import Potential


def changed(potential: Potential, share: float, seed: int = 0) -> Potential:
    """A specialist in which a share of the weights, drawn at random, is another one."""
    generator = torch.Generator().manual_seed(seed)
    state = potential.network.state_dict()
    network = potentials.build(potentials.architecture(potential.network), potential.dtype)
    network.load_state_dict(state)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter[torch.rand(parameter.shape, generator=generator) < share] += 0.01
    return replace(potential, network=network.eval())


def saved(potential: Potential, path: Path) -> Path:
    potentials.save(potential, path)
    return path


def kept(path: Path, folder: Path) -> Path:
    """A file where a store has it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    target = folder / digest[:2] / f"{digest[2:]}.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)
    return target


def test_a_sparse_change_is_small_and_gives_the_very_bytes_of_the_whole_checkpoint(tmp_path):
    foundation = shipped()["temper-gfn1"]
    specialist = changed(potentials.load(foundation), 0.01)
    potentials.set_e0s(specialist.network, [[e - 1.5 for e in specialist.e0s().values()]])
    whole = saved(specialist, tmp_path / "whole.safetensors")
    delta = checkpoints.smallest(whole, foundation)
    assert delta.stat().st_size < whole.stat().st_size / 30
    assert checkpoints.foundation_of(delta) == hashlib.sha256(foundation.read_bytes()).hexdigest()
    assert checkpoints.foundation_of(whole) is None
    again = saved(potentials.load(delta), tmp_path / "again.safetensors")
    assert again.read_bytes() == whole.read_bytes()
    before = delta.read_bytes()
    assert checkpoints.smallest(again, foundation).read_bytes() == before
    assert compare(whole, delta).relative == 0.0


def test_what_changed_nearly_everywhere_stays_whole(tiny_foundation, tmp_path):
    whole = saved(changed(potentials.load(tiny_foundation), 0.5), tmp_path / "whole.safetensors")
    assert checkpoints.smallest(whole, tiny_foundation) == whole


def test_fewer_elements_and_more_heads_are_taken_from_the_foundation(tmp_path):
    foundation = shipped()["temper-gfn1"]
    start = potentials.load(foundation)
    e0s = {z: e - 1.0 for z, e in start.e0s().items()}
    reduced = with_heads(start, {"target": e0s, "pbe": e0s}, [1, 8, 11, 17])
    levels = {"target": "GFN2-xTB", "pbe": "PBE"}
    specialist = changed(Potential(network=reduced, level_of_theory=levels, provenance={}), 0.01)
    whole = saved(specialist, tmp_path / "whole.safetensors")
    delta = checkpoints.smallest(whole, foundation)
    assert delta.stat().st_size < whole.stat().st_size / 20
    assert saved(potentials.load(delta), tmp_path / "again").read_bytes() == whole.read_bytes()


def test_tensors_that_are_new_or_gone_are_stored(tiny_foundation, tmp_path):
    described, weights = checkpoints.read(tiny_foundation)
    other = {name: tensor for name, tensor in weights.items() if name != "scale_shift.scale"}
    other["moments.weight"] = torch.arange(3.0)
    other["readouts.0.linear.weight"] = -other["readouts.0.linear.weight"]
    checkpoints.write(tmp_path / "other.safetensors", described, other)
    delta = checkpoints.smallest(tmp_path / "other.safetensors", tiny_foundation)
    kept(tiny_foundation, tmp_path)
    _, back = checkpoints.read(kept(delta, tmp_path))
    assert back.keys() == other.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in other.items())


def test_a_change_of_a_change_is_found_where_a_store_has_it(tiny_foundation, tmp_path):
    kept(tiny_foundation, tmp_path)
    first = saved(changed(potentials.load(tiny_foundation), 0.01, 1), tmp_path / "first.safetensors")
    start = kept(checkpoints.smallest(first, tiny_foundation), tmp_path)
    second = saved(changed(potentials.load(start), 0.01, 2), tmp_path / "second.safetensors")
    delta = kept(checkpoints.smallest(second, start), tmp_path)
    (tmp_path / "link.safetensors").symlink_to(delta)
    again = saved(potentials.load(tmp_path / "link.safetensors"), tmp_path / "again")
    assert again.read_bytes() == second.read_bytes()


def test_without_its_very_foundation_a_change_is_refused(tiny_foundation, tmp_path):
    whole = saved(changed(potentials.load(tiny_foundation), 0.01), tmp_path / "whole.safetensors")
    delta = checkpoints.smallest(whole, tiny_foundation)
    digest = checkpoints.foundation_of(delta)
    with pytest.raises(CheckpointError, match=f"the sha256 {digest}, which is neither"):
        potentials.load(delta)
    beside = tmp_path / f"{digest}.safetensors"
    beside.write_bytes(tiny_foundation.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="which is neither"):
        potentials.load(delta)
    shutil.copy(tiny_foundation, beside)
    assert saved(potentials.load(delta), tmp_path / "again").read_bytes() == whole.read_bytes()


def test_bits_are_compared_and_not_numbers():
    a = torch.tensor([0.0, 1.0, float("nan"), 2.0])
    b = torch.tensor([-0.0, 1.0, float("nan"), 2.0])
    assert checkpoints.changed(a, b).tolist() == [True, False, False, False]
    assert checkpoints.changed(torch.tensor(True), torch.tensor(False)).tolist() == [True]
