"""Fine-tuning beside mace-torch's own script: `python benchmarks/training.py [--json FILE]`.

Both start as fresh processes, one after the other, with one torch thread, from the shipped foundation, with
the same structures, E0 policy (estimated), loss, optimiser, running average, mean batch and precision
(float32 unless --dtype says otherwise), and evaluate after every epoch. Timed is the way from starting the
process to the first evaluation with a validation force error that both reach: the larger of the two minima.
mace_run_train cuts the network down to the elements of the data, as it does by default; Temper keeps all.

- `fit_over_mace_run_train[SET]`: their time over ours, median of the repeats
- `step_over_mace[SET]`: their time for a pass over the same batches of the whole network, over ours; both
  make their batches from graphs that are in memory, and neither evaluates
- `memory_over_mace[SET]`: our peak resident memory over theirs, in the timed runs
- `cost_over_naive[STRATEGY]`: an epoch of each strategy at its defaults over an epoch of naive
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from figures import publish

ROOT = Path(__file__).parents[1]
FOUNDATION = ROOT / "models/foundations/temper-gfn1.safetensors"
REPLAY = ROOT / "models/foundations/replay.extxyz"
SETS = {
    "nacl": ROOT / "deployments/campaigns/nacl/labels.extxyz",
    "li_carbonate": ROOT.parent / "shared/data/generated_li_carbonate_gfn2/li_carbonate_gfn2.xyz",
}
BATCH = 4
POLL = 0.02
RATE, EMA, CLIP, DELTA, WEIGHT = 1e-3, 0.999, 1.0, 0.01, 10.0  # as the strategy `naive`

MACE = """
import sys
import torch
torch.set_num_threads(1)
from mace.cli.run_train import run
from mace.tools import build_default_arg_parser
run(build_default_arg_parser().parse_args(sys.argv[1:]))
"""


@dataclass(frozen=True, kw_only=True)
class Course:
    """A finished process: seconds since its start and force error (meV/Å) of each evaluation; peak GB."""

    errors: list[tuple[float, float]]
    memory: float

    def lowest(self) -> float:
        return min(error for _, error in self.errors)

    def seconds_to(self, error: float) -> float:
        return next(seconds for seconds, found in self.errors if found <= error)


def watch(command: Sequence[str], record: str, folder: Path) -> Course:
    """Run `command`, and note when each evaluation appears in the file `record` of the folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    errors: list[tuple[float, float]] = []
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            now = time.monotonic() - started
            found = [e for path in folder.glob(record) for e in map(_error, path.read_text().splitlines())]
            errors += [(now, e) for e in [e for e in found if e is not None][len(errors) :]]
            if pid:
                break
            time.sleep(POLL)
    if status:
        raise SystemExit(f"{command[:4]} failed:\n{(folder / 'output.txt').read_text()[-3000:]}")
    return Course(errors=errors, memory=usage.ru_maxrss / 2**20)


def _error(line: str) -> float | None:
    """The force error (meV/Å) in a line of either record, None where it has none or is not whole yet."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    if row.get("mode", "eval") != "eval":
        return None
    return float(row["target_forces_mae"] if "target_forces_mae" in row else 1000.0 * row["mae_f"])


def fit_in_this_process(folder: Path, epochs: int, dtype: str) -> None:
    """What a fine-tuning does from files to a trained network."""
    import torch

    torch.set_num_threads(1)
    from models.datasets import read_structures
    from models.e0s import E0Policy, refit
    from models.potentials import load
    from models.training import fit

    foundation = load(FOUNDATION, getattr(torch, dtype))
    train, valid = (read_structures(folder / f"{name}.extxyz") for name in ("train", "valid"))
    e0s = refit(foundation, train, [], E0Policy()).e0s
    setup, optimisation = _setup(foundation, train, valid, e0s, epochs)
    with (folder / "ours.txt").open("w", buffering=1) as record:
        fit(setup, optimisation, report=lambda row: print(json.dumps(row), file=record))


def _setup(foundation: Any, train: Any, valid: Any, e0s: Any, epochs: int) -> Any:
    from models import losses
    from models.graphs import graphs
    from models.heads import with_heads
    from models.training import Optimisation, TrainingSetup

    items = graphs(train, foundation)
    # Half a structure more than the mean batch, since a budget is not always filled.
    budget = round((BATCH + 0.5) * sum(g.n_edges for g in items) / len(items))
    setup = TrainingSetup(
        network=with_heads(foundation, {"target": e0s}),
        train=items,
        valid={"target": graphs(valid, foundation)},
        weights=[losses.Weights(energy=WEIGHT, forces=WEIGHT)],
    )
    return setup, Optimisation(
        learning_rate=RATE, ema_decay=EMA, clip_gradient=CLIP, epochs=epochs, max_edges=budget
    )


def mace_arguments(epochs: int, dtype: str) -> list[str]:
    """The same training for mace_run_train."""
    return [
        "--name=mace", "--foundation_model=../foundation.model", "--multiheads_finetuning=False",
        "--E0s=estimated", "--train_file=../train.extxyz", "--valid_file=../valid.extxyz",
        "--loss=huber", f"--huber_delta={DELTA}", f"--energy_weight={WEIGHT}",
        f"--forces_weight={WEIGHT}", "--stress_weight=0",
        "--optimizer=adamw", "--amsgrad", "--weight_decay=0", f"--lr={RATE}", f"--clip_grad={CLIP}",
        "--scheduler=ExponentialLR", "--lr_scheduler_gamma=1", "--ema", f"--ema_decay={EMA}",
        f"--batch_size={BATCH}", "--valid_batch_size=16", f"--max_num_epochs={epochs}",
        f"--default_dtype={dtype}", "--device=cpu", "--seed=0", "--num_workers=0",
    ]  # fmt: skip


def race(folder: Path, epochs: int, repeats: int, dtype: str) -> tuple[float, float]:
    """Ratios of times (theirs over ours) and of peak memory (ours over theirs), medians."""
    times, memories = [], []
    for repeat in range(repeats):
        runs = {}
        for name in ("ours", "mace") if repeat % 2 == 0 else ("mace", "ours"):
            if name == "ours":
                command = [sys.executable, __file__, "--fit", str(folder), "--epochs", str(epochs)]
                runs[name] = watch([*command, "--dtype", dtype], "ours.txt", folder)
                (folder / "ours.txt").unlink()
                continue
            with tempfile.TemporaryDirectory(dir=folder) as own:
                command = [sys.executable, "-W", "ignore", "-c", MACE, *mace_arguments(epochs, dtype)]
                runs[name] = watch(command, "results/*_train.txt", Path(own))
        goal = max(run.lowest() for run in runs.values())
        seconds = {name: run.seconds_to(goal) for name, run in runs.items()}
        for name, run in runs.items():
            print(
                f"  {name}: {seconds[name]:6.1f} s to {goal:.1f} meV/Å (first evaluation after "
                f"{run.errors[0][0]:.1f} s, lowest {run.lowest():.1f}), {run.memory:.2f} GB"
            )
        times.append(seconds["mace"] / seconds["ours"])
        memories.append(runs["ours"].memory / runs["mace"].memory)
    return statistics.median(times), statistics.median(memories)


def step_ratio(train: Any, dtype: str, passes: int = 3) -> float:
    """Time of mace-torch's `take_step` over ours on the same batches of the whole network, interleaved."""
    import torch
    from mace import data, modules
    from mace.tools import AtomicNumberTable, torch_geometric
    from mace.tools.train import take_step
    from torch_ema import ExponentialMovingAverage

    from models.potentials import building, load
    from models.training import fit

    torch.set_num_threads(1)
    real = getattr(torch, dtype)
    foundation = load(FOUNDATION, real)
    train = train[: 10 * BATCH]
    setup, optimisation = _setup(foundation, train, train[:1], foundation.e0s(), passes)
    stamps: list[float] = []
    table, keys = AtomicNumberTable(foundation.elements), data.KeySpecification.from_defaults()
    with building(real):
        loss = modules.WeightedEnergyForcesLoss(WEIGHT, WEIGHT)  # their Huber loss needs a stress
        items: Any = [
            data.AtomicData.from_config(
                data.config_from_atoms(a, keys, head_name="target"),
                table,
                foundation.cutoff,
                heads=["target"],
            )
            for a in train
        ]
        loader = torch_geometric.dataloader.DataLoader(items, batch_size=BATCH, shuffle=True, drop_last=False)
    network = copy.deepcopy(setup.network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.0, amsgrad=True)
    average = ExponentialMovingAverage(network.parameters(), EMA)
    output = {"energy": True, "forces": True, "virials": False, "stress": False}
    theirs: list[float] = []

    def their_pass(_: Any = None) -> None:
        stamps.append(time.perf_counter())
        with building(real):
            for batch in loader:
                take_step(network, loss, batch, optimiser, average, output, CLIP, torch.device("cpu"))
        theirs.append(time.perf_counter() - stamps[-1])
        stamps.append(time.perf_counter())

    # Their pass runs whenever an epoch of ours is over, so that both see the same state of the machine.
    fit(setup, optimisation, report=their_pass)
    ours = [b - a for a, b in zip(stamps[1::2], stamps[2::2], strict=False)]
    batches = len(items) / BATCH
    print(
        f"  a step of {BATCH} structures: ours {1000 * min(ours) / batches:.1f} ms, "
        f"mace {1000 * min(theirs) / batches:.1f} ms"
    )
    return min(theirs) / min(ours)


def _stamp_into(stamps: list[float]) -> Callable[[dict[str, Any]], None]:
    return lambda _: stamps.append(time.perf_counter())


def strategy_costs(train: Any, valid: Any) -> dict[str, float]:
    """Time of one epoch of each strategy at its defaults, over one of naive; as much replay as target."""
    import torch

    from models.datasets import read_structures
    from models.potentials import load
    from models.strategies import AnyStrategy, TrainingData
    from models.training import fit

    torch.set_num_threads(1)
    foundation = load(FOUNDATION)
    replay = read_structures(REPLAY)[::8]
    data = TrainingData(
        train=train[:32], valid=valid[:1], replay_train=replay[:32], replay_valid=replay[32:33]
    )
    seconds = {}
    for kind in get_args(get_args(AnyStrategy)[0]):
        strategy = kind()
        one = strategy.optimisation.model_copy(update={"epochs": 2})
        stamps: list[float] = []
        fit(
            strategy.prepare(foundation, foundation.e0s(), data),
            one,
            report=_stamp_into(stamps),
        )
        seconds[strategy.name] = min(b - a for a, b in pairwise(stamps))
    return {name: s / seconds["naive"] for name, s in seconds.items()}


def prepare(name: str, folder: Path, dtype: str) -> tuple[Any, Any]:
    """Training and validation (every fifth) structures of a set, and the files that both sides read."""
    import torch

    from models import potentials
    from models.datasets import read_structures, write_structures

    frames = [a for a in read_structures(SETS[name]) if len(a) > 1]
    valid = frames[::5]
    train = [frame for k, frame in enumerate(frames) if k % 5]
    for part, chosen in (("train", train), ("valid", valid)):
        write_structures(folder / f"{part}.extxyz", chosen)
    model = folder / "foundation.model"
    potentials.export_mace(potentials.load(FOUNDATION), model)
    # Their estimate of E0s runs the model in the type that it has, on data of the type asked for.
    torch.save(torch.load(model, weights_only=False).to(getattr(torch, dtype)), model)
    return train, valid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fit is not None:
        fit_in_this_process(given.fit, given.epochs, given.dtype)
        return
    figures: dict[str, float] = {}
    for name in given.sets:
        if not SETS[name].is_file():
            print(f"{name}: skipped, {SETS[name].name} is not there")
            continue
        with tempfile.TemporaryDirectory() as work:
            train, valid = prepare(name, Path(work), given.dtype)
            print(f"{name}: {len(train)} structures to train on, {len(valid)} to validate, {given.dtype}")
            time_ratio, memory = race(Path(work), given.epochs, given.repeats, given.dtype)
        figures[f"fit_over_mace_run_train[{name}]"] = time_ratio
        figures[f"memory_over_mace[{name}]"] = memory
        figures[f"step_over_mace[{name}]"] = step_ratio(train, given.dtype)
        if name == "nacl":
            costs = strategy_costs(train, valid)
            figures |= {f"cost_over_naive[{strategy}]": cost for strategy, cost in costs.items()}
    publish([(figure, value, "ratio") for figure, value in figures.items()], given.json)


if __name__ == "__main__":
    main()
