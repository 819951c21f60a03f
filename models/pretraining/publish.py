"""Put a pre-trained foundation into the box: checkpoint, replay structures, model card.

Run `python -m models.pretraining.publish --labels DIR [DIR ...] --checkpoint FILE --training TEXT`.
Errors are measured on the test trajectories, which no training and no choice of an epoch has seen.
"""

import argparse
import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed

from models.datasets import write_structures
from models.foundation import SHIPPED, shipped_replay
from models.graphs import graphs, predict
from models.potentials import load, n_parameters
from models.pretraining.families import FAMILIES
from models.pretraining.train import LEVEL, read_dataset
from models.reference.xtb import Method, relabelled
from models.validation.errors import Errors, errors

NAME = "temper-gfn1"
TARGET_LEVEL: Method = "GFN2-xTB"
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


_CARD = """\
# {name}

A small MACE for gas-phase clusters of H, Li, C, N, O, F, Na, P, S, Cl and Br, pre-trained from scratch
for this project at {level}. It is a starting point for fine-tuning, not a potential to publish with.

- sha256 of `{name}.safetensors`: `{digest}`
- {n_weights:,} parameters: two layers, 64 scalar channels, edges up to l = 2, correlation 2, 4.5 Å, ZBL
- Labels: {level} by tblite (accuracy 0.1), charge 0 (sn2: -1), made by `models.pretraining.sampling`
- Data: {n_structures} structures of {n_trajectories} short Langevin trajectories (300, 400, 600 K) and
  rattled copies, split by trajectory: {counts}
- Training (`models.pretraining.train`): {training}
- Licence: MIT, weights and data alike

Mean absolute errors against its own level, on trajectories held out whole:

| family | what it holds | structures | forces, meV/Å | forces RMSE, meV/Å | energy, meV/atom |
|---|---|---|---|---|---|
{rows}

On held-out {family} structures {level} and {target} differ by {difference:.1f} meV/Å; the model differs
from {level} by {own:.1f} meV/Å on the same structures: {ratio:.2f} of that.

Known limits: no crystals and no periodic cells among the data; no total charge or spin as input, so
anions are known only as the methyl halide complexes of the sn2 family; nothing above 600 K.
"""


def table(measured: Errors, counts: Mapping[str, int]) -> str:
    """The rows of the card's table: each family, their plain mean, and all structures as they come."""
    assert measured.forces is not None
    assert measured.energy is not None
    rows = [
        (
            family,
            (FAMILIES[family][0].__doc__ or "").splitlines()[0],
            metric,
            measured.energy_by_family[family],
        )
        for family, metric in measured.forces_by_family.items()
    ]
    rows.append(("all", "every structure", measured.forces, measured.energy))
    lines = [
        f"| {family} | {holds} | {counts[family]} | {forces.mae:.1f} | {forces.rmse:.1f} | {energy.mae:.1f} |"
        for family, holds, forces, energy in rows
    ]
    mean = np.mean([[f.mae, f.rmse, e.mae] for _, _, f, e in rows[:-1]], axis=0)
    lines.append("| mean | every family alike | | " + " | ".join(f"{value:.1f}" for value in mean) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, nargs="+", required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--training", required=True, help="one sentence on schedule and epochs, for the card")
    args = parser.parse_args()
    SHIPPED.mkdir(exist_ok=True)
    path = SHIPPED / f"{NAME}.safetensors"
    path.write_bytes(args.checkpoint.read_bytes())
    potential = load(path)
    dataset, _ = read_dataset(args.labels)
    test = dataset["test"]
    rng = np.random.default_rng(0)
    picks = sorted(rng.choice(len(test), min(N_REPLAY, len(test)), replace=False))
    write_structures(shipped_replay(), [test[i] for i in picks])

    measured = errors(predict(potential, graphs(test, potential)), test)
    target = [frame for frame in test if frame.info["family"] == TARGET_FAMILY][:N_RELABELLED]
    difference, used = level_difference(target)
    target = [target[i] for i in used]
    own = errors(predict(potential, graphs(target, potential)), target).forces
    assert own is not None
    frames = [frame for part in dataset.values() for frame in part]
    text = _CARD.format(
        name=NAME,
        level=LEVEL,
        target=TARGET_LEVEL,
        family=TARGET_FAMILY,
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        n_weights=n_parameters(potential.network),
        n_structures=len(frames),
        n_trajectories=len({frame.info["trajectory"] for frame in frames}),
        counts=", ".join(f"{len(part)} {name}" for name, part in dataset.items()),
        training=args.training,
        rows=table(measured, Counter(f.info["family"] for f in test) | {"all": len(test)}),
        difference=difference,
        own=own.mae,
        ratio=own.mae / difference,
    )
    (SHIPPED / f"{NAME}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
