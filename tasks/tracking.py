"""Where the progress of a training is also shown: TensorBoard, Weights & Biases, MLflow.

`TEMPER_TRACKERS` names them. Each is used through its own library and reads that library's own
environment variables (`WANDB_MODE`, `MLFLOW_TRACKING_URI`, …); without these, everything stays in
`TEMPER_HOME`, but for Weights & Biases, which sends.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock
from typing import Any

from db.settings import Tracker, settings

log = logging.getLogger(__name__)

Track = Callable[[int, Mapping[str, float]], None]

_PROJECT = "temper"
_mlflow_lock = Lock()  # two trainings that start at once would both create the database


@contextmanager
def tracked(
    name: str, run_id: str, parameters: Mapping[str, Any]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A callback that hands a training's rows to every tracker that is asked for.

    The same `run_id` goes on with the same run. A tracker that fails is warned of and left out: it is no
    reason to lose a training. Raises RuntimeError where a tracker's library is not installed.
    """
    with ExitStack() as stack:
        trackers: dict[Tracker, Track] = {}
        for kind in settings().trackers:
            try:
                trackers[kind] = stack.enter_context(_TRACKERS[kind](name, run_id, parameters))
            except ImportError as error:
                raise RuntimeError(
                    f"TEMPER_TRACKERS asks for {kind}, which is not installed ({error}); "
                    "install temper-mlip[tracking] or leave it out"
                ) from error

        def track(row: dict[str, Any]) -> None:
            numbers = {key: float(value) for key, value in row.items() if key != "updates"}
            for kind in list(trackers):
                try:
                    trackers[kind](row["updates"], numbers)
                except Exception as error:
                    log.warning("%s no longer tracks %s: %s", kind, name, error)
                    del trackers[kind]

        yield track


@contextmanager
def _tensorboard(name: str, run_id: str, parameters: Mapping[str, Any]) -> Iterator[Track]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(settings().home / "tensorboard" / f"{name}-{run_id[:8]}") as writer:
        writer.add_text("parameters", f"```\n{json.dumps(parameters, indent=1)}\n```")

        def track(step: int, row: Mapping[str, float]) -> None:
            for key, value in row.items():
                writer.add_scalar(key, value, step)
            writer.flush()

        yield track


@contextmanager
def _wandb(name: str, run_id: str, parameters: Mapping[str, Any]) -> Iterator[Track]:
    import wandb

    folder = settings().home
    folder.mkdir(parents=True, exist_ok=True)
    with wandb.init(
        project=_PROJECT,
        name=name,
        id=run_id,
        resume="allow",
        reinit="create_new",  # candidates train side by side in one process
        dir=folder,
        config=dict(parameters),
        settings=wandb.Settings(console="off", silent=True),
    ) as run:
        yield lambda step, row: run.log(dict(row), step=step)


@contextmanager
def _mlflow(name: str, run_id: str, parameters: Mapping[str, Any]) -> Iterator[Track]:
    import mlflow

    store = None if mlflow.is_tracking_uri_set() else f"sqlite:///{settings().home / 'mlflow.db'}"
    with _mlflow_lock:
        settings().home.mkdir(parents=True, exist_ok=True)
        client = mlflow.MlflowClient(tracking_uri=store)
        known = client.get_experiment_by_name(_PROJECT)
        experiment = client.create_experiment(_PROJECT) if known is None else known.experiment_id
        found = client.search_runs([experiment], f"tags.run_id = '{run_id}'")
        run = found[0] if found else client.create_run(experiment, run_name=name, tags={"run_id": run_id})
    number = run.info.run_id
    client.log_param(number, "parameters", json.dumps(parameters, sort_keys=True))

    def track(step: int, row: Mapping[str, float]) -> None:
        for key, value in row.items():
            client.log_metric(number, key, value, step=step)

    try:
        yield track
    except BaseException:
        client.set_terminated(number, "FAILED")
        raise
    client.set_terminated(number)


_TRACKERS: dict[Tracker, Callable[[str, str, Mapping[str, Any]], AbstractContextManager[Track]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
