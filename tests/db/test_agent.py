"""What is on record of the surroundings of a step."""

import os
import platform
import sys
from pathlib import Path

import pytest

from db import agent
from db.canonical import canonical
from db.exports import prov
from db.lineage import ancestors
from db.steps import Output, once


def test_packages_machine_and_settings_are_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.delenv("MKL_CBWR", raising=False)
    said = agent.software()
    assert said["python"] == platform.python_version()
    assert {"torch", "numpy", "sqlalchemy"} <= said.keys()
    assert said["machine"]["architecture"] == platform.machine()
    assert said["machine"]["cores"] == os.cpu_count()
    assert "blas" in said["machine"]["blas"].lower() or "mkl" in said["machine"]["blas"].lower()
    assert isinstance(said["machine"]["gpus"], list)
    assert said["environment"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "MKL_CBWR" not in said["environment"]
    assert canonical(said)  # it can be recorded


@pytest.mark.skipif(sys.platform != "linux", reason="the processor is named in /proc/cpuinfo")
def test_the_processor_is_named() -> None:
    name = agent.software()["machine"]["processor"]
    assert name == platform.processor() or name in Path("/proc/cpuinfo").read_text()


def test_gpus_are_named_with_their_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf 'NVIDIA A, B, 550.1\\nNVIDIA C, 550.1\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    agent._machine.cache_clear()
    machine = agent.software()["machine"]
    agent._machine.cache_clear()
    assert (machine["gpus"], machine["driver"]) == (["NVIDIA A, B", "NVIDIA C"], "550.1")


def test_what_was_declared_goes_on_record_and_into_exports(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_declared", {})
    agent.declare("children", torch_threads=1)

    def compute(work: Path) -> dict[str, Output]:
        (work / "out.txt").write_text("1")
        return {"out": Output(path=work / "out.txt", kind="checkpoint", name="student")}

    lineage = ancestors(once("distil", 1, {}, {}, compute).outputs["out"])
    (step,) = lineage.steps.values()
    assert step.software == agent.software()
    (program,) = (a for a in prov(lineage, {})["agent"].values() if a["prov:label"] == "Temper")
    assert program["software:children.torch_threads"] == 1
    assert program["software:machine.cores"] == os.cpu_count()


def test_changes_are_told_by_dotted_name() -> None:
    then = {"torch": "2.12", "ase": "3.26", "git": {"commit": "ab", "dirty": False}}
    now = {"torch": "2.13", "ase": "3.26", "git": {"commit": "cd", "dirty": False}, "machine": {"cores": 2}}
    assert agent.changes(then, now) == {
        "torch": ("2.12", "2.13"),
        "git.commit": ("ab", "cd"),
        "machine": (None, {"cores": 2}),
    }
    assert agent.changes(now, now) == {}


def test_drift_is_said_in_words() -> None:
    then = {
        "torch": "2.12",
        "git": {"commit": "a" * 40, "dirty": False},
        "machine": {"gpus": []},
        "ase": "3.26",
    }
    now = {
        "torch": "2.13",
        "git": {"commit": "b" * 40, "dirty": True},
        "machine": {"gpus": ["H100", "H100"]},
        "environment": {"TEMPER_DEVICE": "cuda"},
        "ase": "3.26",
    }
    assert agent.drift(then, {**then, "environment": {}}) == []
    assert agent.drift({**then, "environment": {}}, now) == [
        "TEMPER_DEVICE none → cuda",
        "commit of Temper aaaaaaaaaaaa → bbbbbbbbbbbb",
        "uncommitted changes no → yes",
        "GPUs none → H100, H100",
        "torch 2.12 → 2.13",
    ]
    assert agent.drift({}, {"machine": {"cores": 2}}) == []
