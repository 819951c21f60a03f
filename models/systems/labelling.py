"""How every shipped campaign's structures come to their labels: dynamics, relaxation, and the files."""

import argparse
import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.optimize import FIRE, LBFGS

from models.reference.base import labelled_copy
from models.reference.xtb import Method, calculator


def snapshots(
    atoms: Atoms,
    temperature: float,
    rng: np.random.Generator,
    *,
    time_step: float,
    friction: float,
    equilibrate: float,
    frames: int,
    interval: float,
    fixed_centre: bool = False,
) -> list[Atoms]:
    """`frames` labelled snapshots every `interval` fs of Langevin dynamics, after `equilibrate` fs.

    `atoms` has a calculator and is moved. Temperature in K, times in fs, friction in 1/fs. A fixed centre
    of mass, as ASE keeps it, makes small systems hotter than asked for: six atoms become 1000 K for 300 K.
    """
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    Stationary(atoms)
    dynamics = Langevin(
        atoms,
        time_step * units.fs,
        temperature_K=temperature,
        friction=friction / units.fs,
        rng=rng,
        fixcm=fixed_centre,
    )
    dynamics.run(round(equilibrate / time_step))
    kept = []
    for _ in range(frames):
        dynamics.run(round(interval / time_step))
        kept.append(labelled_copy(atoms))
    return kept


def settled(atoms: Atoms, method: Method, *, fmax: float = 0.5, steps: int = 60) -> Atoms:
    """`atoms` with a calculator for the charge in its info, and without the forces of its construction."""
    atoms.calc = calculator(method, charge=atoms.info.get("charge", 0))
    FIRE(atoms, logfile=None).run(fmax=fmax, steps=steps)
    return atoms


def relax(atoms: Atoms, *, fmax: float, steps: int) -> bool:
    """Relax `atoms`, which has a calculator, in its cell; whether the largest force fell to `fmax` (eV/Å)."""
    return LBFGS(atoms, logfile=None).run(fmax=fmax, steps=steps)  # type: ignore[arg-type] # ASE forgot None


def minimum(atoms: Atoms, name: str, *, fmax: float = 0.01, steps: int = 2000) -> Atoms:
    """The labelled minimum that `atoms`, which has a calculator, relaxes to; its info `name` is given.

    Raises ValueError where the largest force is still above `fmax` (eV/Å) after `steps`.
    """
    if not relax(atoms, fmax=fmax, steps=steps):
        raise ValueError(f"{name}: not relaxed to {fmax} eV/Å in {steps} steps")
    relaxed = labelled_copy(atoms)
    relaxed.info["name"] = name
    return relaxed


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of a campaign: what makes each of its `n` groups of frames."""

    make: Callable[[int], list[Atoms]]
    n: int


def make_files(description: str, parts: Mapping[str, Part]) -> None:
    """The command of a system's module: makes the files that are asked for, in several processes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--files", nargs="+", choices=parts, default=list(parts))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        jobs = {n: pool.map_async(parts[n].make, range(parts[n].n), chunksize=1) for n in args.files}
        for name, job in jobs.items():
            frames = [frame for group in job.get() for frame in group]
            write(args.out / f"{name}.extxyz", frames, format="extxyz")
