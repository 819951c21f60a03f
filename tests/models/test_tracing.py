from dataclasses import replace

import numpy as np
import pytest
import torch

from models import tracing
from models.graphs import graphs, predict
from models.potentials import Potential, load
from models.tracing import Traced, traced


class Doubting(torch.nn.Module):
    """A network that decides by a number whether its forces are its own or none."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def __getattr__(self, name):
        if name in ("network", "interactions") or name.startswith("_"):
            return super().__getattr__(name)
        return getattr(super().__getattr__("network"), name)

    def forward(self, data, **asked):
        output = self.network(dict(data), **asked)
        if float(data["positions"][0, 0].detach()) > 1.0:
            output["forces"] = torch.zeros_like(output["forces"])
        return output


def deviation(ours, theirs) -> float:
    energies = [abs(a.energy - b.energy) for a, b in zip(ours, theirs, strict=True)]
    forces = [np.abs(a.forces - b.forces).max() for a, b in zip(ours, theirs, strict=True)]
    stresses = [
        0.0 if a.stress is None else np.abs(a.stress - b.stress).max()
        for a, b in zip(ours, theirs, strict=True)
    ]
    return max(*energies, *forces, *stresses)


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(tracing, "CALLS", 1)


@pytest.mark.parametrize("stress", [False, True])
def test_operations_written_down_say_what_the_network_says(
    soon, tiny_potential, salt_water, salt_crystal, stress
):
    fast = traced(tiny_potential)
    generator = np.random.default_rng(0)
    structures = [salt_water[:1], salt_crystal[:20]]
    for call in range(4):
        for atoms in structures:
            atoms.positions += generator.normal(scale=0.02, size=atoms.positions.shape)
        structures[1].set_cell((1.0 + 0.01 * call) * structures[1].cell.array)
        items = graphs(structures, tiny_potential)
        ours, theirs = predict(fast, items, stress=stress), predict(tiny_potential, items, stress=stress)
        assert deviation(ours, theirs) < 1e-10
        assert (ours[1].stress is not None) == stress
        assert ours[0].stress is None
    assert len(fast.network._lists) >= 1


def test_before_and_after_the_bits_are_the_same(soon, tiny_foundation, salt_water, monkeypatch):
    monkeypatch.setattr(tracing, "KEPT", 1)
    fast = traced(load(tiny_foundation))
    items = graphs([salt_water] * 2, fast)
    before, after, later = (predict(fast, items) for _ in range(3))
    assert len(fast.network._lists) == 1
    for one, two, three in zip(before, after, later, strict=True):
        assert one.energy == two.energy == three.energy
        np.testing.assert_array_equal(one.forces, two.forces)
        np.testing.assert_array_equal(one.forces, three.forces)
    for _ in range(2):
        predict(fast, graphs([salt_water[:2]], fast))
    assert len(fast.network._lists) == 1


def test_a_network_that_decides_by_numbers_is_not_written_down(soon, tiny_potential, salt_water):
    doubting = replace(tiny_potential, network=Doubting(tiny_potential.network))
    fast = traced(doubting)
    for shift in (0.0, 0.0, 0.0, 2.0):
        moved = salt_water.copy()
        moved.positions[:, 0] += shift
        items = graphs([moved], tiny_potential)
        forces = predict(fast, items)[0].forces
        np.testing.assert_allclose(forces, predict(doubting, items)[0].forces, atol=1e-10)
        assert np.any(forces) == (shift == 0.0)


def test_large_batches_are_not_written_down(soon, tiny_potential, salt_water, monkeypatch):
    monkeypatch.setattr(tracing, "LARGEST", 10)
    fast = traced(tiny_potential)
    for _ in range(3):
        predict(fast, graphs([salt_water], tiny_potential))
    assert not fast.network._lists


def test_it_has_all_that_a_potential_is_asked_for(tiny_potential: Potential):
    fast = traced(tiny_potential)
    assert isinstance(fast.network, Traced)
    assert traced(fast) is fast
    assert (fast.elements, fast.heads, fast.cutoff) == (
        tiny_potential.elements,
        tiny_potential.heads,
        tiny_potential.cutoff,
    )
    assert fast.dtype == tiny_potential.dtype
    assert fast.e0s() == tiny_potential.e0s()
    assert not any(p.requires_grad for p in fast.network.parameters())
    assert any(p.requires_grad for p in tiny_potential.network.parameters())
