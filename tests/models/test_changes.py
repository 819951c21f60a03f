"""Trainings that change few weights: what they compute, what they leave alone, and how they go on."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from torch.func import functional_call

from models import losses, potentials
from models.changes import LargestChanges, Positions, SoftThresholds
from models.graphs import Prediction, collate, graphs, predict
from models.heads import with_heads
from models.potentials import Potential
from models.strategies import Masked, Naive, Sparse, Strategy, TrainingData
from models.training import EmptyTraining, Fit, Optimisation, TrainingSetup, fit

E0S = {1: -13.0, 8: -110.0, 11: -5.5, 17: -19.5}
QUICK = Optimisation(learning_rate=0.003, ema_decay=0.5, epochs=3, max_edges=60)
FREE = QUICK.model_copy(update={"optimiser": "schedule_free"})
ABSENT = (2, 3)  # places of Na and Cl in the element table


@pytest.fixture(scope="module")
def start(tiny_foundation) -> Potential:
    return potentials.load(tiny_foundation)


@pytest.fixture(scope="module")
def data(labelled_waters) -> TrainingData:
    return TrainingData(train=labelled_waters[:16], valid=labelled_waters[16:])


def trained(strategy: Strategy, start: Potential, data: TrainingData, **others) -> Fit:
    return fit(strategy.prepare(start, E0S, data), strategy.optimisation, **others)


def identical(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())


def changed(network: torch.nn.Module, start: Potential) -> dict[str, torch.Tensor]:
    """Where the tensors of a network with one head are not the foundation's, bit for bit."""
    before = dict(start.network.named_parameters())
    return {name: p != before[name] for name, p in network.named_parameters() if name in before}


def setup_of(potential: Potential, frames: list[Atoms]) -> TrainingSetup:
    return TrainingSetup(
        network=with_heads(potential, {"target": potential.e0s()}),
        train=graphs(frames, potential),
        valid={"target": graphs(frames, potential)},
        weights=[losses.TARGET],
    )


def test_the_gradients_are_those_of_the_reparameterised_network(tiny_potential, labelled_waters):
    """Against autograd through W + S(Δ, δ) in a functional call, in float64."""
    setup = setup_of(tiny_potential, labelled_waters[:3])
    network = setup.network
    groups = {name: (p.numel(),) for name, p in network.named_parameters() if p.numel()}
    rule = SoftThresholds(groups=groups, n_weights=1, threshold=1e-2, decay=0.0)
    change = rule.of(network)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        change.delta.copy_(0.02 * torch.randn(change.delta.shape, generator=draw, dtype=torch.float64))
        change.tau.add_(0.3 * torch.randn(change.tau.shape, generator=draw, dtype=torch.float64))
    change.write()

    deltas = {
        name: part.view_as(network.get_parameter(name)).clone().requires_grad_()
        for name, part in zip(groups, change.delta.detach().split(change.sizes), strict=True)
    }
    taus = [tau.clone().requires_grad_() for tau in change.tau.detach()]
    original = dict(with_heads(tiny_potential, {"target": tiny_potential.e0s()}).named_parameters())
    weights = {
        name: original[name].detach() + d.sign() * torch.relu(d.abs() - tau.sigmoid())
        for (name, d), tau in zip(deltas.items(), taus, strict=True)
    }
    e0s = torch.atleast_2d(network.atomic_energies_fn.atomic_energies)
    batch = collate(setup.train, e0s.shape[1], torch.float64)
    said = functional_call(network, weights, (batch,), {"training": True, "compute_force": True})
    losses.huber(said, batch, e0s, setup.weights, None).backward()
    merged = network(collate(setup.train, e0s.shape[1], torch.float64), training=True, compute_force=True)
    for key in ("energy", "forces"):
        torch.testing.assert_close(merged[key], said[key], rtol=0, atol=1e-12)

    losses.huber(merged, batch, e0s, setup.weights, None).backward()
    change.take_gradients()
    n_above = 0
    for name, taken in zip(groups, change.delta.grad.split(change.sizes), strict=True):
        wanted = deltas[name].grad.flatten()
        above = wanted != 0  # below the threshold autograd gives nothing
        n_above += int(above.sum())
        torch.testing.assert_close(taken[above], wanted[above], rtol=1e-10, atol=1e-12)
    assert n_above > 1000
    wanted = torch.stack([tau.grad for tau in taus])
    torch.testing.assert_close(change.tau.grad, wanted, rtol=1e-9, atol=1e-13)


def test_no_change_of_weights_breaks_a_symmetry(tiny_potential, salt_water):
    """Arbitrary masks on every parameter: rotation, inversion and permutation, in float64."""
    network = copy.deepcopy(tiny_potential.network)
    rng = np.random.default_rng(3)
    for share in (0.005, 0.03, 0.3):
        with torch.no_grad():
            for p in network.parameters():
                mask = torch.from_numpy(rng.random(p.shape) < share)
                p.add_(mask * torch.from_numpy(rng.normal(scale=0.1, size=p.shape)))
        potential = Potential(network=network, level_of_theory={}, provenance={})
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        turn *= np.linalg.det(turn)  # a rotation
        order = rng.permutation(len(salt_water))

        def said(frame: Atoms, asked: Potential = potential) -> Prediction:
            return predict(asked, graphs([frame], asked))[0]

        plain = said(salt_water)
        for matrix in (turn, -np.eye(3), -turn):
            moved = salt_water.copy()
            moved.positions = salt_water.positions @ matrix
            found = said(moved)
            assert found.energy == pytest.approx(plain.energy, abs=1e-10)
            np.testing.assert_allclose(found.forces, plain.forces @ matrix, atol=1e-10)
        permuted = said(salt_water[order])
        assert permuted.energy == pytest.approx(plain.energy, abs=1e-10)
        np.testing.assert_allclose(permuted.forces, plain.forces[order], atol=1e-10)


@pytest.mark.parametrize("optimisation", [QUICK, FREE], ids=["adamw", "schedule-free"])
def test_a_share_is_reached_and_held(optimisation, start, data):
    strategy = Sparse(optimisation=optimisation.model_copy(update={"evaluate_every": 0.5}), reached=0.5)
    fitted = trained(strategy, start, data)
    n_weights = potentials.n_parameters(start.network)
    assert fitted.history[0]["changed_share"] == 0.0
    assert fitted.history[1]["changed_share"] > 0.3
    rates = [row["learning_rate"] for row in fitted.history]
    assert rates[2] == pytest.approx(0.1 * rates[-1])
    held = [row for row in fitted.history if row["epoch"] > 1.5]
    assert len(held) == 4
    for row in held:
        assert row["changed_share"] == pytest.approx(0.03, rel=0.02)
        assert row["changed_share_of_chosen"] > row["changed_share"]
        assert row["threshold"] == held[0]["threshold"] > 0.0
    assert fitted.best_epoch == 0 or fitted.best_epoch >= 1.5  # what changes too much is not kept
    where = changed(fitted.network, start)
    assert fitted.trained == sum(int(mask.sum()) for mask in where.values())
    assert 0 < fitted.trained <= round(0.03 * n_weights)


def test_what_is_held_are_the_largest_changes_of_a_training_of_all(start, data):
    """The same as a full training of these tensors at the rate of the search, up to then."""
    pace = QUICK.model_copy(update={"epochs": 2, "learning_rate": 0.02})
    setup = Sparse(optimisation=pace, reached=0.5).prepare(start, E0S, data)
    assert isinstance(setup.change, LargestChanges)
    short = pace.model_copy(update={"epochs": 1, "learning_rate": 0.1 * pace.learning_rate})
    full = Naive(optimisation=short).prepare(start, E0S, data)
    for name, parameter in full.network.named_parameters():
        parameter.requires_grad_(name in setup.change.names)
    before = {name: start.network.get_parameter(name).detach().clone() for name in setup.change.names}
    fit(full, short)
    fit(setup, pace)
    moved = torch.cat([(full.network.get_parameter(n) - w).abs().flatten() for n, w in before.items()])
    kept = torch.cat([(setup.network.get_parameter(n) != w).flatten() for n, w in before.items()])
    wanted = round(0.03 * setup.change.n_weights)
    assert int(kept.sum()) == wanted
    assert moved[kept].min() >= moved[~kept].max() * (1.0 - 1e-3)


@pytest.mark.parametrize(
    "strategy",
    [
        Sparse(optimisation=QUICK, trained_share=0.2),
        Sparse(optimisation=QUICK, trained_share=None, initial_threshold=1e-4, weights_of="all"),
        Masked(optimisation=QUICK, trained_share=0.1, by="random"),
        Masked(optimisation=QUICK, trained_share=0.1, by="magnitude", weights_of="all"),
        Masked(optimisation=FREE, trained_share=0.1),
    ],
    ids=lambda strategy: f"{strategy.name}-{strategy.weights_of}",
)
def test_elements_and_layers_that_have_no_part_stay_bit_for_bit(strategy, start, data):
    fitted = trained(strategy, start, data)
    where = changed(fitted.network, start)
    assert any(mask.any() for mask in where.values())
    embedding = where["node_embedding.linear.weight"].view(4, -1)
    assert not embedding[list(ABSENT)].any()
    for index, block in enumerate(start.network.interactions):
        paths = [path.path_shape for path in block.skip_tp.instructions]
        parts = where[f"interactions.{index}.skip_tp.weight"].split([int(np.prod(shape)) for shape in paths])
        assert not any(
            part.view(shape)[:, list(ABSENT)].any() for part, shape in zip(parts, paths, strict=True)
        )
    contractions = {name: mask for name, mask in where.items() if "symmetric_contractions" in name}
    assert not any(mask[list(ABSENT)].any() for mask in contractions.values())
    others = [mask for name, mask in where.items() if "conv_tp_weights" in name]
    assert any(mask.any() for mask in (*others, *contractions.values())) == (strategy.weights_of == "all")


@pytest.mark.parametrize(
    ("strategy", "difference"),
    [
        (Sparse(optimisation=QUICK), {"trained_share": 0.05}),
        (Sparse(optimisation=FREE), {"search_rate": 1.0}),
        (Sparse(optimisation=QUICK, trained_share=None), {"thresholds": "path"}),
        (Masked(optimisation=QUICK), {"by": "magnitude"}),
        (Naive(optimisation=FREE), {"optimisation": QUICK}),
    ],
    ids=["adamw", "schedule-free", "soft", "masked", "naive-schedule-free"],
)
def test_a_stopped_training_goes_on_bit_for_bit(strategy, difference, start, data, tmp_path):
    def stop(row: dict) -> None:
        if row["epoch"] == 2:
            raise SystemExit

    path = tmp_path / "state.pt"
    with pytest.raises(SystemExit):
        trained(strategy, start, data, state_path=path, report=stop)
    resumed = trained(strategy, start, data, state_path=path)
    undisturbed = trained(strategy, start, data)
    assert identical(resumed.network, undisturbed.network)
    assert (resumed.history, resumed.trained) == (undisturbed.history, undisturbed.trained)
    with pytest.raises(ValueError, match="another training"):
        trained(strategy.model_copy(update=difference), start, data, state_path=path)


def test_schedule_free_learns_and_its_evaluations_change_nothing(start, data):
    """Its average is read without moving what is trained, however often."""
    runs = []
    for every in (0.5, 1.0):
        optimisation = FREE.model_copy(update={"evaluate_every": every, "learning_rate": 0.01})
        setup = Naive(optimisation=optimisation).prepare(start, E0S, data)
        runs.append((setup.network, fit(setup, optimisation).history))
    (often, rows), (seldom, _) = runs
    assert identical(often, seldom)
    assert rows[-1]["target_forces_mae"] < rows[0]["target_forces_mae"]


def test_only_a_way_to_a_share_follows_the_number_of_epochs():
    def begins(strategy: Strategy) -> bool:
        longer = strategy.optimisation.model_copy(update={"epochs": 9})
        return strategy.begins(strategy.model_copy(update={"optimisation": longer}))

    assert not begins(Sparse(optimisation=QUICK))
    assert begins(Sparse(optimisation=QUICK, trained_share=None))
    assert begins(Masked(optimisation=QUICK))


def test_more_decay_of_the_thresholds_leaves_fewer_changes(start, data):
    """The paper's way to sparsity, at its two settings and long enough for them to differ."""
    pace = QUICK.model_copy(update={"learning_rate": 0.05, "epochs": 2, "clip_gradient": 10.0})
    found = {}
    for decay in (0.01, 0.3, 3.0):
        strategy = Sparse(optimisation=pace, trained_share=None, threshold_decay=decay)
        last = trained(strategy, start, data).history[-1]
        found[decay] = (last["changed_share"], last["threshold readouts.0.linear"])
    assert 1.0 > found[0.01][0] > found[0.3][0] > found[3.0][0] > 0.0
    assert found[0.01][1] < found[0.3][1] < found[3.0][1] < 0.5


def test_fisher_masks_are_the_largest_squared_gradients(start, data):
    one = replace(data, train=data.train[:1])
    strategy = Masked(optimisation=QUICK, trained_share=0.02)
    setup = strategy.prepare(start, E0S, one)
    rule = setup.change
    assert isinstance(rule, Positions)
    network = setup.network
    e0s = torch.atleast_2d(network.atomic_energies_fn.atomic_energies)
    batch = collate(setup.train, e0s.shape[1], torch.float32)
    said = network(batch, training=True, compute_force=True)
    losses.huber(said, batch, e0s, setup.weights, None).backward()
    squares = {name: network.get_parameter(name).grad.flatten() ** 2 for name in rule.chosen}
    inside = torch.cat([squares[name][where] for name, where in rule.chosen.items()])
    outside = torch.cat(
        [
            square[torch.isin(torch.arange(len(square)), rule.chosen[name], invert=True)]
            for name, square in squares.items()
        ]
    )
    assert len(inside) == round(0.02 * potentials.n_parameters(network))
    assert inside.min() >= outside.max() * (1.0 - 1e-3)


def test_masks_of_one_size_differ_by_what_chooses_them(start, data):
    def chosen(**how) -> dict[str, torch.Tensor]:
        rule = Masked(**{"optimisation": QUICK, **how}).prepare(start, E0S, data).change
        assert isinstance(rule, Positions)
        return dict(rule.chosen)

    other_seed = QUICK.model_copy(update={"seed": 1})
    masks = [
        chosen(by="fisher"), chosen(by="magnitude"), chosen(by="random"),
        chosen(by="random", optimisation=other_seed),
    ]  # fmt: skip
    assert len({sum(map(len, mask.values())) for mask in masks}) == 1
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert any(not torch.equal(a[name], b[name]) for name in a)
    again = chosen(by="random")
    assert all(torch.equal(again[name], where) for name, where in masks[2].items())


def test_what_cannot_change_is_refused(start, data):
    with pytest.raises(ValueError, match="optimiser: schedule_free takes the place of a schedule"):
        Optimisation(optimiser="schedule_free", decay="cosine")
    with pytest.raises(ValueError, match="less than 1"):
        Sparse(trained_share=1.0)
    with pytest.raises(EmptyTraining, match=r"sparse-3pct: \w+ has no layer that may change"):
        _Unconnected(optimisation=QUICK).prepare(start, E0S, data)


class _Unconnected(Sparse):
    """Of a network in which nothing is trained."""

    def build(self, *given) -> torch.nn.Module:
        return super().build(*given).requires_grad_(False)
