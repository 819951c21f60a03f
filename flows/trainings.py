"""Trainings side by side: with the campaign, or on a cluster."""

from collections.abc import Mapping, Sequence

from prefect import flow
from prefect.futures import wait

from db.settings import settings
from flows.runners import cancel, place
from models.campaign import Campaign
from models.strategies import AnyStrategy
from tasks.children import interruptible
from tasks.training import fine_tune

Training = tuple[AnyStrategy, Mapping[str, str]]
"""A strategy, and ids by role of what it trains on (see `tasks.training.fine_tune`)."""


def train(campaign: Campaign, wanted: Sequence[Training]) -> list[Mapping[str, str]]:
    """Ids of checkpoint and history of each, in their order.

    One that fails does not stop the others; the first failure is raised once all are done. An interruption
    ends them all, wherever they compute; the next call goes on from their checkpoints.

    Raises ClusterError where TEMPER_DASK gives trainings to a cluster that cannot be used.
    """
    where = place("trainings", len(wanted), settings())
    if where is None:
        return _train(campaign, wanted)

    @flow(name="train", flow_run_name="train-{campaign_name}", task_runner=where.runner)
    def run(campaign_name: str, candidates: list[str], asks_for: dict[str, float]) -> list[Mapping[str, str]]:
        with where.given():
            return _train(campaign, wanted)

    return run(campaign.name, [strategy.name for strategy, _ in wanted], dict(where.asks_for))


def _train(campaign: Campaign, wanted: Sequence[Training]) -> list[Mapping[str, str]]:
    with interruptible():
        running = [fine_tune.submit(campaign, strategy, lessons) for strategy, lessons in wanted]
        with cancel(running):
            wait(running)
        return [future.result() for future in running]
