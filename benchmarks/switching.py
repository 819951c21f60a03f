"""How long does it take to go from one specialist to another, and what memory do many of them take?

Run `python benchmarks/switching.py [--json FILE]`. Sparse specialists of the shipped foundation, and of a
MACE of the size of MACE-MPA-0 medium with random weights, each with a share of its weights changed at random:
in one network that is switched (`switch`), or loaded anew (`load`); medians.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from figures import publish
from student_speed import mpa_sized

from models import checkpoints, potentials
from models.foundation import shipped
from models.specialists import Specialists

Figure = tuple[str, float, str]


def main() -> None:
    """Measure every network and share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--specialists", type=int, default=10)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.005, 0.05])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.safetensors"
        potentials.save(mpa_sized([1, 8, 11, 17]), large)
        for name, foundation in (("temper-gfn1", shipped()["temper-gfn1"]), ("mpa_sized", large)):
            for share in args.shares:
                figures = measured(foundation, share, args.specialists, Path(folder))
                found += [(f"{kind}[{name}, {100 * share:g}%]", value, unit) for kind, value, unit in figures]
    publish(found, args.json)


def measured(foundation: Path, share: float, n_specialists: int, folder: Path) -> list[Figure]:
    """Sizes, and median times of going round all specialists in shuffled order."""
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
    return [
        ("weights", sum(weights[tensor].numel() for tensor in trained), "weights"),
        ("file", whole.stat().st_size / 1e6, "MB"),
        ("delta", delta.stat().st_size / 1e6, "MB"),
        ("memory_each", specialists.bytes / n_specialists / 1e6, "MB"),
        ("switch", 1e3 * median(switches), "ms"),
        ("load", 1e3 * loaded, "ms"),
    ]


if __name__ == "__main__":
    main()
