"""Every fine-tuning strategy, with several seeds, on the shipped NaCl campaign.

`python benchmarks/strategies.py --epochs 16 --seeds 3 --markdown docs/strategies.md` trains each
strategy from the shipped foundation on the campaign's own split and E0s, and measures on trajectories
that no training has seen. All have the same number of passes over the target's labels.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from textwrap import fill
from typing import Any, get_args

import numpy as np
import torch
from figures import publish

from models import datasets, e0s, foundation
from models.campaign import Campaign
from models.campaign_files import load_campaign
from models.finetuning import fine_tune
from models.pseudolabels import replay_set
from models.strategies import AnyStrategy, Frozen, Lora, Strategy
from models.validation import acceptance
from models.validation.accuracy import Accuracy, Retention

EMA_DECAY = 0.99  # for tens of epochs; the paper's 0.999 and more is for hundreds
SHORT_RATE = 1e-3  # of full replay, whose 1e-4 needs as many


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One trained candidate: errors on test trajectories, what was kept, what it cost."""

    forces: float  # meV/Å
    energy: float  # meV/atom
    retention: float  # force error on the replay structures' own labels over the foundation's
    trained: int  # parameters
    seconds: float  # of one CPU core


UNITS = {
    "forces": "meV/Å",
    "energy": "meV/atom",
    "retention": "ratio",
    "trained": "parameters",
    "seconds": "s",
}


def candidates(epochs: int) -> list[Strategy]:
    """All strategies with the rates of arXiv 2606.12704, paced for a few epochs."""
    kinds = get_args(get_args(AnyStrategy)[0])
    more = [Frozen(trains="readouts"), Lora(rank=4), Lora(rank=64)]
    return [_paced(strategy, epochs) for strategy in (*(kind() for kind in kinds), *more)]


def _paced(strategy: Strategy, epochs: int) -> Strategy:
    rate = max(strategy.optimisation.learning_rate, SHORT_RATE)
    pace = {"learning_rate": rate, "ema_decay": EMA_DECAY, "decay": "cosine", "epochs": epochs}
    return strategy.model_copy(update={"optimisation": strategy.optimisation.model_copy(update=pace)})


def prepare(campaign: Campaign, work: Path) -> dict[str, Path]:
    """The campaign's foundation, E0s, and parts of labels and replay, as its flow makes them."""
    labels, replay = campaign.labels, campaign.replay
    start = foundation.save_resolved(campaign.foundation.name, campaign.foundation.head, work)
    parts = datasets.ingest(labels.path, labels.names, labels.units, campaign.split, work)
    parts |= replay_set(start, replay.file, replay.n_structures, replay.seed, work)
    files = {role: part.path for role, part in parts.items()} | {"foundation": start}
    files["e0s"], _ = e0s.refit_file(start, files["train"], files.get("isolated"), campaign.e0s, work)
    return files


def measured(strategy: Strategy, files: dict[str, Path], level: str, work: Path, before: float) -> Measured:
    """Train `strategy` and measure it; `before` is the foundation's force error on its own labels."""
    torch.set_num_threads(1)
    work.mkdir()
    given = {role: files[role] for role in ("foundation", "e0s", "train", "valid")}
    given |= {role: files[part] for role, part in strategy.replay_parts.items()}
    started = time.process_time()
    made = fine_tune(strategy, given, level, {}, work)
    seconds = time.process_time() - started
    found = errors(made["checkpoint"], files, work)
    return Measured(
        forces=found["accuracy.forces"],
        energy=found["accuracy.energy"],
        retention=found["retention.forces"] / before,
        trained=json.loads(made["history"].read_text(encoding="utf-8"))["trained_parameters"],
        seconds=seconds,
    )


def errors(checkpoint: Path, files: dict[str, Path], work: Path, given: Path | None = None) -> dict[str, Any]:
    """Errors of a checkpoint on the test trajectories of the target and of the replay set."""
    tests = {role: files[role] for role in ("test", "replay_test")} | ({"e0s": given} if given else {})
    return acceptance.figures(
        {
            check.kind: json.loads(
                acceptance.measure(check, checkpoint, tests, work).read_text(encoding="utf-8")
            )
            for check in (Accuracy(), Retention())
        }
    )


def rows(found: dict[str, list[Measured]], unchanged: Measured) -> list[str]:
    """The lines of a markdown table: the mean over seeds, and the spread (standard deviation).

    Times vary with the machine: `cost` is the CPU time over that of `naive`.
    """
    naive = [run.seconds for run in found.get("naive", ())]
    lines = [
        "| strategy | target forces, meV/Å | target energy, meV/atom | retention | trained | cost |",
        "|---|---:|---:|---:|---:|---:|",
        f"| (foundation) | {unchanged.forces:.1f} | {unchanged.energy:.2f} | 1.00 | 0 | – |",
    ]
    for name, runs in found.items():
        shown = [name]
        for key, digits in (("forces", 1), ("energy", 2), ("retention", 2), ("trained", 0)):
            values = [getattr(run, key) for run in runs]
            spread = f" ± {np.std(values, ddof=1):.{digits}f}" if key in _SPREADING and len(runs) > 1 else ""
            shown.append(f"{np.mean(values):,.{digits}f}{spread}")
        shown.append(f"{np.mean([run.seconds for run in runs]) / np.mean(naive):.2f}" if naive else "–")
        lines.append(f"| {' | '.join(shown)} |")
    return lines


_SPREADING = ("forces", "energy", "retention")


_OTHERS = (
    *("frozen-interactions", "frozen-but-readouts", "lora-r4", "lora-r16", "lora-r64"),
    *("multihead-replay", "pseudolabelled-replay", "replay-lora-r4"),
)
# What arXiv 2606.12704 finds: the first strategy has the lower number than each of the others.
CLAIMS = (
    ("naive is the most accurate on the target", "forces", "naive", _OTHERS),
    ("replay forgets less than naive", "retention", "multihead-replay", ("naive",)),
    ("pseudolabelled replay forgets less than naive", "retention", "pseudolabelled-replay", ("naive",)),
    ("LoRA forgets less than naive", "retention", "lora-r4", ("naive",)),
    ("replay with LoRA is worse on the target than LoRA", "forces", "lora-r4", ("replay-lora-r4",)),
    ("freezing all but readouts costs accuracy", "forces", "frozen-interactions", ("frozen-but-readouts",)),
)


def claims(found: dict[str, list[Measured]]) -> list[str]:
    """The lines of a markdown table: what the paper finds, and the numbers here."""
    lines = ["| the paper finds | here | numbers |", "|---|---|---|"]
    for claim, key, better, others in CLAIMS:
        means = {name: float(np.mean([getattr(run, key) for run in runs])) for name, runs in found.items()}
        against = {name: means[name] for name in others if name in means}
        if better not in means or not against:
            continue
        best = min(against, key=lambda name: against[name])
        verdict = "so" if means[better] < against[best] else "not so"
        shown = f"{better} {means[better]:.3g}, {best} {against[best]:.3g} {UNITS[key]}"
        lines.append(f"| {claim} | {verdict} | {shown} |")
    return lines


def figures(found: dict[str, list[Measured]]) -> Iterator[tuple[str, float, str]]:
    """Mean and spread of every number, as `name[strategy]`."""
    for name, runs in found.items():
        for field in fields(Measured):
            values, unit = [getattr(run, field.name) for run in runs], UNITS[field.name]
            yield f"{field.name}[{name}]", float(np.mean(values)), unit
            if len(values) > 1 and field.name in _SPREADING:
                yield f"{field.name}_spread[{name}]", float(np.std(values, ddof=1)), unit


def document(
    table: Sequence[str], compared: Sequence[str], campaign: Campaign, epochs: int, seeds: int
) -> str:
    """The page of the documentation."""
    runs = "one seed" if seeds == 1 else f"{seeds} seeds; mean and, after ±, standard deviation over them"
    said = (
        "Every strategy of arXiv 2606.12704, and the sparse ones with their controls "
        f"([sparse.md](sparse.md)), on the shipped campaign `{campaign.name}` ({campaign.description}), "
        f"{epochs} epochs, {runs}. Errors are mean absolute ones on test trajectories. Retention is the "
        "force error on held-out structures of the foundation's own ground, against their own labels, over "
        "the foundation's: 1 is nothing forgotten. `trained` counts the parameters that are other than the "
        "foundation's in the end, or that adapters have; `cost` is the CPU time over that of naive."
    )
    pace = (
        f"Learning rates are those of the paper's Table 7, but {SHORT_RATE:g} for full replay, and the "
        f"defaults of the sparse strategies, with a cosine decay and an EMA of {EMA_DECAY:g}: the paper's "
        "pace is one for hundreds of epochs."
    )
    command = (
        f"python benchmarks/strategies.py --epochs {epochs} --seeds {seeds} --markdown docs/strategies.md"
    )
    said, pace = (fill(text, 110, break_on_hyphens=False) for text in (said, pace))
    made = f"Made by `{command}`."
    return "\n".join(
        [
            "# Strategies",
            "",
            said,
            "",
            *table,
            "",
            pace,
            "",
            "## Beside the paper",
            "",
            *compared,
            "",
            made,
            "",
        ]
    )


def main() -> None:
    """Train everything, print the table, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[], help="names of strategies; default: all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()

    campaign = load_campaign("nacl")
    chosen = [s for s in candidates(args.epochs) if not args.only or s.name in args.only]
    found: dict[str, list[Measured]] = {strategy.name: [] for strategy in chosen}
    spawning = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(args.workers, mp_context=spawning) as pool,
    ):
        work = Path(folder)
        files = prepare(campaign, work)
        start = errors(files["foundation"], files, work, files["e0s"])
        before = start["retention.forces"]
        running = []
        for seed in range(args.seeds):
            for strategy in chosen:
                place = work / f"{strategy.name}-{seed}"
                level = campaign.labels.level_of_theory
                running.append(
                    (strategy.name, pool.submit(measured, strategy.seeded(seed), files, level, place, before))
                )
        for name, future in running:
            found[name].append(future.result())
            print(f"{name}: {asdict(found[name][-1])}", flush=True)
    unchanged = Measured(
        forces=start["accuracy.forces"],
        energy=start["accuracy.energy"],
        retention=1.0,
        trained=0,
        seconds=0.0,
    )
    table = rows(found, unchanged)
    compared = claims(found)
    print("\n".join(["", *table, "", *compared]))
    publish(figures(found), args.json)
    if args.markdown:
        args.markdown.write_text(
            document(table, compared, campaign, args.epochs, args.seeds), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
