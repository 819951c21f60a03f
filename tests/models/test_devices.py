"""Networks that compute elsewhere: on a GPU where there is one, and on a stand-in where there is none.

The stand-in computes real numbers on the CPU, but its tensors say that they are on the device "meta", and
whatever mixes them with tensors of the CPU fails as it would on a GPU.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from models import devices, potentials
from models.datasets import write_structures
from models.devices import DeviceError
from models.dynamics import md
from models.dynamics.md import VelocityVerlet
from models.e0s import E0Policy, refit_file
from models.finetuning import fine_tune
from models.graphs import graphs, predict
from models.pseudolabels import replay_set
from models.strategies import Naive, ReplayLora
from models.training import Optimisation

QUICK = Optimisation(learning_rate=0.003, ema_decay=0.5, epochs=2, max_edges=200)
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(torch.Tensor):
    """A tensor that is elsewhere; `here` holds its numbers."""

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> "Elsewhere":
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device="meta"
        )

    def __init__(self, here: torch.Tensor) -> None:
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Call `func` on the CPU; its results are elsewhere where its arguments are."""
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    elsewhere = any(isinstance(x, Elsewhere) for x in given)
    # A number of no dimension may be on the CPU, also for a GPU.
    if elsewhere and func not in MOVES and any(not isinstance(x, Elsewhere) and x.dim() for x in given):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    args, kwargs = tree_map(lambda x: x.here if isinstance(x, Elsewhere) else x, (args, dict(kwargs)))
    if kwargs.get("device") is not None:
        elsewhere = torch.device(kwargs["device"]).type == "meta"
        kwargs["device"] = torch.device("cpu")
    unwrapped = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    changed = {id(x): old for x, old in zip(unwrapped, given, strict=True)}  # in place

    def back(x: Any) -> Any:
        if id(x) in changed:
            return changed[id(x)]
        return Elsewhere(x) if isinstance(x, torch.Tensor) and elsewhere else x

    return tree_map(back, func(*args, **kwargs))


class StandIn(TorchDispatchMode):
    """Tensors that are made on the device "meta" are `Elsewhere`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


@contextmanager
def stand_in() -> Iterator[None]:
    def load(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():  # it reads into storages, which no mode can follow
            return load_scripted(*args, **kwargs)

    load_scripted = torch.jit.load
    with StandIn(), patch("torch.jit.load", load):
        devices.choose("meta")
        yield


@contextmanager
def gpu() -> Iterator[None]:
    devices.choose("cuda")
    yield


@pytest.fixture(params=[stand_in, gpu])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A block in which this process computes on another device than the CPU."""
    if request.param is gpu and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")
    yield request.param
    devices.choose("cpu")


@pytest.fixture(scope="module")
def files(tiny_foundation, labelled_waters, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    made = {"foundation": tiny_foundation, "train": folder / "train.xyz", "valid": folder / "valid.xyz"}
    write_structures(made["train"], labelled_waters[:16:2])
    write_structures(made["valid"], labelled_waters[16:19])
    made["e0s"], _ = refit_file(tiny_foundation, made["train"], None, E0Policy(), folder)
    replay = replay_set(tiny_foundation, made["train"], 6, 0, folder)
    return made | {role: replay[role].path for role in ("replay_train", "replay_valid")}


def test_stand_in_refuses_what_a_gpu_refuses():
    with stand_in():
        there = torch.arange(3.0, device="meta")
        assert (there * 2).sum().item() == 6.0
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
    devices.choose("cpu")


def test_predictions_are_the_same_elsewhere(elsewhere, tiny_potential, salt_water, salt_crystal):
    frames = [salt_water, salt_crystal]
    here = predict(tiny_potential, graphs(frames, tiny_potential), stress=True)
    with elsewhere():
        there = predict(tiny_potential, graphs(frames, tiny_potential), stress=True, max_edges=1)
    for a, b in zip(here, there, strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-9)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-9)
    np.testing.assert_allclose(here[1].stress, there[1].stress, atol=1e-9)
    assert next(tiny_potential.network.parameters()).device.type == "cpu"


def test_training_learns_the_same_elsewhere(elsewhere, files, tmp_path):
    def train(name: str) -> list[dict[str, Any]]:
        (tmp_path / name).mkdir()
        made = fine_tune(ReplayLora(optimisation=QUICK), files, "GFN2-xTB", {}, tmp_path / name)
        specialist = potentials.load(made["checkpoint"])
        assert next(specialist.network.parameters()).device.type == "cpu"
        return json.loads(made["history"].read_text())["epochs"]

    here = train("here")
    with elsewhere():
        there = train("there")
    assert here[0]["target_forces_mae"] != here[-1]["target_forces_mae"]
    for a, b in zip(here, there, strict=True):
        assert b == pytest.approx(a, rel=2e-3, abs=1e-3)


def test_training_that_began_elsewhere_goes_on_here(elsewhere, files, tmp_path):
    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 1:
            raise SystemExit

    def train(name: str, report: Any = None) -> list[dict[str, Any]]:
        (tmp_path / name).mkdir(exist_ok=True)
        made = fine_tune(Naive(optimisation=QUICK), files, "GFN2-xTB", {}, tmp_path / name, report)
        return json.loads(made["history"].read_text())["epochs"]

    with elsewhere(), pytest.raises(SystemExit):
        train("moved", stop)
    devices.choose("cpu")
    for a, b in zip(train("here"), train("moved"), strict=True):
        assert b == pytest.approx(a, rel=2e-3, abs=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TorchScript has no stand-in for a GPU")
def test_dynamics_is_the_same_on_a_gpu(tiny_potential, salt_water):
    def last() -> np.ndarray:
        (run,) = md.run(
            tiny_potential,
            [salt_water],
            VelocityVerlet(time_step=0.5),
            steps=6,
            seed=0,
            save_every=6,
            velocities_from_temperature=300.0,
        )
        return run.positions[-1]

    here = last()
    try:
        devices.choose("cuda")
        np.testing.assert_allclose(last(), here, atol=1e-9)
    finally:
        devices.choose("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_device_that_is_not_here_is_refused(name):
    with pytest.raises(DeviceError, match=rf"TEMPER_DEVICE={name}: .*; devices here: cpu"):
        devices.choose(name)
    assert devices.chosen() == torch.device("cpu")
