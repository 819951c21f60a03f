"""The order of active rounds: as long as the gate does not hold, ask for labels and specialise again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prefect import flow

from flows.acceptance import SIDE_BY_SIDE
from flows.labelling import label_structures
from flows.runners import result
from flows.specialist import Given, Specialist, assess, replayed, specialise
from flows.trainings import Training, train
from models.campaign import Campaign
from models.rounds import FIGURE, Rounds
from models.strategies import AnyStrategy
from tasks.children import interruptible
from tasks.exploration import explore, fit_uncertainty, select
from tasks.external_labels import obtain
from tasks.labelling import Labelled
from tasks.rounds import decide, merge_labels, record_labels, selection_gain, standing
from tasks.validation import measure


@dataclass(frozen=True, kw_only=True)
class Round:
    """Ids of what came of one round; the first, number 0, has only a specialist.

    Attributes:
        selection: the structures that were sent to be labelled; None where none was new.
        labelled: what came back.
        calibration: of the uncertainty that watched the exploration.
        merged: the datasets with the labels of all rounds so far.
        standing: see `models.rounds.Standing`.
    """

    number: int
    specialist: Specialist
    acceptance: str
    standing: Mapping[str, Any]
    selection: str | None = None
    labelled: Labelled = field(default_factory=lambda: Labelled(labels=[], failures=[]))
    calibration: str | None = None
    merged: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Course:
    """All rounds of a campaign, why there are no more, and what its selection gained."""

    rounds: Sequence[Round]
    stopped: str
    gain: Mapping[str, Any] | None


def approach(campaign: Campaign, plan: Rounds, given: Given) -> Course:
    """Specialise, and ask for labels until the gate holds, the budget is spent or nothing more is gained."""
    specialist = specialise(campaign, given, given.data)
    acceptance = assess(campaign, given, specialist)
    first = standing(0, acceptance, None, [])
    rounds = [Round(number=0, specialist=specialist, acceptance=acceptance, standing=first)]
    while (decision := decide(plan, [one.standing for one in rounds])).stopped is None:
        rounds.append(another(campaign, plan, given, rounds, decision.wanted))
    gain = compare_arms(campaign, given, rounds[-1])
    return Course(rounds=rounds, stopped=decision.stopped, gain=gain)


def another(campaign: Campaign, plan: Rounds, given: Given, rounds: Sequence[Round], wanted: int) -> Round:
    """One round more, as a flow run of its own, whose parameters are what a person wants to see."""

    @flow(
        name="round",
        flow_run_name="{campaign_name}-round-{number}",
        task_runner=SIDE_BY_SIDE,
    )
    def run(campaign_name: str, number: int, labels: int) -> Round:
        return ask_and_learn(campaign, plan, given, rounds, labels)

    return run(campaign.name, len(rounds), wanted)


def ask_and_learn(
    campaign: Campaign, plan: Rounds, given: Given, rounds: Sequence[Round], wanted: int
) -> Round:
    """Explore, select, label and merge; then specialise again, and measure on the same test set."""
    before, number = rounds[-1], len(rounds)
    specialist = before.specialist
    checkpoints = [specialist.checkpoint, *members(campaign, plan, given, specialist)]
    uncertainty = fit_uncertainty(campaign, plan, checkpoints, specialist.data)
    pool = explore(campaign, plan, number, checkpoints, uncertainty["uncertainty"], specialist.data["train"])
    earlier = [one.selection for one in rounds if one.selection is not None]
    selection = select(campaign, plan, number, wanted, pool, specialist.checkpoint, specialist.data, earlier)
    labelled = Labelled(labels=[], failures=[])
    if selection is not None:
        labelled = label(plan, selection, f"{campaign.name}-round-{number}")
    done = replace(
        before,
        number=number,
        selection=selection,
        labelled=labelled,
        calibration=uncertainty["calibration"],
    )
    if not labelled.labels:
        return replace(done, standing=standing(number, before.acceptance, selection, []))
    asked = {one.selection: one.labelled.labels for one in (*rounds, done) if one.selection is not None}
    merged = merge_labels(campaign, plan, given.data, list(asked), list(asked.values()))
    if "acquired" in merged:
        record_labels(campaign, plan, merged["acquired"], given.data["test"])
    start = specialist.checkpoint if plan.start == "previous" else None
    parts = {part: merged[part] for part in ("train", "valid")}
    better = specialise(campaign, given, {**specialist.data, **parts}, start)
    acceptance = assess(campaign, given, better)
    now = standing(number, acceptance, selection, labelled.labels)
    return replace(done, specialist=better, acceptance=acceptance, standing=now, merged=merged)


def members(campaign: Campaign, plan: Rounds, given: Given, specialist: Specialist) -> list[str]:
    """The checkpoints of the winner's committee beside itself: the same training with other seeds."""
    strategy = winner(campaign, specialist)
    lessons = {**specialist.lessons, **replayed(strategy, given)}
    seeds = [strategy.optimisation.seed + 1 + k for k in range(plan.uncertainty.trainings)]
    trained = train(campaign, [Training(strategy.seeded(seed), lessons) for seed in seeds])
    return [made["checkpoint"] for made in trained]


def label(plan: Rounds, selection: str, name: str) -> Labelled:
    """The labels of a selection, computed here or brought back by a person."""
    if plan.calculator.kind == "external":
        return obtain(plan.calculator, selection, name)
    return label_structures(plan.calculator, selection, plan.limits, name)


def compare_arms(campaign: Campaign, given: Given, last: Round) -> Mapping[str, Any] | None:
    """What selection gained: the winner's training on equally many selected and random labels.

    None where there is no control arm.
    """
    if "control" not in last.merged:
        return None
    strategy = winner(campaign, last.specialist)
    (check,) = (check for check in campaign.checks if check.kind == FIGURE.partition(".")[0])
    lessons = {**last.specialist.lessons, **replayed(strategy, given)}
    lessons["foundation"] = given.foundation
    arms = ("selected", "control")
    wanted = [Training(strategy, {**lessons, "train": last.merged[arm]}) for arm in arms]
    trained = train(campaign, wanted)
    with interruptible():
        measured = {
            arm: measure.submit(arm, check, made["checkpoint"], given.files)
            for arm, made in zip(arms, trained, strict=True)
        }
        found = {arm: result(future) for arm, future in measured.items()}
    return selection_gain(found["selected"], found["control"])


def winner(campaign: Campaign, specialist: Specialist) -> AnyStrategy:
    """The strategy of the best candidate."""
    (strategy,) = (c for c in campaign.candidates if c.name == specialist.winner)
    return strategy


def said(course: Course) -> dict[str, Any]:
    """What a report shows of a course: ids, as JSON."""
    return {
        "stopped": course.stopped,
        "gain": course.gain,
        "rounds": [
            {
                "number": one.number,
                "acceptance": one.acceptance,
                "selection": one.selection,
                "labels": one.labelled.labels,
                "failures": one.labelled.failures,
                "calibration": one.calibration,
                "merged": dict(one.merged),
                "train": one.specialist.data["train"],
                "valid": one.specialist.data["valid"],
                "cpu_hours": one.standing["cpu_hours"],
            }
            for one in course.rounds
        ],
    }
