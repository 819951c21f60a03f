"""The labels of a selection, in parallel: on threads with child processes, or on Dask."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from db.settings import settings
from flows.runners import Place, as_they_end, cancel, place
from models.reference import AnyCalculator, Limits
from tasks.children import interruptible
from tasks.labelling import Labelled, label, prepare, reason, record_failure
from tasks.progress import progress

FEW = 4
"""Of fewer structures a share says nothing: whatever fails is reported, and that is all."""


class TooManyFailures(RuntimeError):
    """More structures failed than a campaign allows."""


def label_structures(calculator: AnyCalculator, selection: str, limits: Limits, name: str) -> Labelled:
    """Label the structures of a selection (id of an artifact) in a flow of its own, named after `name`.

    What is on record is not computed again, whoever asked for it. What fails never stops the others. An
    interruption ends what is being computed; the next call goes on.

    Raises:
        Unavailable, DataError: before anything runs, see `tasks.labelling.prepare`.
        ClusterError: TEMPER_DASK names a cluster that cannot be used.
        TooManyFailures: more than `limits.max_failed_share` of the structures failed.
    """
    names = prepare(calculator, selection)
    where = place("labels", len(names), settings(), memory_gb=limits.memory_gb) or Place(
        runner=ThreadPoolTaskRunner[Any](max_workers=settings().label_workers), asks_for={}
    )

    @flow(name="label", flow_run_name="label-{name}", task_runner=where.runner)
    def run(
        calculator: AnyCalculator, selection: str, limits: Limits, name: str, asks_for: dict[str, float]
    ) -> Labelled:
        with where.given():
            return _label_all(calculator, selection, limits, name, names)

    return run(calculator, selection, limits, name, dict(where.asks_for))


def _label_all(
    calculator: AnyCalculator, selection: str, limits: Limits, name: str, names: Sequence[str]
) -> Labelled:
    show = progress(f"label {name}", _counted)
    futures: list[PrefectFuture[Mapping[str, str]]] = []
    with interruptible(flow_run.id), cancel(futures):
        for index, title in enumerate(names):
            one = label.with_options(task_run_name=f"label-{title}", retries=limits.retries)
            futures.append(one.submit(calculator, selection, index, title, limits))
        for number in as_they_end(futures):
            show({"done": number, "of": len(names)})
    labels: list[str] = []
    failures: list[str] = []
    for index, (title, future) in enumerate(zip(names, futures, strict=True)):
        try:
            made = future.result()
        except Exception as error:  # whatever a calculator, a worker or the network comes up with
            failures.append(record_failure(calculator, selection, index, title, error))
        else:
            (labels if "label" in made else failures).append(made.get("label") or made["failure"])
    if len(names) >= FEW and len(failures) > limits.max_failed_share * len(names):
        raise TooManyFailures(_complaint(name, len(names), failures, limits))
    return Labelled(labels=labels, failures=failures)


def _counted(message: Mapping[str, int]) -> tuple[float, str]:
    return message["done"] / message["of"], f"{message['done']} of {message['of']} labels"


def _complaint(name: str, asked: int, failures: list[str], limits: Limits) -> str:
    reasons = [reason(failure) for failure in failures]
    examples = dict(reversed(reasons))  # of each error, the first
    numbers = Counter(error for error, _ in reasons).most_common()
    shown = "; ".join(f"{number} × {error}, as {examples[error]!r}" for error, number in numbers)
    return (
        f"labels of {name}: {len(failures)} of {asked} failed, and max_failed_share is "
        f"{limits.max_failed_share:g}: {shown}. The labels that succeeded are kept; mend the cause, run again"
    )
