"""Members of an ensemble: their spread, and its derivative, of every kind of network."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from models import graphs, potentials, tracing
from models.distillation.features import n_invariants
from models.distillation.students import Ace, Painn
from models.potentials import Potential
from models.uncertainty.ensembles import ask_networks, ask_perturbed, perturbed

E0S = {1: -1.0, 8: -8.0, 11: -11.0, 17: -17.0}


@pytest.fixture(params=["mace", "painn", "direct-painn", "ace"])
def potential(request, tiny_potential, labelled_waters) -> Potential:
    """Freshly initialised networks in float64."""
    students = {"painn": Painn(), "direct-painn": Painn(forces="direct"), "ace": Ace()}
    if request.param == "mace":
        return tiny_potential
    student = students[request.param]
    torch.manual_seed(1)
    items = [graphs.graph(atoms, sorted(E0S), student.cutoff) for atoms in labelled_waters]
    network = potentials.build(student.architecture(E0S, items), torch.float64)
    return Potential(network=network, level_of_theory={}, provenance={})


def shaken(potential: Potential, seed: int) -> Potential:
    """Another member: the same network with slightly other weights."""
    network = copy.deepcopy(potential.network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.05 * torch.randn(weights.shape, generator=generator, dtype=weights.dtype))
    return replace(potential, network=network)


def displaced(atoms, atom: int, axis: int):
    """The structure with one coordinate 1e-4 Å larger, and smaller."""
    for sign in (1.0, -1.0):
        other = atoms.copy()
        other.positions[atom, axis] += sign * 1e-4
        yield other


def test_members_on_a_trunk_have_forces_that_are_gradients(potential, salt_water):
    changes = torch.randn(3, n_invariants(potential.network), generator=torch.Generator().manual_seed(0))
    members = perturbed(potential, changes)
    (own,) = graphs.predict(potential, graphs.graphs([salt_water], potential))

    def ask(*structures):
        return ask_perturbed(members, graphs.graphs(structures, potential))

    (here,) = ask(salt_water)
    assert here.energy == pytest.approx(own.energy, abs=1e-8)
    np.testing.assert_allclose(here.forces, own.forces, atol=1e-8)
    assert np.abs(here.member_forces).max() > 1e-3
    assert here.energy_spread == pytest.approx(np.sqrt((here.energies**2).sum()))
    np.testing.assert_allclose(here.atoms**2, (here.member_forces**2).sum(axis=(0, 2)))
    for atom, axis in ((0, 1), (4, 2)):
        more, less = ask(*displaced(salt_water, atom, axis))
        slopes = (more.energies - less.energies) / 2e-4
        np.testing.assert_allclose(here.member_forces[:, atom, axis], -slopes, rtol=1e-5, atol=1e-7)
        slope = (more.energy_spread - less.energy_spread) / 2e-4
        assert here.gradient[atom, axis] == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_operations_that_were_written_down_say_the_same(tiny_potential, labelled_waters):
    changes = torch.randn(1, n_invariants(tiny_potential.network), generator=torch.Generator().manual_seed(0))
    members = perturbed(tiny_potential, changes)
    often = tracing.traced(members)
    for k in range(tracing.CALLS + 3):
        items = graphs.graphs(labelled_waters[k % 4 : k % 4 + 1], tiny_potential)
        (ours,), (expected,) = ask_perturbed(often, items), ask_perturbed(members, items)
        np.testing.assert_allclose(ours.member_forces, expected.member_forces, atol=1e-9)
        np.testing.assert_allclose(ours.forces, expected.forces, atol=1e-9)
        np.testing.assert_allclose(ours.energies, expected.energies, atol=1e-9)


def test_the_spread_of_networks_is_that_of_their_predictions(tiny_potential, salt_water):
    members = [tiny_potential, shaken(tiny_potential, 0), shaken(tiny_potential, 1)]

    def ask(*structures):
        return ask_networks(members, graphs.graphs(structures, tiny_potential))

    (here,) = ask(salt_water)
    said = [graphs.predict(m, graphs.graphs([salt_water], m))[0] for m in members]
    forces = np.stack([s.forces for s in said])
    assert here.energy_spread == pytest.approx(np.std([s.energy for s in said]))
    expected = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
    np.testing.assert_allclose(here.atoms, expected)
    np.testing.assert_array_equal(here.forces, forces[0])
    more, less = ask(*displaced(salt_water, 3, 0))
    slope = (more.energy_spread - less.energy_spread) / 2e-4
    assert here.gradient[3, 0] == pytest.approx(slope, rel=1e-5)


def test_members_that_agree_pull_nowhere(tiny_potential, salt_water):
    (same,) = ask_networks([tiny_potential] * 2, graphs.graphs([salt_water], tiny_potential))
    assert same.energy_spread == 0.0
    assert not same.gradient.any()
    assert not same.atoms.any()
