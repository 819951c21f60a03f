"""Trainings side by side: with the campaign, or on a cluster."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prefect import flow
from prefect.futures import PrefectFuture

from db.settings import settings
from flows.runners import as_they_end, cancel, place
from models.campaign import Campaign
from models.strategies import AnyStrategy
from tasks.children import interruptible
from tasks.training import fine_tune

Made = Mapping[str, str]
"""Ids of checkpoint and history."""


class Training(NamedTuple):
    """A strategy, ids by role of what it trains on, and the rest of `tasks.training.fine_tune`."""

    strategy: AnyStrategy
    lessons: Mapping[str, str]
    keep_state: bool = False
    goes_on_from: str | None = None


def train(campaign: Campaign, wanted: Sequence[Training]) -> list[Made]:
    """What `attempt` made of each; raises the first failure once all are done."""
    made = []
    for one in attempt(campaign, wanted):
        if isinstance(one, Exception):
            raise one
        made.append(one)
    return made


def attempt(campaign: Campaign, wanted: Sequence[Training]) -> list[Made | Exception]:
    """What each made, in their order, or why it failed.

    One that fails does not stop the others. An interruption ends them all, wherever they compute; the next
    call goes on from their checkpoints.

    Raises ClusterError where TEMPER_DASK gives trainings to a cluster that cannot be used.
    """
    where = place("trainings", len(wanted), settings())
    if where is None:
        return _attempt(campaign, wanted)

    @flow(name="train", flow_run_name="train-{campaign_name}", task_runner=where.runner)
    def run(campaign_name: str, candidates: list[str], asks_for: dict[str, float]) -> list[Made | Exception]:
        with where.given():
            return _attempt(campaign, wanted)

    return run(campaign.name, [training.strategy.name for training in wanted], dict(where.asks_for))


def _attempt(campaign: Campaign, wanted: Sequence[Training]) -> list[Made | Exception]:
    with interruptible():
        running = [fine_tune.submit(campaign, *training) for training in wanted]
        with cancel(running):
            for _ in as_they_end(running):
                pass
        return [_outcome(future) for future in running]


def _outcome(future: PrefectFuture[Made]) -> Made | Exception:
    try:
        return future.result()
    except Exception as error:
        return error
