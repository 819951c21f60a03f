"""Trainings on the workers of a Dask scheduler: cancelled in the middle, they end as they would have."""

import os
import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import LocalCluster
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.trainings import Training, train
from models.campaign import Campaign
from models.campaign_files import load_campaign
from tasks.datasets import ingest_labels
from tasks.foundation import resolve_foundation
from tasks.training import fine_tune, refit_e0s
from waiting import until

pytestmark = pytest.mark.flow


def two_trainings(mini: Path) -> tuple[Campaign, list[Training]]:
    """The miniature campaign, with its data on record, and two trainings of its first candidate."""
    plan = load_campaign(str(mini), fields={"replay.path": str(mini.with_name("replay.extxyz"))})
    start, data = resolve_foundation.fn(plan.foundation), ingest_labels.fn(plan)
    lessons = {"foundation": start, "e0s": refit_e0s.fn(plan, start, data)}
    lessons |= {part: data[part] for part in ("train", "valid")}
    naive = plan.candidates[0]
    longer = naive.optimisation.model_copy(update={"epochs": 60})
    strategy = naive.model_copy(update={"optimisation": longer})
    return plan, [Training(strategy.seeded(seed), lessons) for seed in (1, 2)]


def trainings(home: Path) -> list[tuple[str, int]]:
    """Status and attempts of each training."""
    with closing(sqlite3.connect(f"file:{home}/temper.db?mode=ro", uri=True)) as record:
        return list(record.execute("SELECT status, attempt FROM step WHERE kind = 'fine_tune'"))


@pytest.mark.slow
@pytest.mark.usefixtures("sigint")
def test_trainings_on_workers_are_cancelled_and_go_on(
    prefect_server: Any, mini: Path, temper_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, wanted = two_trainings(mini)
    file = tmp_path / "cluster.yaml"
    with (
        temporary_settings({PREFECT_API_URL: prefect_server.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            memory_limit=None,
            resources={"CPU": 1, "GPU": 1},
        ) as cluster,
    ):
        described = {"kind": "address", "address": cluster.scheduler_address, "work": ["trainings"]}
        file.write_text(yaml.safe_dump(described))
        monkeypatch.setenv("TEMPER_DASK", str(file))

        def interrupt() -> None:
            until(lambda: len(list(temper_home.glob("work/*/state.pt"))) == 2)
            os.kill(os.getpid(), signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            train(plan, wanted)
        interrupter.join()
        # The workers live on, and none of them computes.
        until(lambda: trainings(temper_home) == [("failed", 1)] * 2)
        assert len(list(temper_home.glob("work/*/state.pt"))) == 2
        made = train(plan, wanted)
        assert trainings(temper_home) == [("done", 2)] * 2

    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "undisturbed"))
    monkeypatch.delenv("TEMPER_DASK")
    plan, wanted = two_trainings(mini)
    assert fine_tune.fn(plan, *wanted[0])["checkpoint"] == made[0]["checkpoint"]
