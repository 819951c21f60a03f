import numpy as np
import pytest
import torch
from ase import Atoms

from models import losses
from models.graphs import collate, graph
from models.losses import HUBER_DELTA, Weights


def huber(difference: float) -> float:
    size = abs(difference)
    return 0.5 * size**2 if size <= HUBER_DELTA else HUBER_DELTA * (size - 0.5 * HUBER_DELTA)


def labelled(symbols, energy=None, forces=None, stress=None, head=0):
    atoms = Atoms(symbols, positions=[(0.0, 0.0, 1.0 * k) for k in range(len(symbols))])
    if energy is not None:
        atoms.info["REF_energy"] = energy
    if forces is not None:
        atoms.arrays["REF_forces"] = np.array(forces, dtype=float)
    if stress is not None:
        atoms.info["REF_stress"] = stress
    return graph(atoms, [1, 8], 3.0, head)


E0S = torch.tensor([[-1.0, -10.0], [-2.0, -20.0]], dtype=torch.float64)


def loss_of(items, interaction, forces, weights, stress=None):
    batch = collate(items, 2, torch.float64)
    output = {
        "interaction_energy": torch.tensor(interaction, dtype=torch.float64),
        "forces": torch.tensor(forces, dtype=torch.float64),
        "stress": None if stress is None else torch.tensor(stress, dtype=torch.float64),
    }
    return float(losses.huber(output, batch, E0S, weights))


def test_energy_and_force_terms_by_hand():
    items = [labelled("HO", -11.006, [[0.004, 0, 0], [0, 0, 0]]), labelled("H", -1.2, [[0, 0, 0.5]])]
    found = loss_of(items, [0.0, 0.0], [[0.0] * 3] * 3, [Weights(energy=2.0, forces=3.0)])
    energies = (huber(0.006 / 2) + huber(0.2)) / 2
    forces = (huber(0.004) + huber(0.5)) / 9
    assert found == pytest.approx(2.0 * energies + 3.0 * forces, rel=1e-9)


def test_each_head_has_its_own_e0s_and_weights():
    items = [labelled("HO", -11.1, head=0), labelled("HO", -22.1, head=1)]
    weights = [Weights(energy=1.0), Weights(energy=5.0)]
    found = loss_of(items, [0.0, 0.0], [[0.0] * 3] * 4, weights)
    assert found == pytest.approx((1.0 + 5.0) * huber(0.05) / 2, rel=1e-9)
    assert loss_of(items, [-0.1, -0.1], [[0.0] * 3] * 4, weights) == pytest.approx(0.0, abs=1e-12)


def test_unlabelled_entries_are_left_out():
    nan = float("nan")
    items = [labelled("HO", forces=[[nan] * 3, [0.0, 0.0, 0.3]]), labelled("H", -1.0)]
    found = loss_of(items, [7.0, 0.0], [[9.0] * 3, [0.0] * 3, [9.0] * 3], [Weights()])
    assert found == pytest.approx(10.0 * huber(0.3) / 3, rel=1e-9)
    assert loss_of([labelled("H")], [7.0], [[9.0] * 3], [Weights()]) == 0.0


def test_stress_counts_where_it_is_labelled_and_weighted():
    target = [[0.02, 0.0, 0.0], [0.0] * 3, [0.0] * 3]
    item = labelled("H", stress=np.array(target))
    zero = [[[0.0] * 3] * 3]
    assert loss_of([item], [0.0], [[0.0] * 3], [Weights(stress=4.0)], zero) == pytest.approx(
        4.0 * huber(0.02) / 9
    )
    assert loss_of([item], [0.0], [[0.0] * 3], [Weights(stress=0.0)], zero) == 0.0
