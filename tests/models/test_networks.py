import numpy as np
import pytest
import torch
from ase.build import molecule

from models import graphs, kernels, potentials, tracing
from models.distillation.students import Ace, Painn
from models.dynamics.md import VelocityVerlet, run
from models.graphs import predict
from models.networks.base import EdgeNetwork
from models.networks.radial import RadialBasis, Repulsion
from models.potentials import Potential

E0S = {1: -1.0, 8: -8.0, 11: -11.0, 17: -17.0}


@pytest.fixture
def made(labelled_waters):
    def make(student) -> Potential:
        items = [graphs.graph(a, sorted(E0S), student.cutoff) for a in labelled_waters]
        network = potentials.build(student.architecture(E0S, items), torch.float64)
        return Potential(network=network, level_of_theory={}, provenance={})

    return make


def batch_of(potential: Potential, *frames) -> graphs.Batch:
    items = graphs.graphs(frames, potential)
    return graphs.collate(items, len(potential.elements), potential.dtype)


def test_the_radial_basis_and_two_derivatives_go_to_zero_at_the_cutoff():
    with potentials.building(torch.float64):
        basis = RadialBasis(4.0, 6)
    r = torch.tensor([3.999, 4.0, 4.1, 80.0], dtype=torch.float64, requires_grad=True)
    values = basis(r)
    (slopes,) = torch.autograd.grad(values.sum(), r, create_graph=True)
    (curvatures,) = torch.autograd.grad(slopes.sum(), r)
    assert not values[1:].any()
    assert not slopes[1:].any()
    assert not curvatures[1:].any()
    assert 0.0 < float(values[0].sum().detach()) < 1e-8
    assert abs(float(curvatures[0])) < 1e-1


def test_the_repulsion_is_that_of_ziegler_biersack_and_littmark():
    with potentials.building(torch.float64):
        repulsion = Repulsion([1, 8])
    r = torch.tensor([0.05, 0.3, 0.6, 0.9, 0.97, 1.2], dtype=torch.float64, requires_grad=True)
    hydrogen, oxygen = torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)
    values, slopes = repulsion.with_slopes(r, oxygen, hydrogen)
    (expected,) = torch.autograd.grad(values.sum(), r)
    torch.testing.assert_close(slopes.detach(), expected)
    # Half of Z₁ Z₂ e²/r, screened, and faded out at the sum of the covalent radii, 0.97 Å.
    reduced = 0.05 * (1.0 + 8.0**0.23) / (0.8854 * 0.529177)
    screening = sum(
        amplitude * np.exp(-decay * reduced)
        for amplitude, decay in (
            (0.18175, 3.19980),
            (0.50986, 0.94229),
            (0.28022, 0.40290),
            (0.02817, 0.20162),
        )
    )
    faded = (1.0 - (0.05 / 0.97) ** 2) ** 4
    assert float(values[0].detach()) == pytest.approx(4.0 * 14.39964 / 0.05 * screening * faded, rel=1e-5)
    assert (values[:-2].diff() < 0.0).all()
    assert float(values[-1].detach()) == 0.0
    torch.testing.assert_close(values, repulsion(r, hydrogen, oxygen))


def test_forces_written_out_by_hand_are_those_of_the_gradient(made, salt_water, salt_crystal):
    potential = made(Ace(species=2))
    batch = batch_of(potential, salt_water, salt_crystal[:20], molecule("H2O"))
    plain = potential.network(dict(batch), compute_force=True, compute_stress=True)
    regular = kernels.regular(potential.network)
    filled = batch | tracing.traced(potential).network._regular(batch)
    counts = torch.bincount(filled["edge_index"][1])
    assert (counts == counts[0]).all()
    found = regular(filled, compute_stress=True)
    for name, theirs in found.items():
        torch.testing.assert_close(theirs, plain[name].detach(), rtol=0.0, atol=1e-10)


def test_only_an_ace_has_a_regular_form(made, tiny_potential):
    assert kernels.regular(tiny_potential.network) is None
    assert kernels.regular(made(Painn()).network) is None


def test_direct_forces_are_no_gradient_but_the_energy_has_one(made, salt_water):
    network = made(Painn(channels=8, forces="direct")).network
    batch = batch_of(made(Painn()), salt_water)
    output = network(batch, training=True, compute_force=True)
    (gradient,) = torch.autograd.grad(
        output["interaction_energy"].sum(), batch["positions"], create_graph=True
    )
    assert float((output["forces"] + gradient).detach().abs().max()) > 1e-3
    loss = output["forces"].square().sum() + gradient.square().sum()
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    assert sum(g is None for g in found) <= 1  # a bias that only shifts the energy
    gates = [p for name, p in network.named_parameters() if name.startswith("gates")]
    assert all(g is not None for g in torch.autograd.grad(network(batch)["forces"].sum(), gates))


def test_vectors_of_no_length_have_all_derivatives(made):
    # The vectors of an atom between two equal ones cancel out.
    network = made(Painn(channels=8)).network
    species = torch.tensor([1, 0, 0])
    edges = torch.tensor([[1, 2], [0, 0]])
    vectors = torch.tensor([[0.0, 0.0, 1.5], [0.0, 0.0, -1.5]], dtype=torch.float64, requires_grad=True)

    def energy(given: torch.Tensor) -> torch.Tensor:
        return network.node_energies(species, edges, given)[0].sum()

    assert torch.autograd.gradcheck(energy, (vectors,))
    assert torch.autograd.gradgradcheck(energy, (vectors,))


@pytest.mark.parametrize(("layers", "reaches"), [(1, False), (2, True)])
def test_a_layer_reaches_as_far_as_its_cutoff(made, layers, reaches):
    network: EdgeNetwork = made(Painn(channels=8, layers=layers, cutoff=3.0)).network
    assert network.layers == layers
    energies = []
    for last in (4.0, 4.5):  # a chain: the third is a neighbour of the second only
        z = torch.tensor([0.0, 2.0, last], dtype=torch.float64)
        edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        vectors = torch.zeros(4, 3, dtype=torch.float64)
        vectors[:, 2] = z[edges[1]] - z[edges[0]]
        found, _ = network.node_energies(torch.zeros(3, dtype=torch.int64), edges, vectors)
        energies.append(float(found[0].detach()))
    assert (energies[0] != energies[1]) == reaches


def test_dynamics_with_kept_neighbours_is_that_with_fresh_ones(made, salt_water, monkeypatch):
    potential = made(Ace())
    settings = {"steps": 30, "seed": 0, "save_every": 10, "velocities_from_temperature": 200.0}
    starts = [salt_water, molecule("H2O")]
    kept = run(potential, starts, VelocityVerlet(time_step=0.5), **settings)
    monkeypatch.setattr(type(potential.network), "margin", 0.0)
    monkeypatch.setattr(tracing, "CALLS", 10)
    fresh = run(potential, starts, VelocityVerlet(time_step=0.5), **settings)
    for ours, theirs in zip(kept, fresh, strict=True):
        np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-10)
        np.testing.assert_allclose(ours.potential_energy, theirs.potential_energy, atol=1e-10)
        [last] = predict(potential, graphs.graphs([ours.to_atoms()[-1]], potential))
        assert last.energy == pytest.approx(ours.potential_energy[-1], abs=1e-9)
