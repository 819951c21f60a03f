"""A committee: trainings that differ in their seed alone, side by side in processes of their own."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, TypeVar

import torch

from models import devices
from models.finetuning import fine_tune
from models.strategies import Strategy
from models.training import Report

S = TypeVar("S", bound=Strategy)
Reports = SimpleQueue[dict[str, Any] | None]

_reports: Reports  # in a member's process: where its progress goes


def members(strategy: S, number: int) -> list[S]:
    """`strategy` with `number` consecutive seeds, its own first.

    A seed decides the order of the batches and whatever a strategy draws at random.
    """
    return [strategy.seeded(strategy.optimisation.seed + k) for k in range(number)]


def fine_tune_committee(
    strategy: Strategy,
    files: Mapping[str, Path],
    level_of_theory: str,
    provenance: Mapping[str, str],
    work: Path,
    *,
    number: int,
    workers: int = 1,
    report: Report | None = None,
) -> list[dict[str, Path]]:
    """Fine-tune `number` members, `workers` at once on one thread each; the files of each, by seed.

    The arguments are those of `models.finetuning.fine_tune`; `report` also receives the `member`. Each
    has a folder `member-<seed>` in `work` with its own state, so that a killed call goes on where every
    member was. What a member raises ends the others, which save their states first.
    """
    context = multiprocessing.get_context("spawn")
    reports: Reports = context.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(reports, report), daemon=True)
    listener.start()
    bystanders = set(multiprocessing.active_children())
    try:
        with ProcessPoolExecutor(
            workers, context, initializer=_prepare, initargs=(reports, str(devices.chosen()))
        ) as pool:
            try:
                running = [
                    pool.submit(
                        _train,
                        member,
                        dict(files),
                        level_of_theory,
                        dict(provenance),
                        work / f"member-{member.optimisation.seed}",
                    )
                    for member in members(strategy, number)
                ]
                return [future.result() for future in running]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in set(multiprocessing.active_children()) - bystanders:
                    process.terminate()
                raise
    finally:
        reports.put(None)
        listener.join()
        reports.close()


def _listen(reports: Reports, report: Report | None) -> None:
    while (row := reports.get()) is not None:
        if report is not None:
            report(row)


def _prepare(reports: Reports, device: str) -> None:
    """In a new process, before its first member."""
    global _reports  # noqa: PLW0603  # a queue travels to a process only when that starts
    _reports = reports
    torch.set_num_threads(1)
    devices.choose(device)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then terminates this
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train(
    member: Strategy, files: dict[str, Path], level_of_theory: str, provenance: dict[str, str], work: Path
) -> dict[str, Path]:
    def report(row: dict[str, Any]) -> None:
        _reports.put({"member": member.optimisation.seed, **row})

    work.mkdir(parents=True, exist_ok=True)
    try:
        return fine_tune(member, files, level_of_theory, provenance, work, report)
    except SystemExit as asked:
        os._exit(int(asked.code or 0))  # the pool would keep the process for another member
