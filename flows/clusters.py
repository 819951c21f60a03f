"""Clusters that Dask deals work out to: what a person says of one, checked, and as Dask wants to hear it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from db import artifacts
from db.settings import settings
from models import devices

Resources = Mapping[str, float]
"""What a worker has, or what a task needs, by the usual names of Dask: CPU, GPU, MEMORY (bytes)."""

Work = Literal["labels", "trainings"]

ANSWER_SECONDS = 15.0  # for a scheduler to answer


class ClusterError(RuntimeError):
    """A cluster that cannot be used; the message says what to do."""


class Cluster(BaseModel, ABC):
    """What all clusters have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    work: tuple[Work, ...] = Field(
        ("labels",), description="what is computed there; all else stays with the campaign"
    )
    library: ClassVar[str] = "prefect_dask"

    def check(self) -> None:
        """Raise ClusterError where it cannot be used, as far as that can be seen beforehand."""

    def workers(self) -> Sequence[Resources]:
        """What its workers say that they have, one of each sort; nothing where all are alike to a task."""
        return []

    @abstractmethod
    def options(self, tasks: int) -> dict[str, Any]:
        """The arguments of Prefect's task runner for Dask, where it is to compute so many tasks."""


class Local(Cluster):
    """Workers on this machine, of one task each: threads, since heavy work is a process of its own anyway."""

    kind: Literal["local"] = "local"
    count: int | None = Field(None, ge=1, description="how many; default: TEMPER_LABEL_WORKERS")
    processes: bool = Field(False, description="workers are processes")

    def options(self, tasks: int) -> dict[str, Any]:
        """Arguments for a `distributed.LocalCluster`."""
        cluster: dict[str, Any] = {
            "n_workers": self.count or settings().label_workers,
            "threads_per_worker": 1,
            "processes": self.processes,
            # The memory is the children's, whom Dask does not see: they have limits of their own.
            "memory_limit": None,
            "dashboard_address": "127.0.0.1:0",
        }
        if self.processes:
            cluster |= {"security": True, "protocol": "tls://"}  # not for the others on this machine
        return {"cluster_kwargs": cluster}


class Cuda(Cluster):
    """A worker for each GPU of this machine, through dask-cuda."""

    kind: Literal["cuda"] = "cuda"
    gpus: tuple[int, ...] | None = Field(None, min_length=1, description="which; default: all")
    library: ClassVar[str] = "dask_cuda"

    def check(self) -> None:
        """Raise ClusterError where networks do not compute on GPUs, or one of them cannot be used."""
        if settings().device != "cuda":
            raise ClusterError("set TEMPER_DEVICE=cuda: each worker computes on the one GPU that it sees")
        try:
            for gpu in self.gpus or (0,):
                devices.find(f"cuda:{gpu}")
        except devices.DeviceError as error:
            raise ClusterError(f"gpus: {str(error).removeprefix('TEMPER_DEVICE=')}") from error

    def workers(self) -> Sequence[Resources]:
        """All are alike."""
        return [{"CPU": 1, "GPU": 1}]

    def options(self, tasks: int) -> dict[str, Any]:
        """Arguments for a `dask_cuda.LocalCUDACluster`."""
        cluster = {
            "CUDA_VISIBLE_DEVICES": None if self.gpus is None else list(self.gpus),
            "threads_per_worker": 1,
            "resources": dict(self.workers()[0]),
            "memory_limit": None,
            "device_memory_limit": None,  # the GPU's memory is the children's as well
            "dashboard_address": "127.0.0.1:0",
            "security": True,
            "protocol": "tls://",
        }
        return {"cluster_class": "dask_cuda.LocalCUDACluster", "cluster_kwargs": cluster}


class Address(Cluster):
    """A scheduler that runs already, with workers that share the campaign's record and files."""

    kind: Literal["address"] = "address"
    address: str = Field(pattern=r"^[a-z]+://.+", description="of the scheduler, as tcp://host:8786")

    def check(self) -> None:
        """Raise ClusterError unless it answers, and each worker reads what this process puts on record."""
        self.workers()
        folder = settings().home / "dask"
        folder.mkdir(parents=True, exist_ok=True)
        card = folder / "cluster.json"
        card.write_text(self.model_dump_json(), encoding="utf-8")
        id_ = artifacts.import_file(card, "cluster", "cluster").id
        for worker, answer in self._ask("run", readable, id_, on_error="return").items():
            if answer is not True:
                raise ClusterError(
                    f"its worker {worker} does not read what this campaign puts on record ({answer}); it "
                    "needs the same Temper, and the same TEMPER_HOME, or TEMPER_DATABASE_URL and TEMPER_STORE"
                )

    def workers(self) -> Sequence[Resources]:
        """What its workers said when they were started; raises ClusterError where there are none."""
        known = self._ask("scheduler_info", n_workers=-1)["workers"].values()
        if not known:
            raise ClusterError(f"it has no workers; start one: dask worker {self.address} --nthreads 1")
        return [worker["resources"] for worker in known]

    def options(self, tasks: int) -> dict[str, Any]:
        """The address."""
        return {"address": self.address}

    def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        from distributed import Client

        try:
            with Client(self.address, timeout=ANSWER_SECONDS, set_as_default=False) as client:
                return getattr(client, method)(*args, **kwargs)
        except (OSError, ValueError) as error:
            raise ClusterError(f"no Dask scheduler answers at {self.address} ({error})") from error


def readable(artifact: str) -> bool | str:
    """True where this process reads an artifact from record and store, else why not."""
    try:
        return artifacts.path(artifact).is_file()
    except Exception as error:  # whatever a database or a store comes up with
        return f"{type(error).__name__}: {error}"
