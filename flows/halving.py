"""The order of a sweep: train all trials a little, the better ones longer, and recommend one."""

from collections.abc import Mapping
from dataclasses import replace

from flows.runners import result
from flows.specialist import Given, replayed, taught
from flows.trainings import Training, attempt
from models.campaign import Campaign
from models.memory import DoesNotFit
from models.sweeps import Rung, Sweep, Trial
from models.training import Diverged, EmptyTraining
from models.validation.accuracy import Accuracy, Retention
from tasks.children import ChildDied, Interrupted, interruptible
from tasks.sweeps import Trained, conclude_sweep, pick
from tasks.validation import measure

FAILURES = (Diverged, EmptyTraining, DoesNotFit, ChildDied)
"""What ends one trial of a sweep and not the others."""


def choose(campaign: Campaign, sweep: Sweep, given: Given) -> str:
    """The id of what a sweep came to; see `models.halving.Result`. The test structures have no part in it."""
    lessons = taught(campaign, given, given.data)
    kept = {"replay_test": given.replay.get("original_valid", given.replay["replay_valid"])}
    with interruptible():
        before = {
            "accuracy": measure.submit(
                "foundation",
                Accuracy(),
                given.foundation,
                {"test": given.data["valid"], "e0s": lessons["e0s"]},
            ),
            "retention": measure.submit("foundation", Retention(), given.foundation, kept),
        }
        foundation = {kind: result(future) for kind, future in before.items()}
    trials = {trial.name: trial for trial in sweep.trials()}
    trained: list[Trained] = []
    states: Mapping[str, str] = {}
    left = list(trials)
    for rung in sweep.schedule():
        running = [trials[name] for name in left]
        now, states = climb(campaign, sweep, rung, running, states, given, lessons, kept)
        trained += now
        left = pick(sweep, rung, trained)
    return conclude_sweep(campaign, sweep, trained, foundation)


def climb(
    campaign: Campaign,
    sweep: Sweep,
    rung: Rung,
    trials: list[Trial],
    states: Mapping[str, str],
    given: Given,
    lessons: Mapping[str, str],
    kept: Mapping[str, str],
) -> tuple[list[Trained], dict[str, str]]:
    """One rung: what its trainings made, and by name of trial the states that the next one goes on from."""
    first = sweep.seeds[0]
    runs = [(trial, seed) for trial in trials for seed in rung.seeds]
    wanted = [
        Training(
            rung.strategy(trial, seed),
            {**lessons, **replayed(trial.strategy, given)},
            keep_state=sweep.goes_on(trial, rung),
            goes_on_from=states.get(trial.name) if seed == first else None,
        )
        for trial, seed in runs
    ]
    made = attempt(campaign, wanted)
    with interruptible():
        measured = {
            k: measure.submit(trial.name, Retention(), one["checkpoint"], kept)
            for k, ((trial, _), one) in enumerate(zip(runs, made, strict=True))
            if not isinstance(one, Exception)
        }
        found = {k: result(future) for k, future in measured.items()}
    trained, states_now = [], {}
    for k, ((trial, seed), training, one) in enumerate(zip(runs, wanted, made, strict=True)):
        run = Trained(
            trial=trial.name,
            rung=rung.number,
            epochs=rung.epochs(trial),
            seed=seed,
            goes_on=training.goes_on_from is not None,
        )
        if not isinstance(one, Exception):
            run = replace(run, history=one["history"], checkpoint=one["checkpoint"], retention=found[k])
            if seed == first and "state" in one:
                states_now[trial.name] = one["state"]
        elif isinstance(one, FAILURES) and not isinstance(one, Interrupted):
            run = replace(run, failure=f"{type(one).__name__}: {one}")
        else:
            raise one
        trained.append(run)
    return trained, states_now
