"""Pre-train the shipped foundation on the labels that `models.pretraining.sampling` made.

Run `python -m models.pretraining.train --labels DIR --out DIR --workers 2`. A killed run goes on
from its last epoch. One process per worker, gradients averaged over them, one thread each.
"""

import argparse
import ctypes
import json
import logging
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from ase import Atoms
from ase.data import atomic_numbers
from ase.io import read
from torch.multiprocessing.spawn import spawn

from models import losses, potentials
from models.datasets import Split, Splitting, split
from models.graphs import graphs
from models.training import Optimisation, TrainingSetup, fit

LEVEL = "GFN1-xTB"
SPLITTING = Splitting(valid=0.02, test=0.05, seed=0)
OPTIMISATION = Optimisation(
    learning_rate=0.01, decay="cosine", ema_decay=0.999, clip_gradient=10.0, epochs=24, max_edges=1100
)
WEIGHTS = losses.Weights(energy=1.0, forces=10.0)


def architecture(e0s: dict[int, float], frames: list[Atoms]) -> dict[str, object]:
    """Two layers, 64 scalar channels, edges up to l = 2, 4.5 Å, ZBL repulsion: what two cores can train."""
    elements = sorted(e0s)
    forces = np.concatenate([frame.arrays["REF_forces"] for frame in frames])
    return {
        "r_max": 4.5,
        "num_bessel": 8,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
        "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
        "num_interactions": 2,
        "num_elements": len(elements),
        "hidden_irreps": "64x0e",
        "MLP_irreps": "16x0e",
        "gate": "silu",
        "readout_cls": "NonLinearReadoutBlock",
        "atomic_energies": [[e0s[z] for z in elements]],
        "avg_num_neighbors": 11.0,
        "atomic_numbers": elements,
        "correlation": 2,
        "radial_MLP": [48, 48],
        "radial_type": "bessel",
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "atomic_inter_scale": [float(np.sqrt((forces**2).mean()))],
        "atomic_inter_shift": [0.0],
        "heads": ["Default"],
    }


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: training allocates the same large ones at every step."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return  # another C library: slower, not wrong
    m_mmap_threshold, m_trim_threshold = -3, -1
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, 2**31 - 1)


def read_dataset(folder: Path) -> tuple[list[Atoms], Split, dict[int, float]]:
    """All labelled frames, their split by trajectory, and the E0s (eV) of the free atoms."""
    frames = [frame for path in sorted(folder.glob("labels-*.extxyz")) for frame in read(path, ":")]
    atoms = read(folder / "isolated_atoms.extxyz", ":")
    e0s = {atomic_numbers[a.get_chemical_symbols()[0]]: float(a.info["REF_energy"]) for a in atoms}
    return frames, split(frames, SPLITTING, str(folder)), e0s


def _worker(rank: int, world: int, labels: Path, out: Path, epochs: int) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    keep_freed_memory()
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=world)
    frames, parts, e0s = read_dataset(labels)
    train = [frames[i] for i in parts.indices["train"]]
    torch.manual_seed(0)
    network = potentials.build(architecture(e0s, train))
    described = potentials.Potential(
        network=network,
        level_of_theory={"Default": LEVEL},
        provenance={"name": "temper-gfn1", "licence": "MIT"},
    )
    setup = TrainingSetup(
        network=network,
        train=graphs(train, described),
        valid={"target": graphs([frames[i] for i in parts.indices["valid"]], described)},
        weights=[WEIGHTS],
    )
    optimisation = OPTIMISATION.model_copy(update={"epochs": epochs})

    def record(row: dict[str, object]) -> None:
        if rank == 0:
            with (out / "history.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")

    fitted = fit(setup, optimisation, state_path=out / "state.pt", report=record)
    if rank == 0:
        finished = potentials.Potential(
            network=fitted.network, level_of_theory=described.level_of_theory, provenance=described.provenance
        )
        potentials.save(finished, out / "temper-gfn1.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=OPTIMISATION.epochs)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rendezvous").unlink(missing_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    spawn(_worker, (args.workers, args.labels.resolve(), args.out.resolve(), args.epochs), args.workers)


if __name__ == "__main__":
    main()
