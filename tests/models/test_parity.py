"""The same training by `fit` and by mace-torch's own script, and finished models in mace-torch's tools.

What is compared is the arithmetic of a training: loss, gradient, clipping, AdamW with AMSGrad, warmed-up
running average, validation. mace-torch draws its batches in an order of its own, so every batch here is the
whole training set, and float64 keeps rounding out of it: both then follow one trajectory.
"""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from mace.calculators import MACECalculator

from models import graphs, losses, potentials
from models.datasets import write_structures
from models.potentials import Potential
from models.training import Optimisation, TrainingSetup, fit

EPOCHS = 4
RATE, DECAY = 0.002, 0.9
# High enough to do nothing: mace-torch clips by a norm that counts the gradient of the Bessel frequencies,
# which it neither trains nor ever sets back to zero in fine-tuning.
CLIP = 1000.0

RUN = """
import sys
import torch
torch.set_num_threads(1)
from mace.cli.run_train import run
from mace.tools import build_default_arg_parser
run(build_default_arg_parser().parse_args(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def foundation(tiny_potential) -> Potential:
    """The tiny network with E0s near the labels' level, so that energies matter beside forces."""
    network = copy.deepcopy(tiny_potential.network)
    e0s = tiny_potential.e0s() | {1: -13.0, 8: -110.0}
    potentials.set_e0s(network, np.array(list(e0s.values())))
    return replace(tiny_potential, network=network)


def python(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def mace_run_train(
    folder: Path, foundation: Potential, train: list[Atoms], valid: list[Atoms]
) -> list[dict[str, Any]]:
    """The rows of mace-torch's own record: an evaluation, then an update and an evaluation per epoch."""
    write_structures(folder / "train.extxyz", train)
    write_structures(folder / "valid.extxyz", valid)
    potentials.export_mace(foundation, folder / "foundation.model")
    python(
        folder, "-c", RUN,
        "--name=naive", "--foundation_model=foundation.model", "--multiheads_finetuning=False",
        # The whole table of elements and E0s: the script would cut the network down to what it sees.
        "--foundation_model_elements=True", f"--E0s={foundation.e0s()}",
        "--train_file=train.extxyz", "--valid_file=valid.extxyz",
        "--loss=huber", f"--huber_delta={losses.HUBER_DELTA}",
        "--energy_weight=10", "--forces_weight=10", "--stress_weight=0",
        "--optimizer=adamw", "--amsgrad", "--weight_decay=0", f"--lr={RATE}", f"--clip_grad={CLIP}",
        "--scheduler=ExponentialLR", "--lr_scheduler_gamma=1", "--ema", f"--ema_decay={DECAY}",
        f"--batch_size={len(train)}", f"--valid_batch_size={len(valid)}", f"--max_num_epochs={EPOCHS}",
        "--default_dtype=float64", "--device=cpu", "--seed=0", "--num_workers=0",
    )  # fmt: skip
    [record] = (folder / "results").glob("*_train.txt")
    return [json.loads(line) for line in record.read_text().splitlines()]


def test_naive_fine_tuning_follows_the_trajectory_of_mace_run_train(foundation, labelled_waters, tmp_path):
    train, valid = labelled_waters[:16], labelled_waters[16:]
    theirs = mace_run_train(tmp_path, foundation, train, valid)
    setup = TrainingSetup(
        network=copy.deepcopy(foundation.network),
        train=graphs.graphs(train, foundation),
        valid={"target": graphs.graphs(valid, foundation)},
        weights=[losses.Weights(energy=10.0, forces=10.0)],
    )
    one_batch = Optimisation(
        learning_rate=RATE, ema_decay=DECAY, clip_gradient=CLIP, epochs=EPOCHS, max_edges=10**9
    )
    ours = fit(setup, one_batch).history
    assert len(ours) == EPOCHS + 1
    losses_of_mace = [row["loss"] for row in theirs if row["mode"] == "opt"]
    evaluations = [row for row in theirs if row["mode"] == "eval"]
    # Both sum the same float64 terms in another order, and their file holds eight decimals of ours.
    assert [row["loss"] for row in ours[1:]] == pytest.approx(losses_of_mace, rel=1e-7)
    for name, factor in (("forces_mae", "mae_f"), ("energy_per_atom_mae", "mae_e_per_atom")):
        expected = [1000.0 * row[factor] for row in evaluations]
        assert [row[f"target_{name}"] for row in ours] == pytest.approx(expected, rel=1e-7)
    assert losses_of_mace[-1] < losses_of_mace[0]


def test_an_exported_model_gives_the_same_numbers_in_the_tools_of_mace(
    foundation, labelled_waters, salt_crystal, tmp_path
):
    frames = [*labelled_waters[:3], salt_crystal]
    ours = graphs.predict(foundation, graphs.graphs(frames, foundation), stress=True)
    potentials.export_mace(foundation, tmp_path / "finished.model")
    calculator = MACECalculator(str(tmp_path / "finished.model"), device="cpu", default_dtype="float64")
    for frame, expected in zip(frames, ours, strict=True):
        asked = frame.copy()
        asked.calc = calculator
        assert asked.get_potential_energy() == pytest.approx(expected.energy, abs=1e-6)
        np.testing.assert_allclose(asked.get_forces(), expected.forces, atol=1e-6)
    np.testing.assert_allclose(asked.get_stress(voigt=False), ours[-1].stress, atol=1e-6)

    write_structures(tmp_path / "frames.extxyz", frames)
    python(
        tmp_path, "-m", "mace.cli.eval_configs", "--model=finished.model", "--configs=frames.extxyz",
        "--output=out.extxyz", "--head=Default", "--compute_stress",
    )  # fmt: skip
    for frame, expected in zip(read(tmp_path / "out.extxyz", ":"), ours, strict=True):
        assert frame.info["MACE_energy"] == pytest.approx(expected.energy, abs=1e-6)
        np.testing.assert_allclose(frame.arrays["MACE_forces"], expected.forces, atol=1e-6)
    np.testing.assert_allclose(frame.info["MACE_stress"], ours[-1].stress, atol=1e-6)
