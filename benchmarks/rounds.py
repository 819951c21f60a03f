"""How many labels active rounds need, against labels drawn at random, and what a kill costs.

`python benchmarks/rounds.py --parts selection lost` starts the shipped campaign `nacl-active` from its few
labels with several seeds. In each round every arm explores with its own specialist, and adds equally many
labels at GFN2-xTB: those its selector prefers, or those drawn at random from the same pool. Both the mean
absolute force error on the test trajectories and the 99th percentile of its components are followed. The
number of labels at which they first fall below a gate is interpolated between rounds, linearly in the
logarithms of both. The second part kills a campaign with -9 while it labels.
"""

import argparse
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from figures import publish
from interruption import Home
from scipy.stats import t

from models import datasets, e0s, foundation
from models.campaign import Campaign
from models.campaign_files import load_campaign
from models.datasets import read_structures, write_structures
from models.exploration.files import explore_files
from models.finetuning import fine_tune
from models.rounds import Rounds, joined, merge
from models.selection import SELECTOR
from models.selection.files import select_files
from models.strategies import Strategy
from models.uncertainty.files import fit_files
from models.validation import acceptance
from models.validation.accuracy import Accuracy

CAMPAIGN = "nacl-active"
KILLS = 3
FIGURES = {"forces": 42.0, "forces_p99": 220.0}  # and the gates on them, meV/Å


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Labels that were trained or validated on, and by figure the error on test trajectories, meV/Å."""

    labels: Sequence[int]
    errors: Mapping[str, Sequence[float]]

    def needed(self, figure: str, gate: float) -> float:
        """Labels at which the error first falls below `gate`; infinite where it never did."""
        points = list(zip(map(math.log, self.labels), map(math.log, self.errors[figure]), strict=True))
        if points[0][1] <= math.log(gate):
            return float(self.labels[0])
        for (x, y), (x_next, y_next) in pairwise(points):
            if y_next <= math.log(gate):
                return math.exp(x + (x_next - x) * (y - math.log(gate)) / (y - y_next))
        return math.inf


def course(arm: str, seed: int, n_rounds: int, per_round: int, work: Path) -> Curve:
    """The curve of one arm: a selector's kind."""
    torch.set_num_threads(1)
    plan = load_campaign(CAMPAIGN, seed=seed, fields={"split.seed": 0})
    rounds = plan.rounds
    assert rounds is not None
    work.mkdir()
    files = prepare(plan, seed, work)
    # Of several candidates a campaign would train all: one is enough to compare arms.
    strategy = plan.candidates[0]
    selector = SELECTOR.validate_python(
        rounds.selector.model_dump() if arm == rounds.selector.kind else {"kind": arm}
    )
    selections: list[Path] = []
    came: list[list[Path]] = []
    data = {part: files[part] for part in ("train", "valid")}
    labels: list[int] = []
    errors: dict[str, list[float]] = {figure: [] for figure in FIGURES}
    for number in range(n_rounds + 1):
        place = work / f"round-{number}"
        place.mkdir()
        checkpoints = trained(plan, strategy, rounds, files | data, place)
        labels.append(sum(len(read_structures(data[part])) for part in ("train", "valid")))
        for figure, value in measured(checkpoints[0], files["test"], place).items():
            errors[figure].append(value)
        now = ", ".join(f"{figure} {values[-1]:.1f} meV/Å" for figure, values in errors.items())
        print(f"{arm}, seed {seed}: {labels[-1]} labels, {now}", flush=True)
        if number == n_rounds:
            break
        uncertainty = fit_files(rounds.uncertainty, checkpoints, data["train"], data["valid"], place)
        starts = joined([data["train"]], place / "starts.extxyz")
        given = (rounds.explorers, checkpoints, uncertainty["uncertainty"], starts, seed + number, place)
        pool = explore_files(*given)
        known = [data["train"], data["valid"]]
        selections.append(
            select_files(selector, 0.0, per_round, pool, known, checkpoints[0], seed + number, place)
        )
        came.append(labelled(rounds, selections[-1], place))
        parts = merge(files["train"], files["valid"], selections, came, rounds.valid, seed, place)
        data = {part: parts[part].path for part in ("train", "valid")}
    return Curve(labels=labels, errors=errors)


def prepare(plan: Campaign, seed: int, work: Path) -> dict[str, Path]:
    """Foundation, and the labels it starts with: those of the campaign, others for every seed."""
    labels = plan.labels
    whole = plan.split.model_copy(update={"at_most": None})
    parts = datasets.ingest(labels.path, labels.names, labels.units, whole, work)
    files = {role: part.path for role, part in parts.items()}
    rng = np.random.default_rng(seed)
    for part, number in (plan.split.at_most or {}).items():
        frames = read_structures(files[part])
        picks = sorted(rng.choice(len(frames), number, replace=False))
        write_structures(files[part], [frames[i] for i in picks])
    files["foundation"] = foundation.save_resolved(plan.foundation.name, plan.foundation.head, work)
    return files


def trained(
    plan: Campaign, strategy: Strategy, rounds: Rounds, files: dict[str, Path], work: Path
) -> list[Path]:
    """The specialist and, where its uncertainty needs them, the members with other seeds."""
    given = {role: files[role] for role in ("foundation", "train", "valid")}
    given["e0s"], _ = e0s.refit_file(files["foundation"], files["train"], None, plan.e0s, work)
    made = []
    for k in range(1 + rounds.uncertainty.trainings):
        member = strategy.seeded(strategy.optimisation.seed + k)
        place = work / f"member-{k}"
        place.mkdir()
        made.append(fine_tune(member, given, plan.labels.level_of_theory, {}, place)["checkpoint"])
    return made


def measured(checkpoint: Path, test: Path, work: Path) -> dict[str, float]:
    """The errors on the test trajectories by figure, meV/Å."""
    found = json.loads(
        acceptance.measure(Accuracy(), checkpoint, {"test": test}, work).read_text(encoding="utf-8")
    )
    return {figure: float(found["figures"][figure]["value"]) for figure in FIGURES}


def labelled(rounds: Rounds, selection: Path, work: Path) -> list[Path]:
    """A file for the label of each structure that could be labelled."""
    files = []
    for index, atoms in enumerate(read_structures(selection)):
        try:
            frame = rounds.calculator.label(atoms, work / f"label-{index}")
        except RuntimeError as failure:
            print(f"no label of structure {index}: {failure}", flush=True)
            continue
        files.append(work / f"label-{index}.extxyz")
        write_structures(files[-1], [frame])
    return files


def compared(
    arms: Sequence[str],
    seeds: int,
    n_rounds: int,
    per_round: int,
    gates: Mapping[str, float],
    workers: int,
) -> Iterator[tuple[str, float, str]]:
    """Labels that every arm needs, and how many times more random needs; mean and spread over seeds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool,
    ):
        running = {
            (arm, seed): pool.submit(course, arm, seed, n_rounds, per_round, Path(folder) / f"{arm}-{seed}")
            for seed in range(seeds)
            for arm in arms
        }
        curves = {key: future.result() for key, future in running.items()}
    for figure, gate in gates.items():
        print(f"\n| labels | {' | '.join(f'{arm}, {figure}, meV/Å' for arm in arms)} |")
        print("|---:|" + "---:|" * len(arms))
        for k in range(n_rounds + 1):
            row = [f"{np.mean([curve.labels[k] for curve in curves.values()]):.0f}"]
            for arm in arms:
                errors = [curves[arm, seed].errors[figure][k] for seed in range(seeds)]
                row.append(f"{np.mean(errors):.1f} ± {np.std(errors, ddof=1) if seeds > 1 else 0.0:.1f}")
            print(f"| {' | '.join(row)} |")
        needed = {arm: [curves[arm, s].needed(figure, gate) for s in range(seeds)] for arm in arms}
        for arm, numbers in needed.items():
            print(f"{arm}: {', '.join(f'{n:.1f}' for n in numbers)} labels to {figure} {gate:g} meV/Å")
        for arm in arms:
            if arm != "random":
                yield from ratio(f"{arm}, {figure}", needed["random"], needed[arm])


def ratio(name: str, random: Sequence[float], selected: Sequence[float]) -> Iterator[tuple[str, float, str]]:
    """How many times more labels random needs: the geometric mean over seeds and its 95 % interval.

    Seeds where an arm never reached the gate are left out, and counted.
    """
    both = [(r, s) for r, s in zip(random, selected, strict=True) if math.isfinite(r) and math.isfinite(s)]
    yield f"seeds_reaching[{name}]", len(both), "seeds"
    if not both:
        return
    logs = np.log([r / s for r, s in both])
    yield f"random_over_selected_labels[{name}]", float(np.exp(logs.mean())), "ratio"
    if len(both) > 1:
        half = t.ppf(0.975, len(both) - 1) * logs.std(ddof=1) / math.sqrt(len(both))
        yield f"random_over_selected_labels_low[{name}]", float(np.exp(logs.mean() - half)), "ratio"
        yield f"random_over_selected_labels_high[{name}]", float(np.exp(logs.mean() + half)), "ratio"


def lost(kills: int) -> Iterator[tuple[str, float, str]]:
    """Kill a campaign with -9 while it labels, several times; finished labels that are gone or made again."""
    done = "SELECT key, attempt FROM step WHERE kind = 'label' AND status = 'done'"
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home", CAMPAIGN, 4312, ("--set", "rounds.at_most=1"))
        try:
            finished: set[tuple[str, ...]] = set()
            for _ in range(kills):
                process = home.start()
                while process.poll() is None and len(home.ask(done)) < len(finished) + 3:
                    time.sleep(0.05)
                if process.poll() is not None:
                    raise SystemExit(f"the campaign ended before it was killed:\n{home.log()}")
                finished |= home.ask(done)
                home.kill(process)
            process = home.start()
            if process.wait() != 0:
                raise SystemExit(f"the campaign failed:\n{home.log()}")
            after = home.ask(done)
        finally:
            home.stop()
    yield "kills_while_labelling", kills, "kills"
    yield "labels", len(after), "labels"
    yield "labels_lost", len(finished - after), "labels"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=("selection", "lost"), default=["selection", "lost"])
    parser.add_argument("--arms", nargs="+", default=["threshold", "novelty", "random"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--per-round", type=int, default=10)
    for figure, gate in FIGURES.items():
        parser.add_argument(f"--{figure.replace('_', '-')}", type=float, default=gate, help="gate, meV/Å")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures: list[tuple[str, float, str]] = []
    if "selection" in args.parts:
        gates = {figure: getattr(args, figure) for figure in FIGURES}
        figures += compared(args.arms, args.seeds, args.rounds, args.per_round, gates, args.workers)
    if "lost" in args.parts:
        figures += lost(KILLS)
    publish(figures, args.json)


if __name__ == "__main__":
    main()
