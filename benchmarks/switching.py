"""How long does it take to go from one specialist to another, and what memory do many of them take?

Sparse specialists of the shipped foundation, and of a MACE of the size of MACE-MPA-0 medium with random
weights, each with a share of its weights changed at random: in one network that is switched, or loaded anew.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from student_speed import mpa_sized

from models import checkpoints, potentials
from models.foundation import shipped
from models.specialists import Specialists


def main() -> None:
    """Print a row for every network and share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--specialists", type=int, default=10)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.005, 0.05])
    args = parser.parse_args()
    torch.manual_seed(0)
    print("| network | weights | changed | file, MB | delta, MB | memory each, MB | switch, ms | load, ms |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.safetensors"
        potentials.save(mpa_sized([1, 8, 11, 17]), large)
        for name, foundation in (("temper-gfn1", shipped()["temper-gfn1"]), ("as MPA-0 medium", large)):
            for share in args.shares:
                print(row(name, foundation, share, args.specialists, Path(folder)))


def row(name: str, foundation: Path, share: float, n_specialists: int, folder: Path) -> str:
    """Median times of going round all specialists, in shuffled order."""
    described, weights = checkpoints.read(foundation)
    trained = [n for n, _ in potentials.load(foundation).network.named_parameters()]
    specialists = Specialists(foundation)
    for number in range(n_specialists):
        generator = torch.Generator().manual_seed(number)
        other = {n: t.clone() for n, t in weights.items()}
        for tensor in trained:
            changed = torch.rand(other[tensor].shape, generator=generator) < share
            other[tensor][changed] += 0.01
        whole = folder / "whole.safetensors"
        checkpoints.write(whole, described, other)
        specialists.add(str(number), whole)
    delta = checkpoints.smallest(whole, foundation)
    switches = []
    for _ in range(10):
        for number in torch.randperm(n_specialists).tolist():
            started = time.perf_counter()
            specialists.use(str(number))
            switches.append(time.perf_counter() - started)
    started = time.perf_counter()
    potentials.load(whole)
    loaded = time.perf_counter() - started
    n_weights = sum(weights[tensor].numel() for tensor in trained)
    megabytes = [whole.stat().st_size, delta.stat().st_size, specialists.bytes / n_specialists]
    sizes = " | ".join(f"{size / 1e6:.3g}" for size in megabytes)
    times = f"{1e3 * median(switches):.2g} | {1e3 * loaded:.0f}"
    return f"| {name} | {n_weights:,} | {100 * share:g} % | {sizes} | {times} |"


if __name__ == "__main__":
    main()
