import pytest
import torch

from models import graphs, kernels, losses, potentials
from models.distillation.students import SmallMace
from models.potentials import Network, Potential

STUDENTS = [SmallMace(), SmallMace(channels=4, max_l=1, max_ell=1, correlation=3, layers=1, cutoff=3.0)]


@pytest.fixture(params=["tiny_potential", "two_heads", *STUDENTS], ids=str)
def network(request, labelled_waters) -> Network:
    """Networks of every kind, in float64; the tiny one has equivariant hidden features."""
    if isinstance(request.param, SmallMace):
        e0s = {z: -1.0 * z for z in (1, 8, 11, 17)}
        lessons = [graphs.graph(a, sorted(e0s), request.param.cutoff) for a in labelled_waters]
        return request.param.network(e0s, lessons, seed=0).double()
    return request.getfixturevalue(request.param).network


def gradients(network: Network, through: Network, batch: graphs.Batch) -> list[torch.Tensor]:
    """Loss, energies, forces, stress and all derivatives of the loss, of one network through another."""
    e0s = torch.atleast_2d(network.atomic_energies_fn.atomic_energies)
    output = through(dict(batch), training=True, compute_force=True, compute_stress=True)
    loss = losses.huber(output, batch, e0s, [losses.Weights(stress=1.0)] * len(network.heads))
    parameters = [p for p in network.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    outputs = [output[name] for name in ("interaction_energy", "forces", "stress")]
    return [t.detach() for t in (loss, *outputs, *(g for g in found if g is not None))]


def test_energies_forces_and_all_derivatives_are_those_of_mace(
    network, labelled_waters, salt_crystal, salt_water
):
    potential = Potential(network=network, level_of_theory={}, provenance={})
    salt_crystal.info |= {"REF_energy": -9.0, "REF_stress": [[0.1] * 3] * 3}
    frames = [labelled_waters[0], salt_crystal, labelled_waters[7], salt_water]
    items = graphs.graphs(frames, potential)
    batch = graphs.collate(items, len(potential.elements), torch.float64)
    fast = kernels.fused(network)
    kinds = {type(block.conv_tp) for block in fast.interactions}
    assert kernels.Convolution in kinds
    for ours, theirs in zip(gradients(network, fast, batch), gradients(network, network, batch), strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-12 * scale)


def test_derivatives_of_any_order_are_right():
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.tensor([[0, 1, 2, 2, 0], [1, 0, 0, 1, 1]])
    layer = torch.nn.Module.__new__(kernels.Convolution)
    torch.nn.Module.__init__(layer)
    layer.degrees = (0, 1)
    shapes = [(3, 2), (5, 4), (5, 4)]
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(lambda *given: layer(*given, edge_index), inputs)
    assert torch.autograd.gradgradcheck(lambda *given: layer(*given, edge_index), inputs)


def test_the_parameters_are_shared_and_the_network_is_left_alone(tiny_potential):
    before = [type(block.conv_tp) for block in tiny_potential.network.interactions]
    fast = kernels.fused(tiny_potential.network)
    ours = {id(p) for p in fast.parameters()}
    assert ours == {id(p) for p in tiny_potential.network.parameters()}
    assert [type(block.conv_tp) for block in tiny_potential.network.interactions] == before


def test_a_compiled_network_stays_as_it_is(tiny_potential):
    compiled = potentials.compiled(tiny_potential)
    assert kernels.fused(compiled.network) is compiled.network


def test_for_inference_the_numbers_are_the_same_and_parameters_are_constants(network, labelled_waters):
    potential = Potential(network=network, level_of_theory={}, provenance={})
    batch = graphs.collate(
        graphs.graphs(labelled_waters[:3], potential), len(potential.elements), potential.dtype
    )
    before = [p.requires_grad for p in network.parameters()]
    expected = kernels.fused(network)(batch, compute_force=True)
    found = kernels.for_inference(network)(batch, compute_force=True)
    for key in ("interaction_energy", "forces"):
        torch.testing.assert_close(found[key], expected[key], rtol=0.0, atol=0.0)
    assert any(before)
    assert [p.requires_grad for p in network.parameters()] == before
    assert not any(p.requires_grad for p in kernels.for_inference(network).parameters())
    assert all(p.grad is None for p in network.parameters())
