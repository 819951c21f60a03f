"""Two processes that train one network together: gloo, on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ase.build import molecule
from safetensors.torch import load_file

from models import potentials
from models.datasets import write_structures
from models.potentials import Potential
from models.reference.xtb import calculator, labelled_copy

ROOT = Path(__file__).parents[2]

# argv: foundation, labels, folder of results, number of processes, edges per batch, epoch to stop after, rule
TRAIN = """
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

from models import graphs, losses, potentials
from models.changes import DIRECTLY, LargestChanges
from models.heads import with_heads
from models.datasets import read_structures
from models.training import Optimisation, TrainingSetup, fit


def changing(rule, network):
    if rule == "directly":
        return DIRECTLY
    sizes = {name: p.numel() for name, p in network.named_parameters() if p.requires_grad}
    return LargestChanges(
        names=tuple(sizes), n_weights=sum(sizes.values()), share=0.05, reached=0.34, search_rate=0.3
    )


def work(rank, foundation, labels, out, number, max_edges, stop, rule):
    torch.set_num_threads(1)
    if number > 1:
        dist.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=number)
    potential = potentials.load(foundation)
    items = graphs.graphs(read_structures(labels), potential)
    network = with_heads(potential, {"target": potential.e0s()})
    setup = TrainingSetup(
        network=network, change=changing(rule, network),
        train=items[:8], valid={"target": items[8:]}, weights=[losses.TARGET],
    )
    plan = Optimisation(learning_rate=3e-3, epochs=3, max_edges=max_edges, ema_decay=0.5, decay="cosine")
    def report(row):
        if row["epoch"] == stop:
            raise SystemExit(3)
    path = Path(out)
    try:
        fitted = fit(setup, plan, state_path=path / f"state-{rank}.pt", report=report)
    except ValueError as error:
        (path / f"refused-{rank}").write_text(str(error))
        return
    potentials.save(
        potentials.Potential(network=fitted.network, level_of_theory={}, provenance={}), path / f"best-{rank}"
    )
    (path / f"history-{rank}.json").write_text(json.dumps(fitted.history))


if __name__ == "__main__":
    foundation, labels, out, number, max_edges, stop, rule = sys.argv[1:]
    shared = (Path(foundation), Path(labels), out, int(number), int(max_edges), int(stop), rule)
    if int(number) == 1:
        work(0, *shared)
    else:
        torch.multiprocessing.spawn(work, shared, nprocs=int(number))
"""


def train(
    out: Path,
    foundation: Path,
    labels: Path,
    processes: int,
    max_edges: int,
    stop: int = -1,
    rule: str = "directly",
) -> int:
    out.mkdir(exist_ok=True)
    (out / "meet").unlink(missing_ok=True)
    (out / "train.py").write_text(TRAIN)
    arguments = map(str, (foundation, labels, out, processes, max_edges, stop, rule))
    command = [sys.executable, "-W", "ignore", str(out / "train.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, check=False, capture_output=stop >= 0).returncode


def history(out: Path, rank: int = 0) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = json.loads((out / f"history-{rank}.json").read_text())
    return rows


def best(out: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(out / f"best-{rank}")


@pytest.fixture(scope="module")
def foundation(tiny_potential: Potential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float64, so that what differs is the arithmetic's order alone."""
    path = tmp_path_factory.mktemp("foundation") / "tiny.safetensors"
    potentials.save(tiny_potential, path)
    return path


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve water molecules: equally many labels in every batch, so that means of means are means."""
    frames = []
    for k in range(12):
        water = molecule("H2O")
        water.rattle(0.05, seed=k)
        water.calc = calculator("GFN2-xTB")
        frames.append(labelled_copy(water))
    path = tmp_path_factory.mktemp("labels") / "labels.xyz"
    write_structures(path, frames)
    return path


@pytest.fixture(scope="module")
def together(foundation: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes with two molecules (six edges each) in a batch."""
    out = tmp_path_factory.mktemp("together")
    assert train(out, foundation, labels, processes=2, max_edges=12) == 0
    return out


def agree(one: Path, two: Path) -> None:
    """Both trainings were the same, but for sums of float64 in another order, through six updates."""
    for ours, theirs in zip(history(one), history(two), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-8)
    one_best, two_best = best(one), best(two)
    for name, tensor in one_best.items():
        torch.testing.assert_close(two_best[name], tensor, rtol=1e-7, atol=1e-9)


def test_two_processes_are_one_with_twice_the_batch(
    foundation: Path, labels: Path, together: Path, tmp_path: Path
) -> None:
    assert train(tmp_path, foundation, labels, processes=1, max_edges=24) == 0
    agree(tmp_path, together)


@pytest.mark.slow  # the same with few weights that change
def test_two_processes_choose_the_same_weights_as_one(foundation: Path, labels: Path, tmp_path: Path) -> None:
    one, two, stopped = (tmp_path / name for name in ("one", "two", "stopped"))
    assert train(one, foundation, labels, 1, 24, rule="sparse") == 0
    assert train(two, foundation, labels, 2, 12, rule="sparse") == 0
    agree(one, two)
    assert history(two)[-1]["changed_share"] == pytest.approx(0.05, rel=0.02)
    assert train(stopped, foundation, labels, 2, 12, stop=2, rule="sparse") != 0
    assert train(stopped, foundation, labels, 2, 12, rule="sparse") == 0
    assert history(stopped) == history(two)
    resumed, undisturbed = best(stopped), best(two)
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in undisturbed)


def test_both_end_with_the_same_weights_and_the_first_alone_writes(together: Path) -> None:
    first, second = best(together, 0), best(together, 1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert history(together, 0) == history(together, 1)
    assert (together / "state-0.pt").exists()
    assert not (together / "state-1.pt").exists()


def test_two_stopped_processes_go_on_bit_for_bit(
    foundation: Path, labels: Path, together: Path, tmp_path: Path
) -> None:
    assert train(tmp_path, foundation, labels, processes=2, max_edges=12, stop=2) != 0
    assert not (tmp_path / "history-0.json").exists()
    assert train(tmp_path, foundation, labels, processes=2, max_edges=12) == 0
    assert history(tmp_path) == history(together)
    resumed, undisturbed = best(tmp_path), best(together)
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in undisturbed)


def test_fewer_batches_than_processes_are_refused(foundation: Path, labels: Path, tmp_path: Path) -> None:
    assert train(tmp_path, foundation, labels, processes=2, max_edges=10**6) == 0
    for rank in range(2):
        assert (tmp_path / f"refused-{rank}").read_text() == "1 batches for 2 processes; lower max_edges"
