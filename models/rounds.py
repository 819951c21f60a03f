"""Active rounds: what a campaign may ask for, when it stops asking, and how new labels join the old ones."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field

from models.datasets import Part, describe, fingerprint, read_structures, write_structures
from models.exploration import AnyExplorer, Dynamics
from models.reference import AnyCalculator
from models.reference.base import Limits
from models.reference.plausibility import examine
from models.selection import AnySelector, Threshold
from models.uncertainty import AnyUncertainty, LastLayer
from models.validation.base import compare_in_pairs

FIGURE = "accuracy.forces"
"""What tells whether a round has gained anything."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(_Section):
    """What all rounds together may cost."""

    labels: int | None = Field(None, ge=1, description="structures that are sent to be labelled")
    cpu_hours: float | None = Field(None, gt=0, description="of the reference calculator")


class Starts(_Section):
    """Structures without labels from which explorers start as well, as compositions not labelled yet."""

    path: Path
    licence: str = "unknown"


class Rounds(_Section):
    """How a campaign that misses its gate gets the labels it needs."""

    at_most: int = Field(5, ge=1, description="rounds")
    labels_per_round: int = Field(20, ge=1)
    budget: Budget = Budget()
    calculator: AnyCalculator = Field(description="what computes the labels, at the level of those there are")
    limits: Limits = Limits()
    explorers: tuple[AnyExplorer, ...] = Field((Dynamics(),), min_length=1)
    starts: Starts | None = None
    uncertainty: AnyUncertainty = LastLayer()
    selector: AnySelector = Threshold()
    control: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of each round's labels drawn at random, to tell what the selection gains",
    )
    valid: float = Field(0.15, ge=0, lt=1, description="share of the new walkers that is validated on")
    start: Literal["foundation", "previous"] = Field(
        "foundation", description="refit from the foundation, or go on from the round before"
    )
    patience: int = Field(2, ge=1, description="rounds without a gain that can be told before it stops")
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a campaign is after a round.

    Attributes:
        passed: whether the gate holds.
        sent: structures sent to be labelled in this round, whatever came of them.
        labels: labels that came back.
        cpu_hours: what they cost.
        samples: of `FIGURE`, by which it is compared with the round before.
    """

    passed: bool
    sent: int
    labels: int
    cpu_hours: float
    samples: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether there is another round: why not, else how many labels it may ask for."""

    stopped: str | None
    wanted: int = 0


def decide(plan: Rounds, standings: Sequence[Standing]) -> Decision:
    """What to do after these rounds, the first of which is the start without any."""
    done = len(standings) - 1
    if standings[-1].passed:
        return Decision(stopped="the gate holds")
    if done and not standings[-1].labels:
        return Decision(stopped=f"round {done} brought no new label")
    if done >= plan.patience and not any(_gains(standings[-plan.patience - 1 :])):
        return Decision(
            stopped=f"in {plan.patience} rounds no gain could be told (the 95 % intervals of the force error "
            "over that of the round before include 1)"
        )
    if done == plan.at_most:
        return Decision(stopped=f"all rounds are done (at_most: {plan.at_most})")
    wanted = plan.labels_per_round
    if plan.budget.labels is not None:
        wanted = min(wanted, plan.budget.labels - sum(s.sent for s in standings))
    if plan.budget.cpu_hours is not None:
        wanted = min(wanted, _affordable(plan.budget.cpu_hours, standings, wanted))
    return Decision(stopped=None, wanted=wanted) if wanted > 0 else Decision(stopped="the budget is spent")


def _gains(standings: Sequence[Standing]) -> Iterable[bool]:
    """For each round after the first of these, whether it is surely better than the one before."""
    for before, after in pairwise(standings):
        ratio, interval = compare_in_pairs(after.samples, before.samples, difference=False)
        yield (ratio if interval is None else interval[1]) < 1.0


def _affordable(hours: float, standings: Sequence[Standing], wanted: int) -> int:
    """How many labels the rest of the CPU time buys at the mean price so far."""
    spent, sent = sum(s.cpu_hours for s in standings), sum(s.sent for s in standings)
    return wanted if not spent else int((hours - spent) / (spent / sent))


@dataclass(frozen=True, kw_only=True)
class Doubtful:
    """A label that is not trained on, and why."""

    round: int
    structure: str
    formula: str
    reason: str


def joined(files: Sequence[Path], path: Path) -> Path:
    """Write the structures of several files to `path`, one after another."""
    write_structures(path, [frame for file in files for frame in read_structures(file)])
    return path


def merge(
    train: Path,
    valid: Path,
    selections: Sequence[Path],
    labels: Sequence[Sequence[Path]],
    share: float,
    seed: int,
    work: Path,
) -> dict[str, Part]:
    """The datasets of a campaign with the labels of all its rounds.

    `train` and `valid` are those it started with; `selections` and `labels` the structures that each round
    asked for and the labels that came. New labels are dealt to train and, a `share` of the walkers, to valid;
    a walker stays where it once was. Parts: `train`, `valid`, `acquired` (all sound new labels) and, where
    there are any, `doubtful`; to tell what the selection gains, `selected` and `control`: the first training
    set with equally many labels of either arm. A part `tally` is JSON.
    """
    parts = {"train": read_structures(train), "valid": read_structures(valid)}
    first = list(parts["train"])
    acquired: list[Atoms] = []
    doubtful: list[Atoms] = []
    doubts: list[Doubtful] = []
    for number, (selection, files) in enumerate(zip(selections, labels, strict=True), start=1):
        new = _labelled(selection, files, number)
        reasons: dict[int, str] = {}
        for doubt in examine(new, [*parts["train"], *parts["valid"]]):
            reasons.setdefault(doubt.index, doubt.reason)
        for index, frame in enumerate(new):
            if index in reasons:
                doubtful.append(frame)
                doubts.append(_doubtful(frame, number, reasons[index]))
                continue
            acquired.append(frame)
            parts["valid" if _drawn(frame, seed) < share else "train"].append(frame)
    parts |= {"acquired": acquired, "doubtful": doubtful, **_arms(first, parts["train"][len(first) :])}
    made = {}
    for name, frames in parts.items():
        if frames:
            path = work / f"{name}.extxyz"
            write_structures(path, frames)
            made[name] = Part(path=path, contents=describe(frames))
    tally = {"doubtful": [asdict(doubt) for doubt in doubts]}
    path = work / "tally.json"
    path.write_text(json.dumps(tally, indent=1, ensure_ascii=False), encoding="utf-8")
    made["tally"] = Part(path=path, contents={})
    return made


def _labelled(selection: Path, files: Sequence[Path], number: int) -> list[Atoms]:
    """The labels of a round in the order of preference, with what the selection says of each."""
    if not files:
        return []
    labels = {fingerprint(frame): frame for path in files for frame in read_structures(path)}
    found = []
    for asked in read_structures(selection):
        frame = labels.get(fingerprint(asked))
        if frame is not None:
            kept = {k: v for k, v in frame.info.items() if k.startswith("REF_") or k == "level_of_theory"}
            frame.info = {**asked.info, **kept, "round": number}
            frame.info["trajectory"] = f"round-{number}-{frame.info.pop('walker')}"
            found.append(frame)
    return found


def _drawn(frame: Atoms, seed: int) -> float:
    """A number in [0, 1) that a walker keeps."""
    digest = hashlib.sha256(f"{seed} {frame.info['trajectory']}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _arms(first: Sequence[Atoms], new: Sequence[Atoms]) -> dict[str, list[Atoms]]:
    by_arm = {arm: [f for f in new if f.info["arm"] == arm] for arm in ("selected", "control")}
    number = min(map(len, by_arm.values()))
    return {arm: [*first, *frames[:number]] for arm, frames in by_arm.items()} if number else {}


def _doubtful(frame: Atoms, number: int, reason: str) -> Doubtful:
    formula = frame.get_chemical_formula()
    return Doubtful(round=number, structure=fingerprint(frame), formula=formula, reason=reason)


def selection_gain(
    selected: Mapping[str, Any], control: Mapping[str, Any]
) -> tuple[float, tuple[float, float] | None]:
    """The force error after random labels over that after as many selected ones, with its 95 % interval.

    Both are findings of the check `accuracy` on the same test structures.
    """
    samples = [finding["figures"]["forces"]["samples"] for finding in (control, selected)]
    return compare_in_pairs(samples[0], samples[1], difference=False)
