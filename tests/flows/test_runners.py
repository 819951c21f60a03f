"""Where labels and trainings are computed, as the settings say; what a cluster file says wrongly."""

import importlib
import inspect
import re
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from distributed import LocalCluster
from prefect.futures import PrefectConcurrentFuture
from prefect.states import Completed, Failed, State
from prefect_dask.task_runners import DaskTaskRunner

from db.settings import Settings
from flows.clusters import Address, ClusterError, Cuda, Local
from flows.runners import check, cluster, place, result

JOBS = {"jobs": 4, "cores": 8, "memory_gb": 32, "walltime": "04:30:00", "python": "/sw/temper/bin/python"}


@pytest.fixture
def described(tmp_path: Path) -> Callable[..., Settings]:
    """The settings of somebody with a cluster file."""

    def write(**fields: Any) -> Settings:
        path = tmp_path / "cluster.yaml"
        path.write_text(yaml.safe_dump(fields))
        return Settings(dask=str(path))

    return write


def test_without_dask_all_stays_with_the_campaign() -> None:
    assert cluster(Settings()) is None
    assert place("labels", 3, Settings()) is None
    check(Settings())


def test_dask_is_here_or_at_an_address() -> None:
    assert cluster(Settings(dask="local")) == Local()
    assert cluster(Settings(dask="tls://cluster:8786")) == Address(address="tls://cluster:8786")
    here = place("labels", 3, Settings(dask="local"))
    assert here is not None
    assert isinstance(here.runner, DaskTaskRunner)
    assert here.runner.cluster_kwargs["n_workers"] == 2
    assert here.asks_for == {}


def test_a_cluster_computes_what_its_file_gives_it(described: Callable[..., Settings]) -> None:
    labels = described(kind="local", count=3)
    assert place("trainings", 2, labels) is None
    given = place("labels", 2, labels)
    assert given is not None
    assert isinstance(given.runner, DaskTaskRunner)
    assert given.runner.cluster_kwargs["n_workers"] == 3
    assert place("trainings", 2, described(kind="local", work=["trainings"])) is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "kind: is missing; say what the cluster is, as kind: slurm"),
        (
            {"kind": "slrum"},
            "kind: Input tag 'slrum' found .* does not match any of the expected tags",
        ),
        ({"kind": "slurm", **JOBS, "partition": "gpu"}, r"partition: unknown field; check its spelling"),
        ({"kind": "pbs", "jobs": 2, "walltime": "01:00:00"}, "memory_gb: is missing; add it"),
        ({"kind": "sge", **JOBS, "walltime": "00:05:00"}, "walltime: Input should be .* 10 minutes"),
        ({"kind": "lsf", **JOBS, "work": ["dynamics"]}, "work.0: Input should be 'labels' or 'trainings'"),
        ({"kind": "address", "address": "cluster:8786"}, "address: String should match pattern"),
    ],
)
def test_a_mistake_in_a_cluster_file_is_one_line(
    described: Callable[..., Settings], fields: dict[str, Any], message: str
) -> None:
    settings = described(**fields)
    with pytest.raises(ClusterError) as caught:
        check(settings)
    assert re.fullmatch(f"TEMPER_DASK={re.escape(settings.dask)}: {message}.*", str(caught.value))


def test_what_is_no_cluster_is_said(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"TEMPER_DASK=lokal: give `local`, the address"):
        check(Settings(dask="lokal"))
    with pytest.raises(ClusterError, match=r"it cannot be read \(.*No such file"):
        check(Settings(dask=str(tmp_path / "missing.yaml")))
    (tmp_path / "broken.yaml").write_text("kind: [")
    with pytest.raises(ClusterError, match="it cannot be read"):
        check(Settings(dask=str(tmp_path / "broken.yaml")))


def test_what_cannot_be_used_is_found_before_anything_starts(
    described: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClusterError, match="there is no sbatch here; run the campaign on a machine"):
        check(described(kind="slurm", **JOBS))
    monkeypatch.setattr("flows.clusters.ANSWER_SECONDS", 0.5)
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        check(Settings(dask="tcp://127.0.0.1:9"))
    with pytest.raises(ClusterError, match="set TEMPER_DEVICE=cuda"):
        Cuda().check()
    monkeypatch.setenv("TEMPER_DEVICE", "cuda")
    with pytest.raises(ClusterError, match=r"gpus: cuda:5: .*devices here: cpu"):
        Cuda(gpus=(5,)).check()
    for module, kind in (("prefect_dask", "local"), ("dask_jobqueue", "slurm"), ("dask_cuda", "cuda")):
        monkeypatch.setitem(sys.modules, module, None)
        fields = JOBS if kind == "slurm" else {}
        with pytest.raises(ClusterError, match=rf"{module} is not installed; install Temper with"):
            check(described(kind=kind, **fields))
        monkeypatch.undo()


def test_tasks_ask_for_what_the_workers_of_a_scheduler_have(temper_home: Path) -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as started:
        settings = Settings(dask=started.scheduler_address)
        with pytest.raises(ClusterError, match="it has no workers; start one: dask worker inproc://"):
            check(settings)
        started.scale(1)
        started.wait_for_workers(1)
        check(settings)
        assert place("labels", 3, settings, memory_gb=2.0).asks_for == {}  # type: ignore[union-attr]
    with LocalCluster(
        n_workers=1,
        processes=False,
        dashboard_address="127.0.0.1:0",
        resources={"CPU": 2, "GPU": 1, "MEMORY": 4e9},
    ) as started:
        settings = Settings(dask=started.scheduler_address)
        asked = Address(address=settings.dask, work=("labels", "trainings"))
        assert asked.workers() == [{"CPU": 2, "GPU": 1, "MEMORY": 4e9}]
        label = place("labels", 3, settings, memory_gb=2.0)
        assert label is not None
        assert label.asks_for == {"CPU": 1, "MEMORY": 2e9}
        with pytest.raises(
            ClusterError, match=r"each of the labels needs CPU=1 and MEMORY=8e\+09; no worker"
        ):
            place("labels", 3, settings, memory_gb=8.0)


HEADERS = {
    "slurm": [
        "#SBATCH -J temper",
        "#SBATCH -p long",
        "#SBATCH -A chem",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=30G",
        "#SBATCH -t 04:30:00",
        "#SBATCH --export=ALL",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --mine",
        "module load temper",
        "export TEMPER_DEVICE=cuda",
    ],
    "pbs": [
        "#PBS -N temper",
        "#PBS -q long",
        "#PBS -A chem",
        "#PBS -l select=1:ncpus=8:mem=32000mb:ngpus=1",
        "#PBS -l walltime=04:30:00",
        "#PBS -V",
        "#PBS --mine",
        "module load temper",
        "export TEMPER_DEVICE=cuda",
    ],
    "lsf": [
        "#BSUB -J temper",
        "#BSUB -q long",
        '#BSUB -P "chem"',
        "#BSUB -n 8",
        '#BSUB -R "span[hosts=1]"',
        "#BSUB -M 32000000",
        "#BSUB -W 04:30",
        '#BSUB -gpu "num=1"',
        "#BSUB --mine",
        "module load temper",
        "export TEMPER_DEVICE=cuda",
    ],
    "sge": [
        "#$ -N temper",
        "#$ -q long",
        "#$ -P chem",
        "#$ -l h_vmem=4000M,gpu=1",
        "#$ -l h_rt=04:30:00",
        "#$ -cwd",
        "#$ -j y",
        "#$ -V",
        "#$ -pe smp 8",
        "#$ --mine",
        "module load temper",
        "export TEMPER_DEVICE=cuda",
    ],
    "htcondor": [
        "MY.DaskWorkerCores = 8",
        "MY.DaskWorkerMemory = 32000000000",
        "MY.DaskWorkerDisk = 4000000000",
        "getenv = true",
        "request_gpus = 1",
        "mine = yes",
    ],
}


@pytest.mark.parametrize("kind", HEADERS)
def test_the_job_of_a_batch_system_has_what_its_file_asks_for(
    kind: str, described: Callable[..., Settings], temper_home: Path
) -> None:
    queue = {"queue": "long", "account": "chem", "directives": ["--mine"], "interface": "lo"}
    own = {"directives": ["mine = yes"]} if kind == "htcondor" else queue
    said = cluster(described(kind=kind, **JOBS, gpu=True, prologue=["module load temper"], **own))
    assert said is not None
    assert said.workers() == [{"CPU": 8, "MEMORY": 32e9, "GPU": 1}]
    options = said.options(20)
    assert options["adapt_kwargs"] | {"minimum": 0, "maximum": 3} == options["adapt_kwargs"]
    module, _, name = options["cluster_class"].rpartition(".")
    with getattr(importlib.import_module(module), name)(**options["cluster_kwargs"]) as made:
        script = made.job_script()
    certificates = [made._job_ca_file, made._job_cert, made._job_key]
    for held in certificates:
        assert Path(held.name).stat().st_mode & 0o077 == 0
        held.close()  # which also removes it; else that happens when nobody knows the cluster any more
    lines = [line for line in script.splitlines() if line]
    places = [lines.index(line) for line in HEADERS[kind]]
    assert places == sorted(places)
    command = next(line for line in lines if "dask_worker" in line)
    assert "/sw/temper/bin/python -m distributed.cli.dask_worker tls://" in command
    assert "--nthreads 8" in command
    assert "--resources CPU=8,MEMORY=32000000000,GPU=1 --lifetime 15900s" in command
    assert f"--tls-key {temper_home}/dask/" in command


def test_an_unquoted_walltime_is_the_same(tmp_path: Path) -> None:
    for text in ("04:30:00", "'04:30:00'", "16200"):
        path = tmp_path / "cluster.yaml"
        path.write_text(f"{{kind: slurm, jobs: 1, memory_gb: 4, walltime: {text}}}")
        said = cluster(Settings(dask=str(path)))
        assert said is not None
        assert said.options(1)["cluster_kwargs"]["walltime"] == "04:30:00"


def test_dask_cuda_takes_what_it_is_given() -> None:
    dask_cuda = pytest.importorskip("dask_cuda", reason="dask-cuda is not installed")
    given = Cuda(gpus=(0, 2), work=("trainings",)).options(3)
    bound = inspect.signature(dask_cuda.LocalCUDACluster).bind(**given["cluster_kwargs"])
    assert bound.arguments["CUDA_VISIBLE_DEVICES"] == [0, 2]
    assert bound.arguments["kwargs"]["resources"] == {"CPU": 1, "GPU": 1}


def test_a_result_is_what_came_or_what_went_wrong() -> None:
    came: Future[State[Any]] = Future()
    threading.Timer(0.1, came.set_result, [Completed(data=3)]).start()
    assert result(PrefectConcurrentFuture(uuid4(), came)) == 3
    failed: Future[State[Any]] = Future()
    failed.set_result(Failed(data=OSError("no room")))
    with pytest.raises(OSError, match="no room"):
        result(PrefectConcurrentFuture(uuid4(), failed))


@pytest.mark.usefixtures("sigint")
def test_an_interruption_is_heard_although_another_thread_is_given_it() -> None:
    never: Future[State[Any]] = Future()

    def interrupt() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    threading.Timer(0.5, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        result(PrefectConcurrentFuture(uuid4(), never))
