"""A dataset that is not held in memory: `python benchmarks/streaming.py [--structures N] [--json FILE]`.

Writes rattled water dimers with labels into an LMDB database, copies it until there are as many structures
as asked for (ASE writes 500 to 1,200 in a second), opens all as `StoredGraphs`, and reads batches in random
order, as training does.

Figures: `survey` and `read` (structures per second, of the one pass when a database is first opened and of
batches ready for the network), `open_again` (seconds), `memory` (largest growth of the process's own memory
while it reads; what the system maps of the file and may drop at any time does not count) and `file` (GB).
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from figures import publish

from models.graphs import batches, collate, graph
from models.structure_store import StoredGraphs

SHARD = 50_000  # structures per file
ELEMENTS, CUTOFF, MAX_EDGES = [1, 8], 5.0, 2000


def write(folder: Path, n: int) -> None:
    """Files of `n` labelled dimers together; the labels are random numbers, which nobody learns from."""
    rng = np.random.default_rng(0)
    dimer = molecule("H2O") + molecule("H2O")
    dimer.positions[3:] += [0.0, 0.0, 2.9]
    first = folder / "0000.aselmdb"
    with connect(first, type="aselmdb") as database:
        for _ in range(min(n, SHARD)):
            atoms = dimer.copy()
            atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
            forces = rng.normal(size=atoms.positions.shape)
            atoms.calc = SinglePointCalculator(atoms, energy=float(rng.normal()), forces=forces)
            database.write(atoms)
    for shard in range(1, n // SHARD):
        shutil.copy(first, folder / f"{shard:04d}.aselmdb")


def own_memory() -> float:
    """Resident memory of this process that is not a mapped file, MB."""
    (line,) = (r for r in Path("/proc/self/status").read_text().splitlines() if r.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--structures", type=int, default=20_000, help=f"above {SHARD}: a multiple of it")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        write(folder, args.structures)
        size = sum(file.stat().st_size for file in folder.iterdir())

        collate([graph(molecule("H2O"), ELEMENTS, CUTOFF)], len(ELEMENTS), torch.float32)
        memory, started = [own_memory()], time.perf_counter()
        graphs = StoredGraphs(folder, ELEMENTS, CUTOFF)
        surveyed = time.perf_counter()
        order = np.random.default_rng(0).permutation(len(graphs))
        for run in batches(order, graphs.edge_counts, MAX_EDGES):
            collate([graphs[i] for i in run], len(ELEMENTS), torch.float32)
            memory.append(own_memory())
        read = time.perf_counter()
        StoredGraphs(folder, ELEMENTS, CUTOFF)
        again = time.perf_counter()
        publish(
            [
                ("survey", len(graphs) / (surveyed - started), "structures/s"),
                ("read", len(graphs) / (read - surveyed), "structures/s"),
                ("open_again", again - read, "s"),
                ("memory", max(memory) - memory[0], "MB"),
                ("file", size / 1e9, "GB"),
            ],
            args.json,
        )


if __name__ == "__main__":
    main()
