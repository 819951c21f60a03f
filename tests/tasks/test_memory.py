"""Batches that do not fit into memory are halved: real allocations that fail, in real child processes."""

import importlib
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from models import losses, memory, potentials
from models.evaluation import mean_errors
from models.graphs import Graph, graphs, predict
from models.heads import with_heads
from models.memory import DoesNotFit
from models.potentials import Network, Potential
from models.training import Optimisation, TrainingSetup, fit
from models.training_state import read
from tasks.children import in_child
from tasks.limits import cap_memory

ELEMENTS = [1, 8]
ONE_BATCH = Optimisation(learning_rate=0.01, ema_decay=0.9, epochs=1, max_edges=10**9)


def foundation() -> Potential:
    """A small network with random weights."""
    torch.manual_seed(0)
    description = {
        "r_max": 4.0,
        "num_bessel": 4,
        "num_polynomial_cutoff": 5,
        "max_ell": 1,
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticInteractionBlock",
        "num_interactions": 2,
        "num_elements": len(ELEMENTS),
        "hidden_irreps": "16x0e",
        "MLP_irreps": "8x0e",
        "atomic_energies": [[-13.0, -110.0]],
        "avg_num_neighbors": 4.0,
        "atomic_numbers": ELEMENTS,
        "correlation": 2,
        "gate": "silu",
        "radial_MLP": [8],
        "radial_type": "bessel",
        "pair_repulsion": False,
        "distance_transform": "None",
        "atomic_inter_scale": [0.5],
        "atomic_inter_shift": [0.0],
        "heads": ["Default"],
        "readout_cls": "NonLinearReadoutBlock",
    }
    network = potentials.build(description)
    return Potential(network=network.eval(), level_of_theory={"Default": "none"}, provenance={})


def clusters(n: int, *, molecules: int) -> list[Atoms]:
    """Clusters of water with labels that no theory has; some have no energy, some no forces."""
    rng = np.random.default_rng(0)
    frames = []
    for k in range(n):
        cluster = Atoms()
        for m in range(molecules):
            one = molecule("H2O")
            one.translate((2.6 * (m % 3), 2.6 * (m // 3), 0.0))
            cluster += one
        cluster.positions += rng.normal(scale=0.1, size=cluster.positions.shape)
        if k % 3:
            cluster.info["REF_energy"] = -136.0 * molecules + rng.normal()
        if k % 4:
            cluster.arrays["REF_forces"] = rng.normal(size=cluster.positions.shape)
        frames.append(cluster)
    return frames


def setup(copies: int) -> TrainingSetup:
    """Always the same network and structures, the latter several times over: one batch."""
    torch.set_num_threads(1)
    potential = foundation()
    network = with_heads(potential, {"target": potential.e0s()})
    items = graphs(clusters(8, molecules=9), potential)
    return TrainingSetup(
        network=network, train=items * copies, valid={"target": items}, weights=[losses.Weights()]
    )


def trained(
    copies: int, state: Path | None = None, room_gb: float | None = None
) -> tuple[list[dict[str, float]], np.ndarray]:
    """The history of a training, and the weights that it ends with; it may allocate `room_gb` more."""
    given = setup(copies)
    if room_gb is not None:
        cap_memory(allocated() + room_gb)
    fitted = fit(given, ONE_BATCH, state_path=state)
    return fitted.history, np.concatenate([p.detach().ravel() for p in fitted.network.parameters()])


def allocated() -> float:
    """What a child has allocated before it begins, in 10⁹ bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmData")) * 1024 / 1e9


def predicted(copies: int, room_gb: float | None = None) -> list[float]:
    """Energies of all structures; it may allocate `room_gb` more."""
    torch.set_num_threads(1)
    potential = foundation()
    items = graphs(clusters(8, molecules=9), potential) * copies
    if room_gb is not None:
        cap_memory(allocated() + room_gb)
    return [one.energy for one in predict(potential, items, max_edges=10**9)]


def take(gb: float) -> int:
    """Allocate so much."""
    return len(bytearray(int(1e9 * gb)))


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """This module under a name by which a child can import it."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module(Path(__file__).stem)


def test_a_batch_that_does_not_fit_is_computed_in_parts_with_the_same_result(
    work: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, wanted = in_child(work.trained, 60)
    history, weights = in_child(work.trained, 60, tmp_path / "state.pt", 0.3)

    assert "memory ran out with" in caplog.text
    halved = history[-1].pop("edges_at_once")
    assert halved <= sum(g.n_edges for g in setup(1).train) * 60 / 2
    assert read(tmp_path / "state.pt")["state"]["edges_at_once"] == halved  # what goes on, goes on like this
    assert all("edges_at_once" not in row for row in whole)
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in whole], rel=1e-4)
    np.testing.assert_allclose(weights, wanted, rtol=1e-3, atol=1e-4)


def test_predictions_that_do_not_fit_are_made_in_halves(
    work: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    few = in_child(work.predicted, 1)
    assert in_child(work.predicted, 160, 0.2) == pytest.approx(few * 160, rel=1e-6)
    assert "memory ran out with 1280 structures at once" in caplog.text


def test_a_child_has_the_memory_that_the_settings_say(
    work: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_child(work.take, 1.0) == 10**9
    monkeypatch.setenv("TEMPER_CHILD_MEMORY_GB", "1")
    with pytest.raises(MemoryError):
        in_child(work.take, 1.0)


class Fails(torch.autograd.Function):
    """The identity; there is no memory for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def test_a_backward_pass_that_failed_leaves_nothing_behind() -> None:
    left = []

    def fails() -> None:
        x = torch.ones(1000, requires_grad=True)
        earlier = x * 2  # its gradient would have been computed after the one that fails
        left.append(weakref.ref(earlier))
        (earlier.square() + Fails.apply(x * 3)).sum().backward()

    assert memory.fitting(fails, 2) is None
    assert left[0]() is None


class Gpu:
    """A network on a GPU with room for so many edges."""

    def __init__(self, network: Network, room: int) -> None:
        self._network, self._room = network, room

    def __getattr__(self, name: str) -> object:
        return getattr(self._network, name)

    def __call__(self, batch: dict[str, torch.Tensor], **kwargs: bool) -> dict[str, torch.Tensor]:
        if batch["edge_index"].shape[1] > self._room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        output: dict[str, torch.Tensor] = self._network(batch, **kwargs)
        return output


def largest(items: list[Graph]) -> int:
    return max(g.n_edges for g in items)


def test_what_a_gpu_says_is_understood_too(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, wanted = trained(2)
    room = 3 * largest(list(setup(1).train))
    monkeypatch.setattr("models.training.fused", lambda network: Gpu(network, room))
    history, weights = trained(2)
    assert history[-1].pop("edges_at_once") < 2 * room
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in whole], rel=1e-4)
    np.testing.assert_allclose(weights, wanted, rtol=1e-3, atol=1e-4)


def test_evaluations_are_made_in_halves_and_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given = setup(1)
    items, e0s = list(given.train), torch.tensor([[-13.0, -110.0]])
    network = given.network.eval()
    whole = mean_errors(network, items, e0s)
    monkeypatch.setattr("models.evaluation.for_inference", lambda network: Gpu(network, largest(items)))
    assert mean_errors(network, items, e0s) == pytest.approx(whole, rel=1e-6)


def test_a_single_structure_that_does_not_fit_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.training.fused", lambda network: Gpu(network, 1))
    with pytest.raises(DoesNotFit, match=r"a single structure does not fit .*CUDA out of memory"):
        trained(1)


def test_other_errors_are_no_lack_of_memory() -> None:
    def fails() -> None:
        raise RuntimeError("expected all tensors to be on the same device")

    with pytest.raises(RuntimeError, match="same device"):
        memory.fitting(fails, 2)
