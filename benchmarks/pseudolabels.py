"""Pseudolabels by Temper and by others: `python benchmarks/pseudolabels.py [--json FILE]`.

Everybody labels the same replay structures, energies and forces, in float64, with one torch thread, from the
file of structures to labels in memory, in turns; start-up is left out on all sides. mace_eval_configs is
called as a function with its default batch of 64 structures. Before any figure is printed, all labels are
compared with ours: 1e-6 eV and 1e-6 eV/Å. `--dtype float32` times that precision, and allows for it.

Figures: `over_mace_eval_configs`, `over_ase_loop`, `over_torch_sim` (their time over ours, medians).
"""

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.io import read
from figures import publish

from models import graphs, potentials
from models.datasets import read_structures, write_structures

ROOT = Path(__file__).parents[1]
FOUNDATION = ROOT / "models/foundations/temper-gfn1.safetensors"
REPLAY = ROOT / "models/foundations/replay.extxyz"
TOLERANCE = {"float64": 1e-6, "float32": 2e-3}

Labels = list[tuple[float, np.ndarray]]


def ours(folder: Path, dtype: str) -> Callable[[], Labels]:
    """`predict`, as pseudolabelling calls it."""
    potential = potentials.load(FOUNDATION, getattr(torch, dtype))

    def label() -> Labels:
        frames = read_structures(folder / "structures.extxyz")
        return [(p.energy, p.forces) for p in graphs.predict(potential, graphs.graphs(frames, potential))]

    return label


def mace_eval_configs(folder: Path, dtype: str) -> Callable[[], Labels]:
    """mace-torch's script; it loads the model anew at each call, which takes milliseconds."""
    from mace.cli import eval_configs

    def label() -> Labels:
        argv = sys.argv
        sys.argv = ["mace_eval_configs", f"--configs={folder / 'structures.extxyz'}",
                    f"--model={folder / 'foundation.model'}", f"--output={folder / 'out.extxyz'}",
                    f"--default_dtype={dtype}"]  # fmt: skip
        before = torch.get_default_dtype()
        try:
            eval_configs.main()
        finally:
            sys.argv = argv
            torch.set_default_dtype(before)
        frames: Any = read(folder / "out.extxyz", ":")
        return [(a.info["MACE_energy"], a.arrays["MACE_forces"]) for a in frames]

    return label


def ase_loop(folder: Path, dtype: str) -> Callable[[], Labels]:
    """One structure after the other with mace-torch's ASE calculator."""
    from mace.calculators import MACECalculator

    calculator = MACECalculator(str(folder / "foundation.model"), device="cpu", default_dtype=dtype)

    def label() -> Labels:
        labels = []
        for frame in read_structures(folder / "structures.extxyz"):
            bare = frame.copy()
            bare.calc = calculator
            labels.append((bare.get_potential_energy(), bare.get_forces()))
        return labels

    return label


def torch_sim(folder: Path, dtype: str) -> Callable[[], Labels]:
    """TorchSim's batched evaluation, as many atoms at a time as we take edges."""
    import torch_sim as ts
    from torch_sim.models.mace import MaceModel

    real = getattr(torch, dtype)
    network = torch.load(folder / "foundation.model", weights_only=False).to(real)
    model = MaceModel(model=network, device=torch.device("cpu"), dtype=real, compute_stress=False)

    def label() -> Labels:
        labels: Labels = []
        frames = read_structures(folder / "structures.extxyz")
        sizes = [len(frame) for frame in frames]
        for run in graphs.batches(range(len(frames)), sizes, 600):
            chosen = [frames[i] for i in run]
            state = ts.initialize_state(chosen, device=torch.device("cpu"), dtype=real)
            output = model(state)
            forces = output["forces"].detach().split([len(a) for a in chosen])
            labels += zip(output["energy"].tolist(), (f.numpy() for f in forces), strict=True)
        return labels

    return label


CONTENDERS = {
    "over_mace_eval_configs": mace_eval_configs,
    "over_ase_loop": ase_loop,
    "over_torch_sim": torch_sim,
}


def compare(name: str, theirs: Labels, labels: Labels, tolerance: float) -> None:
    """End the run if any energy (eV) or force (eV/Å) differs by more than `tolerance`."""
    worst = max(
        max(abs(e - energy), float(np.abs(f - forces).max()))
        for (e, f), (energy, forces) in zip(theirs, labels, strict=True)
    )
    print(f"{name.removeprefix('over_')}: labels differ by at most {worst:.1e}")
    if worst > tolerance:
        raise SystemExit(f"{name}: labels differ by {worst:.1e}, more than {tolerance}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--structures", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="float64")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        frames = read_structures(REPLAY)
        for frame in frames:
            # Only what everybody reads: labels and charges would be written back by some.
            frame.calc, frame.info = None, {}
            del frame.arrays["REF_forces"]
        frames = frames[:: max(1, len(frames) // given.structures)]
        write_structures(folder / "structures.extxyz", frames)
        potentials.export_mace(potentials.load(FOUNDATION), folder / "foundation.model")

        label = ours(folder, given.dtype)
        labels, calls = label(), {"ours": label}
        for name, contender in CONTENDERS.items():
            try:
                calls[name] = contender(folder, given.dtype)
            except ImportError as error:
                print(f"{name}: skipped ({error})")
                continue
            compare(name, calls[name](), labels, TOLERANCE[given.dtype])
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(given.repeats):
            for name, call in calls.items():
                started = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - started)

    typical = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{len(frames)} structures, {given.dtype}: ours {1000 * typical['ours'] / len(frames):.1f} ms each")
    publish([(n, typical[n] / typical["ours"], "ratio") for n in typical if n != "ours"], given.json)


if __name__ == "__main__":
    main()
