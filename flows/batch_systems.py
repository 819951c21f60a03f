"""Clusters whose workers are jobs of a batch system, through dask-jobqueue."""

import shutil
from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from math import ceil
from typing import Annotated, Any, ClassVar, Literal

import psutil
from pydantic import BeforeValidator, Field

from db.settings import settings
from flows.clusters import Cluster, ClusterError, Resources

LEAVE = timedelta(minutes=5)
"""So long before its job ends a worker closes, so that its work goes to another in good order."""


def _walltime(value: object) -> object:
    """HH:MM:SS as a time; without quotation marks YAML has made it seconds already."""
    parts = value.split(":") if isinstance(value, str) else []
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        return value
    hours, minutes, seconds = map(int, parts)
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


class Jobs(Cluster):
    """Jobs of one worker each: submitted when there is work, gone when there is none."""

    jobs: int = Field(ge=1, description="at most so many at once")
    cores: int = Field(1, ge=1, description="of a job, which computes so many tasks at once")
    memory_gb: float = Field(gt=0, description="of a job, 10⁹ bytes")
    walltime: Annotated[timedelta, BeforeValidator(_walltime)] = Field(
        ge=2 * LEAVE, description="of a job, HH:MM:SS"
    )
    gpu: bool = Field(False, description="each job has a GPU, and networks compute there")
    directives: tuple[str, ...] = Field((), description="more lines of the job's header, without prefix")
    prologue: tuple[str, ...] = Field((), description="commands before the worker starts, as module load")
    python: str | None = Field(None, description="Temper's interpreter on the nodes; default: this one")
    interface: str | None = Field(None, description="the network by which nodes reach this machine, as ib0")

    library: ClassVar[str] = "dask_jobqueue"
    cluster: ClassVar[str]
    submit: ClassVar[str]

    def check(self) -> None:
        """Raise ClusterError where no job can be submitted from here, or a network is not there."""
        if shutil.which(self.submit) is None:
            raise ClusterError(
                f"there is no {self.submit} here; run the campaign on a machine from which jobs are submitted"
            )
        known = psutil.net_if_addrs()
        if self.interface is not None and self.interface not in known:
            raise ClusterError(f"interface: there is no {self.interface} here, only {', '.join(known)}")

    def workers(self) -> Sequence[Resources]:
        """All are alike."""
        return [{"CPU": self.cores, "MEMORY": 1e9 * self.memory_gb} | ({"GPU": 1} if self.gpu else {})]

    def options(self, tasks: int) -> dict[str, Any]:
        """Arguments for a cluster of dask-jobqueue, which has as many jobs as the tasks keep busy."""
        folder = settings().home / "dask"
        folder.mkdir(parents=True, exist_ok=True)
        (resources,) = self.workers()
        said = ",".join(f"{name}={amount:.0f}" for name, amount in resources.items())
        lifetime = f"{(self.walltime - LEAVE).total_seconds():.0f}s"
        job = {
            "job_name": "temper",
            "cores": self.cores,
            "processes": 1,
            "memory": f"{self.memory_gb:g} GB",
            "python": self.python,
            "interface": self.interface,
            "worker_extra_args": ["--resources", said, "--lifetime", lifetime],
            "job_script_prologue": [*self.prologue, *(["export TEMPER_DEVICE=cuda"] if self.gpu else [])],
            "log_directory": str(folder),
            # Who reaches a scheduler can run code: with TLS only who can read the user's certificate.
            "security": True,
            "shared_temp_directory": str(folder),
            "scheduler_options": {"dashboard_address": "127.0.0.1:0"},
            **self.header(),
        }
        most = min(self.jobs, ceil(tasks / self.cores))
        # Dask asks for workers by its guess of how long tasks take. With this target each task counts.
        adapt = {"minimum": 0, "maximum": most, "target_duration": "10ms"}
        return {"cluster_class": self.cluster, "cluster_kwargs": job, "adapt_kwargs": adapt}

    @abstractmethod
    def header(self) -> dict[str, Any]:
        """What else the batch system wants to know; its jobs get the environment of the campaign."""

    def _clock(self, *, seconds: bool = True) -> str:
        minutes, rest = divmod(int(self.walltime.total_seconds()), 60)
        return f"{minutes // 60:02}:{minutes % 60:02}" + (f":{rest:02}" if seconds else "")


class Queued(Jobs):
    """Jobs in a queue, on somebody's account."""

    queue: str | None = Field(None, description="queue or partition")
    account: str | None = Field(None, description="account or project")


class Slurm(Queued):
    """Jobs of SLURM."""

    kind: Literal["slurm"] = "slurm"
    cluster: ClassVar[str] = "dask_jobqueue.SLURMCluster"
    submit: ClassVar[str] = "sbatch"

    def header(self) -> dict[str, Any]:
        """Partition, account, time and GPU."""
        lines = ["--export=ALL", *(["--gres=gpu:1"] if self.gpu else []), *self.directives]
        said = {"queue": self.queue, "account": self.account, "walltime": self._clock()}
        return {**said, "job_extra_directives": lines}


class Pbs(Queued):
    """Jobs of PBS."""

    kind: Literal["pbs"] = "pbs"
    cluster: ClassVar[str] = "dask_jobqueue.PBSCluster"
    submit: ClassVar[str] = "qsub"

    def header(self) -> dict[str, Any]:
        """Queue, account, time, and what a node has to have."""
        node = f"select=1:ncpus={self.cores}:mem={ceil(1000 * self.memory_gb)}mb" + ":ngpus=1" * self.gpu
        said = {"queue": self.queue, "account": self.account, "walltime": self._clock()}
        return {**said, "resource_spec": node, "job_extra_directives": ["-V", *self.directives]}


class Lsf(Queued):
    """Jobs of LSF."""

    kind: Literal["lsf"] = "lsf"
    cluster: ClassVar[str] = "dask_jobqueue.LSFCluster"
    submit: ClassVar[str] = "bsub"

    def header(self) -> dict[str, Any]:
        """Queue, project, time and GPU."""
        lines = [*(['-gpu "num=1"'] if self.gpu else []), *self.directives]
        said = {"queue": self.queue, "project": self.account, "walltime": self._clock(seconds=False)}
        return {**said, "job_extra_directives": lines}


class Sge(Queued):
    """Jobs of SGE and its heirs."""

    kind: Literal["sge"] = "sge"
    environment: str = Field("smp", description="the parallel environment of jobs with several cores")
    cluster: ClassVar[str] = "dask_jobqueue.SGECluster"
    submit: ClassVar[str] = "qsub"

    def header(self) -> dict[str, Any]:
        """Queue, project, time, cores, memory of each core, and GPU."""
        cores = [f"-pe {self.environment} {self.cores}"] if self.cores > 1 else []
        each = f"h_vmem={ceil(1000 * self.memory_gb / self.cores)}M" + ",gpu=1" * self.gpu
        said = {"queue": self.queue, "project": self.account, "walltime": self._clock()}
        return {**said, "resource_spec": each, "job_extra_directives": ["-V", *cores, *self.directives]}


class Htcondor(Jobs):
    """Jobs of HTCondor, to which the walltime is not told: their workers leave by themselves."""

    kind: Literal["htcondor"] = "htcondor"
    disk_gb: float = Field(4.0, gt=0, description="scratch space of a job, 10⁹ bytes")
    cluster: ClassVar[str] = "dask_jobqueue.HTCondorCluster"
    submit: ClassVar[str] = "condor_submit"

    def header(self) -> dict[str, Any]:
        """Scratch space, and the lines `name = value` of the submit file."""
        lines = ["getenv = true", *(["request_gpus = 1"] if self.gpu else []), *self.directives]
        pairs = (line.partition("=") for line in lines)
        named = {name.strip(): value.strip() for name, _, value in pairs}
        return {"disk": f"{self.disk_gb:g} GB", "job_extra_directives": named}
