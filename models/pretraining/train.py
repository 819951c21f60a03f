"""Pre-train the shipped foundation on the labels that `models.pretraining.sampling` made.

Run `python -m models.pretraining.train --labels DIR [DIR ...] --out DIR --workers 2`. A killed run goes on
from its last epoch. One process per worker, gradients averaged over them, one thread each.
"""

import argparse
import io
import json
import logging
import lzma
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from ase import Atoms
from ase.data import atomic_numbers
from ase.io import read
from torch.multiprocessing.spawn import spawn

from models import losses, potentials
from models.datasets import PARTS, Splitting, split
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


def read_dataset(folders: Sequence[Path]) -> tuple[dict[str, list[Atoms]], dict[int, float]]:
    """Labelled frames by part, and the E0s (eV) of the free atoms.

    Each folder is split by itself, so that what one training has held out stays held out when
    another folder is added.
    """
    dataset: dict[str, list[Atoms]] = {part: [] for part in PARTS}
    for folder in folders:
        frames = [frame for path in sorted(folder.glob("labels*.extxyz*")) for frame in _read(path)]
        for part, indices in split(frames, SPLITTING, str(folder)).indices.items():
            dataset[part] += [frames[i] for i in indices]
    atoms = read(folders[0] / "isolated_atoms.extxyz", ":")
    e0s = {atomic_numbers[a.get_chemical_symbols()[0]]: float(a.info["REF_energy"]) for a in atoms}
    return dataset, e0s


def _read(path: Path) -> list[Atoms]:
    content = path.read_bytes()
    text = (lzma.decompress(content) if path.suffix == ".xz" else content).decode()
    # From memory: ASE seeks back and forth, which a compressed file answers by starting over.
    return list(read(io.StringIO(text), ":", format="extxyz"))


def _worker(rank: int, world: int, args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{args.out}/rendezvous", rank=rank, world_size=world
        )
    dataset, e0s = read_dataset(args.labels)
    torch.manual_seed(0)
    network = potentials.build(architecture(e0s, dataset["train"]))
    if args.start is not None:
        network = potentials.load(args.start).network
    described = potentials.Potential(
        network=network,
        level_of_theory={"Default": LEVEL},
        provenance={"name": "temper-gfn1", "licence": "MIT"},
    )
    setup = TrainingSetup(
        network=network,
        train=graphs(dataset["train"], described),
        valid={"target": graphs(dataset["valid"], described)},
        weights=[WEIGHTS],
    )
    changed = {"epochs": args.epochs, "learning_rate": args.learning_rate}
    optimisation = OPTIMISATION.model_copy(update=changed)

    def record(row: dict[str, object]) -> None:
        if rank == 0:
            with (args.out / "history.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    fitted = fit(setup, optimisation, state_path=args.out / "state.pt", report=record)
    if rank == 0:
        potentials.save(replace(described, network=fitted.network), args.out / "temper-gfn1.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, nargs="+", required=True, help="folders of labels")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="go on from this checkpoint instead of from scratch")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=OPTIMISATION.epochs)
    parser.add_argument("--learning-rate", type=float, default=OPTIMISATION.learning_rate)
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rendezvous").unlink(missing_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    spawn(_worker, (args.workers, args), args.workers)


if __name__ == "__main__":
    main()
