"""Where labels and trainings are computed: in threads of this process, or where Dask deals them out."""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from prefect.futures import PrefectFuture, PrefectWrappedFuture
from prefect.task_runners import TaskRunner
from pydantic import Field, TypeAdapter, ValidationError

from db.settings import Settings
from flows.batch_systems import Htcondor, Lsf, Pbs, Sge, Slurm
from flows.clusters import Address, Cluster, ClusterError, Cuda, Local, Resources, Work

AnyCluster = Annotated[
    Local | Address | Slurm | Pbs | Lsf | Sge | Htcondor | Cuda, Field(discriminator="kind")
]

R = TypeVar("R")

_CLUSTER: TypeAdapter[AnyCluster] = TypeAdapter(AnyCluster)

LISTEN_SECONDS = 1.0  # between two moments at which a signal is heard


@dataclass(frozen=True, kw_only=True)
class Place:
    """What runs some tasks, and the resources that each of them asks its workers for."""

    runner: TaskRunner[Any]
    asks_for: Resources

    @contextmanager
    def given(self) -> Iterator[None]:
        """What is submitted in this block asks for its resources."""
        if not self.asks_for:
            yield
            return
        from dask.base import annotate

        with annotate(resources=dict(self.asks_for)):
            yield


def cluster(settings: Settings) -> Cluster | None:
    """The cluster of TEMPER_DASK: an address, `local`, or a YAML file that describes one; None without.

    Raises ClusterError with one line for each mistake.
    """
    said = settings.dask
    if not said:
        return None
    if said == "local":
        return Local()
    if "://" in said:
        return Address(address=said)
    path = Path(said)
    if path.suffix not in (".yaml", ".yml"):
        raise ClusterError(
            f"TEMPER_DASK={said}: give `local`, the address of a scheduler as tcp://host:8786, or a YAML file"
        )
    try:
        return _CLUSTER.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ClusterError(f"TEMPER_DASK={said}: it cannot be read ({error})") from error
    except ValidationError as error:
        raise ClusterError("\n".join(_readable(path, mistake) for mistake in error.errors())) from error


def check(settings: Settings) -> None:
    """Raise ClusterError where TEMPER_DASK names a cluster that cannot be used. Starts no worker."""
    there = cluster(settings)
    if there is None:
        return
    for library in ("prefect_dask", there.library):
        if find_spec(library) is None:
            extra = "dask-cuda" if library == "dask_cuda" else "dask"
            raise ClusterError(
                f"TEMPER_DASK={settings.dask}: {library} is not installed; install Temper with its extra "
                f"'{extra}', or leave TEMPER_DASK empty"
            )
    try:
        there.check()
    except ClusterError as error:
        raise ClusterError(f"TEMPER_DASK={settings.dask}: {error}") from error


def place(work: Work, tasks: int, settings: Settings, *, memory_gb: float | None = None) -> Place | None:
    """Where Dask deals so many tasks out to; None where this kind of work stays with the campaign.

    Each asks for what the workers say that they have: a training for a GPU, or else for a CPU; a label for a
    CPU, and for `memory_gb` (10⁹ bytes).

    Raises ClusterError where the cluster cannot be used, or where no worker has what a task needs.
    """
    there = cluster(settings)
    if there is None or work not in there.work:
        return None
    check(settings)
    from prefect_dask.task_runners import DaskTaskRunner

    logging.getLogger("distributed").setLevel(logging.WARNING)  # else it tells of every connection
    workers = there.workers()
    known = {name for worker in workers for name in worker}
    needs = {"GPU": 1.0} if work == "trainings" and "GPU" in known else {"CPU": 1.0}
    needs |= {} if memory_gb is None else {"MEMORY": 1e9 * memory_gb}
    asks_for = {name: amount for name, amount in needs.items() if name in known}
    if asks_for and not any(_has(worker, asks_for) for worker in workers):
        said = " and ".join(f"{name}={amount:g}" for name, amount in asks_for.items())
        raise ClusterError(f"TEMPER_DASK={settings.dask}: each of the {work} needs {said}; no worker has it")
    return Place(runner=DaskTaskRunner(**there.options(tasks)), asks_for=asks_for)


@contextmanager
def cancel(futures: Sequence[PrefectFuture[Any]]) -> Iterator[None]:
    """What interrupts the block cancels these: what waits does not begin, and Dask's workers end the rest."""
    try:
        yield
    except BaseException:
        for future in futures:
            if isinstance(future, PrefectWrappedFuture):
                future.wrapped_future.cancel()
        raise


def as_they_end(futures: Sequence[PrefectFuture[Any]]) -> Iterator[int]:
    """Count the futures, from 1, as they end.

    Never waits for long: a signal that arrives right before the main thread waits, or that another thread is
    given, is not heard before that wait ends.
    """
    ended = threading.Semaphore(0)
    for future in futures:
        future.add_done_callback(lambda _: ended.release())
    for number in range(1, len(futures) + 1):
        while not ended.acquire(timeout=LISTEN_SECONDS):
            pass
        yield number


def result(future: PrefectFuture[R]) -> R:
    """What a future came to, or what it raises; waited for as by `as_they_end`."""
    for _ in as_they_end([future]):
        pass
    return future.result()


def _has(worker: Resources, needs: Resources) -> bool:
    return all(worker.get(name, 0.0) >= amount for name, amount in needs.items())


def _readable(path: Path, mistake: Any) -> str:
    # The first part of a place in a union is the kind that was chosen.
    field = ".".join(str(part) for part in mistake["loc"][1:]) or "kind"
    message = {
        "extra_forbidden": "unknown field; check its spelling",
        "missing": "is missing; add it",
        "union_tag_not_found": "is missing; say what the cluster is, as kind: slurm",
    }
    said = message.get(mistake["type"], mistake["msg"].removeprefix("Value error, "))
    given = "" if isinstance(mistake["input"], Mapping) else f" (given: {mistake['input']!r})"
    return f"TEMPER_DASK={path}: {field}: {said}{given}"
