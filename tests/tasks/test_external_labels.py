"""Labels from a cluster: it reads the request, in another process, and brings results by the command."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from typer.testing import CliRunner

from db import artifacts
from db.lineage import tree
from db.settings import settings
from flows.labels_cli import app
from models.datasets import DataError, write_structures
from models.external.requests import FOLDER, Request, load
from models.reference.external import External
from models.reference.xtb import relabelled
from tasks.external_labels import obtain

ROOT = Path(__file__).parents[2]
ASKED = External(level_of_theory="GFN2-xTB", poll_seconds=0.05)

CAMPAIGN = """
import sys
from models.reference.external import External
from tasks.external_labels import obtain
obtain.fn(External(level_of_theory="GFN2-xTB", poll_seconds=0.05), sys.argv[1], "round-1")
"""


@pytest.fixture
def selection(tmp_path: Path, temper_home: Path) -> Callable[..., str]:
    """Put structures on record as a selection; the id of the artifact."""

    def put(*frames: Atoms) -> str:
        path = tmp_path / "selection.extxyz"
        write_structures(path, frames)
        return artifacts.import_file(path, "selection", "selection", {}).id

    return put


@pytest.fixture
def waters() -> list[Atoms]:
    frames = []
    for index in range(5):
        frames.append(molecule("H2O", info={"walker": f"w{index}"}))
        frames[-1].rattle(0.05, seed=index)
    return frames


def root() -> Path:
    """Where requests are."""
    return settings().home / FOLDER


def request() -> Request:
    """The only request there is."""
    (file,) = root().glob("*/request.json")
    return load(file.parent)


def labels_on_record(home: Path) -> int:
    """How many labels are on record, as another process sees it."""
    with contextlib.closing(sqlite3.connect(f"file:{home}/temper.db?mode=ro", uri=True)) as record:
        query = "select count(*) from step where kind = 'external_label' and status = 'done'"
        return int(record.execute(query).fetchone()[0])


def until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(5000):
        if happened():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"it did not happen; the process said {process.communicate()}")


def cluster(place: Path, first: int, last: int, *options: str) -> str:
    """Label some of what is asked for, and bring it by the command; what that says."""
    frames = read(place / "structures.extxyz", index=":")
    done = [label(frame)[::-1] for frame in frames[first:last]]
    if first:
        done[0].info["converged"] = False
    file = place.with_suffix(".extxyz")
    write(file, done)
    level = ("--level-of-theory", "GFN2-xTB")
    said = CliRunner().invoke(app, ["labels", "import", place.name, str(file), *level, *options])
    assert said.exit_code == 0, said.output
    return said.output


def label(structure: Atoms) -> Atoms:
    return relabelled(structure, "GFN2-xTB")


def test_a_killed_campaign_goes_on_with_what_a_cluster_brought(
    temper_home: Path, selection: Callable[..., str], waters: list[Atoms]
) -> None:
    chosen = selection(*waters)
    command = [sys.executable, "-c", CAMPAIGN, chosen]
    campaign = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until(lambda: any(root().glob("*/request.json")), campaign)
    place = request().folder
    assert "Taken: 2 labels, 0 failures." in cluster(place, 0, 2)
    until(lambda: labels_on_record(temper_home) == 2, campaign)
    campaign.send_signal(signal.SIGKILL)
    campaign.communicate()

    said = cluster(place, 2, 4, "--complete")  # nobody waits just now
    assert "Taken: 1 labels, 1 failures." in said
    assert f"{place.name}: 3 of 5 labels are there, 2 failed, 0 are waited for." in said
    assert labels_on_record(temper_home) == 2
    done = obtain.fn(ASKED, chosen, "round-1")
    assert len(done.labels) == 3
    for id_, index in zip(done.labels, (0, 1, 3), strict=True):
        frame, expected = read(artifacts.path(id_)), label(waters[index])
        np.testing.assert_allclose(frame.positions, expected.positions, atol=1e-7)
        assert frame.info["REF_energy"] == pytest.approx(expected.info["REF_energy"], abs=1e-6)
        np.testing.assert_allclose(frame.arrays["REF_forces"], expected.arrays["REF_forces"], atol=1e-6)
        assert "walker" not in frame.info
        assert artifacts.get(id_).metadata["level_of_theory"] == "GFN2-xTB"
    reasons = [json.loads(artifacts.path(id_).read_text()) for id_ in done.failures]
    assert [reason["error"] for reason in reasons] == ["NotConverged", "NeverCame"]
    assert "said that it will not come" in reasons[1]["reason"]
    assert reasons[1]["structure"]["positions"] == waters[4].positions.round(8).tolist()


@pytest.fixture
def answered(waters: list[Atoms], selection: Callable[..., str]) -> tuple[str, Path]:
    """A selection of two, with both labels on record."""
    chosen = selection(*waters[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", lambda _: bring(waters[:2]))
        assert len(obtain.fn(ASKED, chosen, "a").labels) == 2
    return chosen, request().folder


def bring(frames: list[Atoms]) -> None:
    write(request().results / "labels.extxyz", [label(frame) for frame in frames])


def test_what_is_on_record_is_not_asked_for_again(
    answered: tuple[str, Path], selection: Callable[..., str], waters: list[Atoms]
) -> None:
    chosen, place = answered
    place.rename(place.with_name("gone"))
    assert len(obtain.fn(ASKED, chosen, "b").labels) == 2
    hurried = ASKED.model_copy(update={"patience_hours": 1e-9})
    done = obtain.fn(hurried, selection(*waters), "c")
    assert (len(done.labels), len(done.failures)) == (2, 3)
    (asked,) = (load(file.parent) for file in root().glob("c-*/request.json"))
    assert len(asked.structures) == 3
    assert "did not come within" in artifacts.path(done.failures[0]).read_text()


def test_a_label_is_an_imported_file_that_knows_where_it_comes_from(answered: tuple[str, Path]) -> None:
    chosen, place = answered
    id_ = obtain.fn(ASKED, chosen, "a").labels[0]
    found = artifacts.get(id_)
    assert (found.kind, found.metadata["calculator"]) == ("label", "external")
    assert tree(id_).step is None
    source = artifacts.path(json.loads(read(artifacts.path(id_)).info["convergence"])["source"])
    assert source.read_bytes() == (place / "results/labels.extxyz").read_bytes()


def test_what_cannot_be_asked_for_stops_before(selection: Callable[..., str], waters: list[Atoms]) -> None:
    orca = External.model_validate(
        {"level_of_theory": "PBE", "inputs": ["orca"], "orca": {"simple_input": "PBE"}}
    )
    ice = waters[0].copy()
    ice.set_cell([8, 8, 8])
    ice.pbc = True
    with pytest.raises(DataError, match=r"structure 1 .*remove orca from inputs"):
        obtain.fn(orca, selection(waters[1], ice), "a")
    assert not root().exists()
