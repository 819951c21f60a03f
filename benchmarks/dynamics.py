"""How fast are many replicas at once? The batched loop against ASE with mace's calculator, and torch-sim.

    python benchmarks/dynamics.py [--replicas 8] [--rounds 3] [--atoms 26 100 400] [--json FILE]

The shipped foundation moves a droplet of 26 atoms and boxes of salt water of 100 and 400 at constant energy:
all replicas in the batched loop, then one after another with ASE's velocity Verlet and MACECalculator on the
exported model, then all at once in torch-sim (left out where it is not installed); and again, so that a busy
machine slows all of them alike. Ratios are medians over the rounds. All are in float32 on one thread.
"""

import argparse
import contextlib
import importlib.util
import io
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet as AseVelocityVerlet
from ase.optimize import FIRE
from figures import publish

from models.calculator import PotentialCalculator
from models.datasets import read_structures
from models.dynamics.md import VelocityVerlet, run
from models.foundation import shipped
from models.potentials import Potential, export_mace, load
from models.systems.packing import random_rotation
from models.tracing import traced

DROPLETS = Path(__file__).parents[1] / "deployments" / "campaigns" / "nacl" / "reference.extxyz"
BOXES = {100: (3, 3, 4), 400: (6, 6, 4)}  # places of molecules and ions; one in nine is an ion
SPACING = 3.1  # Å; the density of water
TIME_STEP = 0.5  # fs
TEMPERATURE = 300.0  # K

Steps = Callable[[int], None]


def droplet() -> Atoms:
    """A shipped droplet of 26 atoms."""
    return next(atoms for atoms in read_structures(DROPLETS) if len(atoms) == 26)


def salt_water(places: tuple[int, int, int], potential: Potential) -> Atoms:
    """A periodic box with a molecule or an ion at every place of a lattice, relaxed a little."""
    rng = np.random.default_rng(0)
    sites = SPACING * np.stack(np.meshgrid(*map(np.arange, places), indexing="ij"), axis=-1).reshape(-1, 3)
    pairs = len(sites) // 18
    contents = ["Na", "Cl"] * pairs + ["H2O"] * (len(sites) - 2 * pairs)
    box = Atoms(cell=SPACING * np.array(places), pbc=True)
    for site, name in zip(rng.permutation(sites), contents, strict=True):
        part = random_rotation(molecule(name) if name == "H2O" else Atoms(name), rng)
        part.translate(site)
        box += part
    box.calc = PotentialCalculator(potential)
    with contextlib.redirect_stdout(io.StringIO()):
        FIRE(box).run(fmax=1.0, steps=60)
    box.calc = None
    return box


def batched(potential: Potential, start: Atoms, replicas: int) -> Steps:
    """Steps of all replicas in the batched loop."""

    def steps(n: int) -> None:
        run(
            potential,
            [start] * replicas,
            VelocityVerlet(time_step=TIME_STEP),
            steps=n,
            seed=0,
            save_every=n,
            velocities_from_temperature=TEMPERATURE,
        )

    return steps


def one_by_one(calculator: Any, start: Atoms, replicas: int) -> Steps:
    """Steps of ASE's integrator, one replica after another."""
    rng = np.random.default_rng(0)
    dynamics = []
    for _ in range(replicas):
        atoms = start.copy()
        speeds = np.sqrt(units.kB * TEMPERATURE / atoms.get_masses())[:, None]
        atoms.set_velocities(speeds * rng.normal(size=(len(atoms), 3)))
        dynamics.append(AseVelocityVerlet(atoms, timestep=TIME_STEP * units.fs))

    def steps(n: int) -> None:
        for one in dynamics:
            one.atoms.calc = calculator  # one for all, which remembers the last structure only
            one.run(n)

    return steps


def torch_sim(model: Any, start: Atoms, replicas: int) -> Steps:
    """Steps of torch-sim's integrator, all replicas at once."""
    import torch_sim as ts

    state = ts.io.atoms_to_state(
        [_centred(start)] * replicas, device=torch.device("cpu"), dtype=torch.float32
    )
    kt = torch.tensor(TEMPERATURE * units.kB, dtype=torch.float32)
    step = torch.tensor(TIME_STEP * 1e-3, dtype=torch.float32) * ts.units.MetalUnits.time
    begin, update = ts.integrators.nve(model, dt=step, kT=kt, seed=0)
    state = begin(state)

    def steps(n: int) -> None:
        nonlocal state
        for _ in range(n):
            state = update(state)

    return steps


def _centred(start: Atoms) -> Atoms:
    """A cluster in a cell of its own, as torch-sim wants one."""
    atoms = start.copy()
    atoms.info, atoms.arrays = {}, {name: atoms.arrays[name] for name in ("numbers", "positions")}
    if not atoms.pbc.any():
        atoms.center(vacuum=5.0)
    return atoms


def measure(
    contenders: Mapping[str, Steps], steps: Mapping[str, int], rounds: int
) -> Iterator[dict[str, float]]:
    """Seconds per step of all replicas, by contender, round by round in turn."""
    for name, advance in contenders.items():
        advance(2 * steps[name] if name == "batched" else 3)  # its operations are written down at first
    for _ in range(rounds):
        seconds = {}
        for name, advance in contenders.items():
            began = time.perf_counter()
            advance(steps[name])
            seconds[name] = (time.perf_counter() - began) / steps[name]
        yield seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--atoms", type=int, nargs="+", choices=(26, *BOXES), default=[26, *BOXES])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    potential = load(shipped()["temper-gfn1"])
    there = importlib.util.find_spec("torch_sim") is not None
    if not there:
        print("torch-sim is not installed: its figures are left out")
    found: list[tuple[str, float, str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "foundation.model"
        export_mace(potential, path)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            from mace.calculators import MACECalculator

            calculator = MACECalculator(str(path), device="cpu", default_dtype="float32")
            if there:
                from torch_sim.models.mace import MaceModel

                network = torch.load(path, weights_only=False)  # written above
                model = MaceModel(network, dtype=torch.float32, compute_stress=False)
        for n_atoms in args.atoms:
            start = droplet() if n_atoms == 26 else salt_water(BOXES[n_atoms], potential)
            assert len(start) == n_atoms
            contenders = {
                "batched": batched(traced(potential), start, args.replicas),
                "ase": one_by_one(calculator, start, args.replicas),
            }
            if there:
                contenders["torch_sim"] = torch_sim(model, start, args.replicas)
            few = max(3, 1000 // n_atoms)
            steps = dict.fromkeys(contenders, few) | {"batched": 4 * few}
            rounds = list(measure(contenders, steps, args.rounds))
            for name in contenders:
                rate = args.replicas / median(seconds[name] for seconds in rounds)
                found.append((f"{name}[{n_atoms}]", rate, "replica-steps/s"))
            for name in list(contenders)[1:]:
                ratio = median(seconds[name] / seconds["batched"] for seconds in rounds)
                found.append((f"batched_over_{name}[{n_atoms}]", ratio, "×"))
    publish(found, args.json)


if __name__ == "__main__":
    main()
