"""Sparse fine-tuning beside its controls: `python benchmarks/sparse.py [--json FILE] [--markdown FILE]`.

Every method gets the same budget: trainings of a third of the length at the same six learning rates, of
which the lowest validation error picks one, then full ones with three seeds. Force errors are of test
structures whose trajectories (or formulas, where a set names none) no training has seen. Finished trainings
are kept in `--folder`, and those that were interrupted go on there.

- `force_mae_over_full[3%]`, `..._over_lora[3%]`, `..._over_full[0.5%]`: force error of `sparse` with that
  share of the weights, over that of the other; geometric mean over the sets of ratios of means over the seeds
- `force_mae_over_full[METHOD]`: the same of every other method
- `step_cost_over_full`: CPU time of an epoch of training updates, over one of `naive`, run in turns
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import publish

from models import datasets, e0s, evaluation, foundation
from models.campaign_files import load_campaign
from models.datasets import Keys, Splitting, Units, read_structures
from models.e0s import E0Policy, read_e0s
from models.finetuning import fine_tune
from models.graphs import graphs
from models.potentials import load, n_parameters
from models.strategies import Lora, Masked, Naive, Sparse, Strategy, TrainingData
from models.strategies.lora import with_adapters
from models.training import Optimisation, fit

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("TEMPER_TEST_DATA", ROOT.parent / "shared" / "data"))
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
SHARES = {"3%": 0.03, "0.5%": 0.005}
FULL, LORA = "full", "lora 3%"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """A labelled set: its file, how it is read and split, and for how long it is trained on."""

    path: Path
    level: str
    keys: Keys = field(default_factory=Keys)
    units: Units = field(default_factory=lambda: Units(energy="eV", forces="eV/Å"))
    split: Splitting
    epochs: int
    max_edges: int = 2000


def _nacl() -> Labels:
    campaign = load_campaign("nacl")
    labels = campaign.labels
    return Labels(
        path=Path(labels.path), level=labels.level_of_theory, keys=labels.names, units=labels.units,
        split=campaign.split, epochs=16,
    )  # fmt: skip


SETS = {
    "nacl": _nacl(),
    "nacl_water": Labels(
        path=SHARED / "nacl_water/derived/nacl_water_MP2.xyz",
        level="MP2",
        split=Splitting(valid=0.15, test=0.2, at_most={"train": 20, "valid": 6}),
        epochs=12,
        max_edges=10_000,
    ),
    "spice_dipeptides": Labels(
        path=SHARED / "spice_dipeptides/spice-dipep-dipolar_train.xyz",
        level="wB97M-D3(BJ)/def2-TZVPPD",
        keys=Keys(energy="energy", forces="force"),
        split=Splitting(valid=0.1, test=0.15, at_most={"train": 96, "valid": 24}),
        epochs=16,
    ),
}


def methods(start: Path) -> dict[str, Strategy]:
    """What is compared, by name, with their common pace still to be set."""
    found: dict[str, Strategy] = {FULL: Naive(), LORA: Lora(rank=_rank(start), alpha=4.0)}
    found |= {f"sparse {name}": Sparse(trained_share=share) for name, share in SHARES.items()}
    found |= {f"{by} 3%": Masked(trained_share=0.03, by=by) for by in ("fisher", "magnitude", "random")}
    return found


def _rank(start: Path) -> int:
    """The rank with which LoRA trains as many parameters as 3 % of the network, or nearly."""
    network = load(start).network
    whole = n_parameters(network)
    with_adapters(network.requires_grad_(False), 1, 1.0, 0)
    return max(1, round(SHARES["3%"] * whole / n_parameters(network)))


def paced(strategy: Strategy, labels: Labels, rate: float, epochs: int, seed: int) -> Strategy:
    """The strategy as it is trained here."""
    pace = Optimisation(
        learning_rate=rate, decay="cosine", ema_decay=0.99, clip_gradient=10.0,
        epochs=epochs, max_edges=labels.max_edges, seed=seed,
    )  # fmt: skip
    return strategy.model_copy(update={"optimisation": pace})


def prepare(labels: Labels, work: Path) -> dict[str, Path]:
    """Foundation, E0s and the parts of the labels."""
    if (work / "prepared.json").exists():
        return {k: Path(v) for k, v in json.loads((work / "prepared.json").read_text()).items()}
    work.mkdir(parents=True, exist_ok=True)
    files = {"foundation": foundation.save_resolved("temper-gfn1", None, work)}
    parts = datasets.ingest(labels.path, labels.keys, labels.units, labels.split, work)
    files |= {role: parts[role].path for role in ("train", "valid", "test")}
    isolated = parts["isolated"].path if "isolated" in parts else None
    files["e0s"], _ = e0s.refit_file(files["foundation"], files["train"], isolated, E0Policy(), work)
    (work / "prepared.json").write_text(json.dumps({k: str(v) for k, v in files.items()}))
    return files


def trained(strategy: Strategy, files: Mapping[str, Path], level: str, work: Path) -> dict[str, Any]:
    """Errors and size of a training, computed once and kept in `work`."""
    known = work / "result.json"
    if not known.exists():
        torch.set_num_threads(1)
        work.mkdir(parents=True, exist_ok=True)
        given = {role: files[role] for role in ("foundation", "e0s", "train", "valid")}
        made = fine_tune(strategy, given, level, {}, work)
        history = json.loads(made["history"].read_text(encoding="utf-8"))
        (best,) = (row for row in history["epochs"] if row["epoch"] == history["best_epoch"])
        result = {
            "valid": best["target_forces_mae"],
            "test": error(made["checkpoint"], files),
            "trained": history["trained_parameters"],
        }
        known.with_suffix(".tmp").write_text(json.dumps(result), encoding="utf-8")
        known.with_suffix(".tmp").replace(known)
        for name in ("state.pt", "state.pt.previous"):
            (work / name).unlink(missing_ok=True)
    found: dict[str, Any] = json.loads(known.read_text(encoding="utf-8"))
    return found


def error(checkpoint: Path, files: Mapping[str, Path]) -> float:
    """Mean absolute force error on the test structures, meV/Å."""
    potential = load(checkpoint)
    own = torch.atleast_2d(potential.network.atomic_energies_fn.atomic_energies)
    return evaluation.mean_errors(potential.network, graphs(read_structures(files["test"]), potential), own)[
        "forces_mae"
    ]


def compared(
    names: Sequence[str], folder: Path, only: Sequence[str], seeds: int, shorter: int, pool: Any
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Results of the full-length trainings, by set and method."""
    jobs, wanted = {}, {}
    for name in names:
        labels = SETS[name]
        files = prepare(labels, folder / name)
        short = max(1, round(labels.epochs / 3))
        for method, strategy in methods(files["foundation"]).items():
            if only and method not in only:
                continue
            for rate in RATES:
                tried = paced(strategy, labels, rate, max(1, short // shorter), 0)
                jobs[name, method, rate] = submit(pool, tried, files, labels, folder / name)
            wanted[name, method] = (strategy, files)
    final: dict[Any, Any] = {}
    for (name, method), (strategy, files) in wanted.items():
        labels = SETS[name]
        valid = {rate: jobs[name, method, rate].result()["valid"] for rate in RATES}
        rate = min(valid, key=lambda r: valid[r])
        print(
            f"{name}: {method}: {rate:g} of { ({r: round(v, 1) for r, v in valid.items()}) } meV/Å",
            flush=True,
        )
        epochs = max(1, labels.epochs // shorter)
        final[name, method] = [
            submit(pool, paced(strategy, labels, rate, epochs, seed), files, labels, folder / name)
            for seed in range(seeds)
        ]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in names}
    for (name, method), runs in final.items():
        found[name][method] = [run.result() for run in runs]
        print(f"{name}: {method}: {[round(r['test'], 2) for r in found[name][method]]} meV/Å", flush=True)
    return found


def submit(pool: Any, strategy: Strategy, files: Mapping[str, Path], labels: Labels, folder: Path) -> Any:
    """A training in a process of its own, in the folder that its settings and its data say."""
    digest = hashlib.sha256(strategy.model_dump_json().encode())
    for role in ("train", "valid", "test", "e0s"):
        digest.update(files[role].read_bytes())
    return pool.submit(trained, strategy, files, labels.level, folder / digest.hexdigest()[:16])


def step_cost(folder: Path, repeats: int = 7) -> float:
    """CPU time of an epoch's updates at 3 %, over that of naive: median of ratios of runs in turns."""
    torch.set_num_threads(1)
    labels = SETS["nacl"]
    files = prepare(labels, folder / "nacl")
    start, energies = load(files["foundation"]), read_e0s(files["e0s"])
    frames = read_structures(files["train"])
    data = TrainingData(train=frames[:48], valid=sorted(frames, key=len)[:1])

    def seconds(strategy: Strategy) -> float:
        stamps: list[float] = []
        two = strategy.optimisation.model_copy(update={"epochs": 2})
        setup = strategy.prepare(start, energies, data)
        fit(setup, two, report=lambda _: stamps.append(time.process_time()))
        return min(b - a for a, b in pairwise(stamps))

    ratios, times = [], []
    for turn in range(repeats):
        order: list[Strategy] = [Naive(), Sparse()]
        found = {s.kind: seconds(s) for s in (order if turn % 2 == 0 else order[::-1])}
        ratios.append(found["sparse"] / found["naive"])
        times.append(found)
    best = {kind: min(found[kind] for found in times) for kind in times[0]}
    print(f"an epoch of {len(data.train)} structures: {best}, ratios {[round(r, 3) for r in ratios]}")
    return statistics.median(ratios)


def rows(found: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> list[str]:
    """The lines of a markdown table: mean and standard deviation over the seeds, ratios to full."""
    lines = [
        "| method | changed weights | " + " | ".join(f"{name}, meV/Å" for name in found) + " | over full |",
        "|---|---:|" + "---:|" * (len(found) + 1),
    ]
    for method in next(iter(found.values())):
        runs = [found[name][method] for name in found]
        sizes = sorted({run["trained"] for of_set in runs for run in of_set})
        size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        shown = [method, size, *map(_spread, runs), f"{ratio(found, method, FULL):.3f}"]
        lines.append(f"| {' | '.join(shown)} |")
    return lines


def _spread(runs: Sequence[Mapping[str, Any]]) -> str:
    errors = [run["test"] for run in runs]
    return f"{np.mean(errors):.1f}" + (f" ± {np.std(errors, ddof=1):.1f}" if len(errors) > 1 else "")


def ratio(found: Mapping[str, Mapping[str, list[dict[str, Any]]]], method: str, other: str) -> float:
    """Geometric mean over the sets of a method's mean force error over another's."""
    logs = [
        math.log(np.mean([r["test"] for r in runs[method]]) / np.mean([r["test"] for r in runs[other]]))
        for runs in found.values()
        if method in runs and other in runs
    ]
    return math.exp(np.mean(logs)) if logs else math.nan


def figures(found: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> Iterator[tuple[str, float, str]]:
    """Ratios of force errors by method."""
    if LORA in next(iter(found.values())):
        yield "force_mae_over_lora[3%]", ratio(found, "sparse 3%", LORA), "ratio"
    for method in next(iter(found.values())):
        if method != FULL:
            yield (
                f"force_mae_over_full[{method.removeprefix('sparse ')}]",
                ratio(found, method, FULL),
                "ratio",
            )


def document(table: Sequence[str], found: Sequence[tuple[str, float, str]], seeds: int) -> str:
    """A section of the documentation."""
    return "\n".join(
        [
            "",
            "## Measured",
            "",
            f"Force errors on test structures, {seeds} seeds; mean and standard deviation over them. Every",
            "method had its learning rate picked of the same six on validation structures.",
            "",
            *table,
            "",
            "| figure | value |",
            "|---|---:|",
            *(f"| `{name}` | {value:.3f} |" for name, value, _ in found),
            "",
            "Made by `python benchmarks/sparse.py --markdown docs/sparse.md`.",
            "",
        ]
    )


def main() -> None:
    """Train, compare, print the table, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--parts", nargs="+", choices=["accuracy", "cost"], default=["accuracy", "cost"])
    parser.add_argument("--methods", nargs="+", default=[], help="names as in the table; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shorter", type=int, default=1, help="divide all epochs by this, to try things")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/benchmarks/sparse")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, help="replace the section Measured of this file, or add it")
    args = parser.parse_args()

    names = [name for name in args.sets if SETS[name].path.is_file()]
    for name in set(args.sets) - set(names):
        print(f"{name}: skipped, {SETS[name].path.name} is not there")
    published: list[tuple[str, float, str]] = []
    table: list[str] = []
    if "cost" in args.parts:
        published.append(("step_cost_over_full", step_cost(args.folder), "ratio"))
    if "accuracy" in args.parts and names:
        spawning = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.processes, mp_context=spawning) as pool:
            found = compared(names, args.folder, args.methods, args.seeds, args.shorter, pool)
        table = rows(found)
        published += figures(found)
        print("\n".join(["", *table, ""]))
    publish(published, args.json)
    if args.markdown:
        before = (
            args.markdown.read_text(encoding="utf-8") if args.markdown.exists() else "# Sparse fine-tuning\n"
        )
        text = before.split("\n## Measured")[0] + document(table, published, args.seeds)
        args.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
