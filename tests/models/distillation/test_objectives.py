from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from torch.nn.utils import parametrize

from models import losses
from models.datasets import fingerprint
from models.distillation import hessians, objectives
from models.distillation.features import embedding, n_invariants
from models.distillation.hessians import Products, Sampling
from models.distillation.objectives import OBJECTIVE, HessianProbes, HessianRows
from models.distillation.students import Ace, Painn, SmallMace
from models.distillation.training import prepare
from models.graphs import collate, e0_sum, graphs, predict
from models.potentials import Potential
from models.pseudolabels import pseudolabel
from models.training import Optimisation, TrainingSetup, fit

STUDENT = SmallMace(channels=4, max_ell=1, layers=1, cutoff=4.0)
QUICK = Optimisation(learning_rate=0.03, ema_decay=0.5, clip_gradient=100.0, epochs=2, max_edges=100)
WEIGHTS = losses.Weights(energy=1.0)


@pytest.fixture(scope="module")
def lessons(tiny_potential, labelled_waters) -> list[Atoms]:
    """Waters with the teacher's labels on them, so that nothing else has to be learnt."""
    return pseudolabel(tiny_potential, labelled_waters)


@pytest.fixture(scope="module")
def products(tiny_potential, lessons, tmp_path_factory) -> dict[str, Products]:
    """The teacher's labels of its Hessian, of both kinds, for all but the last structure that is learnt."""
    return {
        kind.model_fields["kind"].default: Products(
            hessians.label(tiny_potential, lessons[:15], kind().sampling, tmp_path_factory.mktemp("products"))
        )
        for kind in (HessianRows, HessianProbes)
    }


@pytest.fixture
def prepared(tiny_potential, lessons, products):
    def prepare_for(*chosen: objectives.AnyObjective) -> TrainingSetup:
        return prepare(STUDENT, chosen, WEIGHTS, tiny_potential, lessons[:16], lessons[16:], products, seed=0)

    return prepare_for


def batch_of(setup: TrainingSetup, potential: Potential | None = None):
    """All training structures as one batch, and what the student (or another network) says of them."""
    network = setup.network if potential is None else potential.network
    n_elements = network.atomic_energies_fn.atomic_energies.shape[-1]
    batch = collate(setup.train, n_elements, next(network.parameters()).dtype)
    return batch, network(batch, training=True, compute_force=True)


ALL = [
    {"kind": "teacher_forces", "weight": 100.0},
    {"kind": "atomic_energies", "weight": 100.0},
    {"kind": "node_features", "weight": 100.0},
    {"kind": "atom_embeddings"},
    {"kind": "hessian_rows", "weight": 100.0, "per_step": 4},
    {"kind": "hessian_rows", "weight": 100.0, "per_step": 4, "derivative": "exact"},
    {"kind": "hessian_probes", "weight": 10.0, "per_step": 4},
]


@pytest.mark.parametrize("content", ALL, ids=lambda content: "-".join(map(str, content.values())))
def test_every_objective_is_learnt_and_leaves_a_plain_student(prepared, content):
    objective = OBJECTIVE.validate_python(content)
    plain = prepared()
    fitted = fit(prepared(objective), QUICK.model_copy(update={"epochs": 8}))
    objective.finish(fitted.network)
    assert {name: tensor.shape for name, tensor in fitted.network.state_dict().items()} == {
        name: tensor.shape for name, tensor in plain.network.state_dict().items()
    }
    assert fitted.history[-1]["loss"] < fitted.history[1]["loss"]


def test_a_student_like_its_teacher_has_nothing_to_learn(tiny_potential, lessons, products):
    """Every term but the projection of features is zero for the teacher itself."""
    own = graphs(lessons[:16], tiny_potential)
    teaching = objectives.Teaching(tiny_potential, lessons[:16], lessons[16:], products, WEIGHTS)
    for content in ALL:
        objective = OBJECTIVE.validate_python(content)
        if objective.kind in ("node_features", "atom_embeddings"):
            continue
        if isinstance(objective, objectives.Curvature):
            objective = objective.model_copy(update={"displacement": 1e-4})
        lesson = objective.prepare(tiny_potential.network, teaching)
        items = [replace(item, lessons=dict(said)) for item, said in zip(own, lesson.of_each, strict=True)]
        batch = collate(items, 4, torch.float64)
        output = tiny_potential.network(batch, training=True, compute_force=True)
        value = float(lesson.term(tiny_potential.network, batch, output).detach())
        assert value < 1e-3, content


def test_the_term_of_rows_is_the_papers(prepared, tiny_potential, lessons):
    """Over the drawn rows the mean, over atoms the sum of norms, over structures the sum, per atom."""
    setup = prepared(HessianRows(per_step=4, stored=4, derivative="exact", weight=1.0))
    batch, output = batch_of(setup)
    found = float(setup.terms[0](setup.network, batch, output).detach())
    student = Potential(network=setup.network, level_of_theory={"target": "none"}, provenance={})
    total = 0.0
    for atoms in lessons[:15]:
        drawn = Sampling(number=4).draw(atoms)
        difference = (hessians.hessian(student, atoms) - hessians.hessian(tiny_potential, atoms)).reshape(
            3 * len(atoms), -1, 3
        )
        total += np.linalg.norm(difference[drawn], axis=2).sum(axis=1).mean()
    assert found == pytest.approx(losses.HUBER_DELTA * total / len(batch["positions"]), rel=1e-3)


def test_differences_of_forces_stand_in_for_exact_products(prepared):
    terms = {}
    for derivative in ("exact", "difference"):
        setup = prepared(HessianRows(per_step=4, stored=4, derivative=derivative, displacement=0.002))
        batch, output = batch_of(setup)
        loss = setup.terms[0](setup.network, batch, output)
        gradients = torch.autograd.grad(loss, list(setup.network.parameters()), allow_unused=True)
        flat = torch.cat([g.ravel() for g in gradients if g is not None])
        terms[derivative] = (float(loss.detach()), flat)
    assert terms["difference"][0] == pytest.approx(terms["exact"][0], rel=0.02)
    a, b = terms["difference"][1], terms["exact"][1]
    assert float(a @ b / (a.norm() * b.norm())) > 0.99


def test_huge_rows_are_next_to_nothing(prepared):
    setup = prepared(HessianRows(per_step=1, stored=1, derivative="exact"))
    batch, output = batch_of(setup)
    term = setup.terms[0]
    sound = float(term(setup.network, batch, output).detach())
    batch["hessian_rows_products"][: int(batch["n_atoms"][0])] = 2e4
    with_one_huge = float(term(setup.network, batch, output).detach())
    assert 0 < with_one_huge < sound


def test_the_weight_decays_once_when_the_student_is_as_good_as_its_teacher(prepared):
    for judged_by, bad, good in (
        (
            "forces",
            {"forces_mae": 9.0, "energy_per_atom_mae": 0.0},
            {"forces_mae": -1.0, "energy_per_atom_mae": 9.0},
        ),
        (
            "energy_and_forces",
            {"forces_mae": 0.0, "energy_per_atom_mae": 9.0},
            {"forces_mae": -1.0, "energy_per_atom_mae": -1.0},
        ),
    ):
        # The teacher's own labels: its errors are zero, so that only a better one than perfect gets there.
        setup = prepared(HessianRows(weight=8.0, decay_factor=0.25, margin=1.0, judged_by=judged_by))
        term = setup.terms[0]
        term.judged(bad)
        assert float(term.weight) == 8.0
        for _ in range(2):
            term.judged(good)
            assert float(term.weight) == 2.0
        restored = prepared(HessianRows(weight=8.0)).terms[0]
        restored.load_state_dict(term.state_dict())
        assert float(restored.weight) == 2.0
        assert bool(restored.decayed)
    never = prepared(HessianRows(weight=8.0, decay_factor=1.0)).terms[0]
    never.judged({"forces_mae": -1.0, "energy_per_atom_mae": -1.0})
    assert float(never.weight) == 8.0


def test_a_stopped_training_with_terms_goes_on_bit_for_bit(prepared, tmp_path):
    chosen = (HessianRows(stored=4), objectives.NodeFeatures(), objectives.AtomEmbeddings())
    whole = fit(prepared(*chosen), QUICK)

    def stop(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(prepared(*chosen), QUICK, state_path=tmp_path / "state.pt", report=stop)
    resumed = fit(prepared(*chosen), QUICK, state_path=tmp_path / "state.pt")
    assert resumed.history == whole.history
    states = resumed.network.state_dict(), whole.network.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1] if states[1][name].numel())


def test_embeddings_are_projections_of_the_teachers(prepared, tiny_potential):
    plain, setup = prepared(), prepared(objectives.AtomEmbeddings())
    module, name = embedding(setup.network)
    assert parametrize.is_parametrized(module, name)
    # Four channels can be anything that eight of the teacher's give: at first it is the student's own.
    torch.testing.assert_close(
        getattr(module, name), getattr(*embedding(plain.network)), atol=1e-5, rtol=1e-4
    )
    projection = module.parametrizations[name].original
    assert projection.shape == (8, 4)


def test_atomic_energies_are_measured_from_the_students_e0s(prepared, tiny_potential, lessons):
    setup = prepared(objectives.AtomicEnergies())
    for item, atoms in zip(setup.train, lessons[:16], strict=True):
        total = float(item.lessons["teacher_atomic_energies"].double().sum())
        batch = collate([item], 2, torch.float64)
        e0s = torch.atleast_2d(setup.network.atomic_energies_fn.atomic_energies)
        assert total + float(e0_sum(batch, e0s)) == pytest.approx(atoms.info["REF_energy"], abs=1e-4)


def test_features_of_a_mace_are_its_last_scalars(tiny_potential, lessons):
    assert n_invariants(tiny_potential.network) == 8
    teaching = objectives.Teaching(tiny_potential, lessons[:2], lessons[:2], {}, WEIGHTS)
    turned = [atoms.copy() for atoms in lessons[:2]]
    for atoms in turned:
        atoms.rotate(50, (1, 2, 3))
    again = objectives.Teaching(tiny_potential, turned, turned, {}, WEIGHTS)
    for a, b in zip(teaching.outputs, again.outputs, strict=True):
        torch.testing.assert_close(a["node_features"], b["node_features"], atol=1e-5, rtol=1e-5)
        assert a["node_features"].std() > 0


def test_rows_without_labels_are_refused(tiny_potential, lessons):
    with pytest.raises(ValueError, match="hessian_rows needs the teacher's labels of products"):
        prepare(STUDENT, (HessianRows(),), WEIGHTS, tiny_potential, lessons[:4], lessons[4:6], {}, seed=0)


def test_a_structure_without_labels_counts_for_nothing(prepared, lessons):
    setup = prepared(HessianRows())
    (without,) = [
        k for k, item in enumerate(setup.train) if item.lessons["hessian_rows_products"].isnan().any()
    ]
    assert fingerprint(lessons[without]) == fingerprint(lessons[15])
    batch, output = batch_of(replace(setup, train=[setup.train[without]]))
    assert float(setup.terms[0](setup.network, batch, output)) == 0.0


def test_the_energy_gradient_is_for_direct_forces():
    with pytest.raises(ValueError, match="energy_gradient is for direct forces"):
        objectives.EnergyGradient().check(STUDENT)


@pytest.mark.parametrize(
    "student", [Ace(channels=4, hidden=4), Painn(channels=4, layers=1)], ids=lambda s: s.kind
)
def test_networks_of_our_own_learn_every_objective(student, tiny_potential, lessons, products):
    chosen = [OBJECTIVE.validate_python(content) for content in ALL if content.get("derivative") != "exact"]
    setup = prepare(student, chosen, WEIGHTS, tiny_potential, lessons[:16], lessons[16:], products, seed=0)
    fitted = fit(setup, QUICK.model_copy(update={"epochs": 5, "learning_rate": 0.005}))
    for objective in chosen:
        objective.finish(fitted.network)
    assert not parametrize.is_parametrized(fitted.network)
    assert fitted.history[-1]["loss"] < fitted.history[1]["loss"]


def test_a_teacher_with_direct_forces_gives_rows_of_their_jacobian(tiny_potential, lessons, tmp_path):
    """And a student with direct forces learns them exactly, with an energy whose gradient they become."""
    direct = Painn(channels=8, layers=2, forces="direct")
    setup = prepare(direct, (), WEIGHTS, tiny_potential, lessons[:16], lessons[16:], {}, seed=0)
    network = fit(setup, QUICK).network.double()
    teacher = Potential(network=network, level_of_theory={"target": "none"}, provenance={})
    atoms = lessons[8]
    jacobian = -hessians.hessian(teacher, atoms)
    step = 1e-5
    for coordinate in (0, 5, 7):
        forces = []
        for side in (step, -step):
            moved = atoms.copy()
            moved.positions.reshape(-1)[coordinate] += side
            forces.append(predict(teacher, graphs([moved], teacher))[0].forces.ravel())
        slope = (forces[0] - forces[1]) / (2 * step)
        np.testing.assert_allclose(jacobian[:, coordinate], slope, atol=1e-5 * np.abs(slope).max())
    assert np.abs(jacobian - jacobian.T).max() > 1e-3 * np.abs(jacobian).max()

    rows = Products(hessians.label(teacher, lessons[:16], Sampling(), tmp_path))
    objectives_ = (HessianRows(derivative="exact", weight=10.0), objectives.EnergyGradient())
    for objective in objectives_:
        objective.check(direct)
    setup = prepare(
        direct, objectives_, WEIGHTS, teacher, lessons[:16], lessons[16:], {"hessian_rows": rows}, seed=1
    )
    fitted = fit(setup, QUICK.model_copy(update={"epochs": 6, "learning_rate": 0.003}))
    assert fitted.history[-1]["loss"] < fitted.history[1]["loss"]
    with pytest.raises(ValueError, match="direct forces needs derivative: exact"):
        HessianRows().check(direct)
