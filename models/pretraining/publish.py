"""Put a pre-trained foundation into the box: checkpoint, replay structures, model card.

Run `python -m models.pretraining.publish --labels DIR --checkpoint FILE`. Errors are measured on the
test trajectories, which no training and no choice of an epoch has seen.
"""

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed

from models.datasets import write_structures
from models.foundation import SHIPPED, shipped_replay
from models.graphs import graphs, predict
from models.potentials import load, n_parameters
from models.pretraining.families import FAMILIES
from models.pretraining.train import LEVEL, OPTIMISATION, WEIGHTS, read_dataset
from models.reference.xtb import relabelled
from models.validation.errors import Errors, errors

NAME = "temper-gfn1"
TARGET_LEVEL = "GFN2-xTB"
TARGET_FAMILY = "nacl_aq"
N_REPLAY = 360
N_RELABELLED = 150


def level_difference(frames: list[Atoms]) -> tuple[float, list[int]]:
    """Force MAE (meV/Å) between the labels' level and the target level, and the frames it holds for."""
    differences, used = [], []
    for index, frame in enumerate(frames):
        try:
            other = relabelled(frame, TARGET_LEVEL)
        except CalculationFailed:
            continue
        differences.append(np.abs(other.arrays["REF_forces"] - frame.arrays["REF_forces"]).ravel())
        used.append(index)
    return float(1000.0 * np.concatenate(differences).mean()), used


def card(digest: str, n_weights: int, measured: Errors, difference: float, own: float, data: str) -> str:
    """The model card as Markdown."""
    rows = [
        f"| {family} | {(FAMILIES[family][0].__doc__ or '').splitlines()[0]} | {metric.mae:.1f} | {metric.rmse:.1f} "
        f"| {measured.energy_by_family[family].mae:.1f} |"
        for family, metric in measured.forces_by_family.items()
    ]
    assert measured.forces is not None
    assert measured.energy is not None
    return "\n".join(
        [
            f"# {NAME}",
            "",
            "A small MACE for gas-phase clusters of H, Li, C, N, O, F, Na, P, S, Cl and Br, pre-trained from scratch",
            f"for this project at {LEVEL}. It is a starting point for fine-tuning, not a potential to publish with.",
            "",
            f"- sha256 of `{NAME}.safetensors`: `{digest}`",
            f"- {n_weights:,} parameters; two layers, 64 scalar channels, edges up to l = 2, correlation 2, cutoff 4.5 Å, ZBL",
            f"- Labels: {LEVEL} by tblite (accuracy 0.1), charge 0 (sn2: -1), made by `models.pretraining.sampling`",
            f"- Data: {data}",
            f"- Training: `models.pretraining.train`, {OPTIMISATION.model_dump()}, weights {asdict(WEIGHTS)}",
            "- Licence: MIT, weights and data alike",
            "",
            "Mean absolute errors against its own level, on trajectories held out whole:",
            "",
            "| family | what it holds | forces, meV/Å | forces RMSE, meV/Å | energy, meV/atom |",
            "|---|---|---|---|---|",
            *rows,
            f"| all | | {measured.forces.mae:.1f} | {measured.forces.rmse:.1f} | {measured.energy.mae:.1f} |",
            "",
            f"On held-out {TARGET_FAMILY} structures {LEVEL} and {TARGET_LEVEL} differ by {difference:.1f} meV/Å; the",
            f"model differs from {LEVEL} by {own:.1f} meV/Å on the same structures, {own / difference:.2f} of that.",
            "",
            "Known limits: no crystals and no periodic cells among the data; no total charge or spin as input, so",
            "anions are known only as the methyl halide complexes of the sn2 family; nothing above 600 K.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    args = parser.parse_args()
    SHIPPED.mkdir(exist_ok=True)
    path = SHIPPED / f"{NAME}.safetensors"
    path.write_bytes(args.checkpoint.read_bytes())
    potential = load(path)
    frames, parts, _ = read_dataset(args.labels)
    test = [frames[i] for i in parts.indices["test"]]
    rng = np.random.default_rng(0)
    write_structures(
        shipped_replay(),
        [test[i] for i in sorted(rng.choice(len(test), min(N_REPLAY, len(test)), replace=False))],
    )
    measured = errors(predict(potential, graphs(test, potential)), test)
    target = [frame for frame in test if frame.info["family"] == TARGET_FAMILY][
        :: 1 + len(test) // N_RELABELLED // 2
    ]
    difference, used = level_difference(target)
    target = [target[i] for i in used]
    own = errors(predict(potential, graphs(target, potential)), target).forces
    assert own is not None
    data = (
        f"{len(frames)} structures of {len({f.info['trajectory'] for f in frames})} short Langevin trajectories "
        f"(300, 400, 600 K) and rattled copies; split by trajectory into "
        f"{', '.join(f'{len(i)} {part}' for part, i in parts.indices.items())}"
    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (SHIPPED / f"{NAME}.md").write_text(
        card(digest, n_parameters(potential.network), measured, difference, own.mae, data), encoding="utf-8"
    )
    print(
        json.dumps(
            {"all": measured.forces and measured.forces.mae, TARGET_FAMILY: own.mae, "difference": difference}
        )
    )


if __name__ == "__main__":
    main()
