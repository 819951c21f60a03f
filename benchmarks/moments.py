"""What fine-tuning learns of magnetic moments: `python benchmarks/moments.py [--sets …] [--json FILE]`.

Sets: `lattice`, the exact labels of the campaign `spins`; `chgnet`, crystals labelled by CHGNet here (extra
`chgnet`); `gpaw` and `nio`, real labels, read where the folder of test data has them (TEMPER_TEST_DATA).
temper-gfn1, its new elements copies of Na, is fine-tuned naively with one thread, split by trajectory
(`gpaw`: by frame, as each is a strain of its own, in folds; `nio`: by stretches of the file, with gaps).

Figures of each set, on what was held out: `moments` (MAE, μB, of moments above a tenth of the largest),
`relative` (over that of the elements' means in what was held out), `forces`, `magnetic_forces`, `orders` (MAE
of the energy between magnetic orders of one geometry) and `sign` (share with the right sign), where the set
has them, and `epochs_s`; the mean over the seeds (of the training), and as `…_spread` the standard deviation
over them. `gpaw` has no geometry in two orders: it can say nothing of these. Moments of `nio`
are all alike but for their directions: their magnitudes say nothing, the forces on them do.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

import torch
from ase import Atoms
from figures import publish

from models.datasets import PARTS, Keys, Splitting, Units, read_labels, split, write_structures
from models.e0s import E0Policy, refit
from models.foundation import resolve
from models.heads import with_elements
from models.potentials import Potential
from models.strategies import Naive, TrainingData
from models.training import Optimisation, fit
from models.validation import Accuracy, Moments
from models.validation.base import Figure, Subject

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("TEMPER_TEST_DATA", ROOT.parent / "shared" / "data"))
FOLDS = 3
Parts = tuple[Sequence[Atoms], Sequence[Atoms], Sequence[Atoms]]


def labels(path: Path, keys: Keys, more: dict[str, str] | None = None) -> list[Atoms]:
    """The labels of a file in eV, Å and μB."""
    return read_labels(path, keys, Units(energy="eV", forces="eV/Å", magmoms="μB", **(more or {})))


def by_trajectory(frames: list[Atoms], where: str) -> Parts:
    """Train, valid and test, whole trajectories each."""
    indices = split(frames, Splitting(valid=0.15, test=0.25), where).indices
    train, valid, test = ([frames[i] for i in indices[part]] for part in PARTS)
    return train, valid, test


def lattice() -> Iterator[Parts]:
    """The labels of the shipped campaign."""
    keys = Keys(magmoms="REF_magmoms", magnetic_forces="REF_magnetic_forces")
    path = ROOT / "deployments/campaigns/spins/labels.extxyz"
    yield by_trajectory(labels(path, keys, {"magnetic_forces": "eV/μB"}), str(path))


def chgnet() -> Iterator[Parts]:
    """Labelled now: four strains of every crystal."""
    from models.systems.magnets import CRYSTALS, trajectory

    frames = [frame for k in range(4 * len(CRYSTALS)) for frame in trajectory(k)]
    groups = {kind: [f for f in frames if f.info["family"] == kind] for kind in CRYSTALS}
    # Of each crystal one strain is held out whole, so that every element is among both.
    cut = [(g[6:], g[3:6], g[:3]) for g in groups.values()]
    train, valid, test = ([frame for part in parts for frame in part] for parts in zip(*cut, strict=True))
    yield train, valid, test


def gpaw() -> Iterator[Parts]:
    """Every frame is held out once; a third of them at a time, of each crystal and order alike."""
    path = DATA / "generated_magmom_gpaw_pbe/limno2_fe_pbe_pw400.xyz"
    frames = sorted(labels(path, Keys(magmoms="REF_magmoms")), key=lambda f: str(f.info["config_type"]))
    for fold in range(FOLDS):
        test = frames[fold::FOLDS]
        rest = [frame for k, frame in enumerate(frames) if k % FOLDS != fold]
        yield [f for k, f in enumerate(rest) if k % 5], rest[::5], test


def nio() -> Iterator[Parts]:
    """The vectors as labels; frames of one geometry's dynamics, the last part held out."""
    path = DATA / "nio_spin_deepmd/derived/nio_spin.xyz"
    keys = Keys(magmoms="spin", magnetic_forces="force_mag")
    frames = labels(path, keys, {"magnetic_forces": "eV/μB"})
    # Every third frame keeps this to minutes; what is in between is left out at the seams.
    yield frames[:90:3], frames[96:114:3], frames[120::3]


SHOWN = ("forces", "energy", "moments", "relative", "magnetic_forces", "orders", "sign")
SETS = {"lattice": lattice, "chgnet": chgnet, "gpaw": gpaw, "nio": nio}


def learnt(train: Sequence[Atoms], valid: Sequence[Atoms], epochs: int, seed: int) -> tuple[Potential, float]:
    """A potential fine-tuned on the labels, and the seconds of its epochs."""
    start = resolve("temper-gfn1")
    symbols = sorted({symbol for atoms in (*train, *valid) for symbol in atoms.get_chemical_symbols()})
    foundation = with_elements(start, {s: "Na" for s in symbols if s not in start.symbols})
    e0s = refit(foundation, train, [], E0Policy()).e0s
    optimisation = Optimisation(
        learning_rate=0.003, ema_decay=0.98, clip_gradient=10.0, decay="cosine", epochs=epochs,
        max_edges=1500, seed=seed,
    )  # fmt: skip
    strategy = Naive(optimisation=optimisation)
    setup = strategy.prepare(foundation, e0s, TrainingData(train=list(train), valid=list(valid)))
    begin = time.perf_counter()
    fitted = fit(setup, optimisation)
    potential = Potential(
        network=strategy.finish(fitted.network), level_of_theory={"target": "labels"}, provenance={}
    )
    return potential, time.perf_counter() - begin


def measured(potential: Potential, test: Sequence[Atoms]) -> dict[str, Figure]:
    """What the checks find on held-out labels."""
    with TemporaryDirectory() as folder:
        write_structures(Path(folder) / "test.extxyz", test)
        subject = Subject(potential=potential, files={"test": Path(folder) / "test.extxyz"})
        return {**Accuracy().measure(subject).figures, **Moments().measure(subject).figures}


def figures(name: str, epochs: int, seed: int) -> dict[str, float]:
    """What was found of a set with one seed, the mean over its folds."""
    folds: list[dict[str, Figure]] = []
    seconds = 0.0
    for train, valid, test in SETS[name]():
        potential, took = learnt(train, valid, epochs, seed)
        seconds += took
        folds.append(measured(potential, test))
    found = {key: [f[key].value for f in folds if key in f] for key in SHOWN}
    known = {key: [value for value in values if value is not None] for key, values in found.items()}
    return {key: mean(values) for key, values in known.items() if values} | {"epochs_s": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    units = {n: q.unit for check in (Accuracy, Moments) for n, q in check.quantities.items()}
    units["epochs_s"] = "s"
    rows = []
    for name in args.sets:
        found = [figures(name, args.epochs, seed) for seed in range(args.seeds)]
        for key in found[0]:
            values = [one[key] for one in found]
            rows.append((f"{name}.{key}", mean(values), units[key]))
            if args.seeds > 1:
                rows.append((f"{name}.{key}_spread", stdev(values), units[key]))
    publish(rows, args.json)


if __name__ == "__main__":
    main()
