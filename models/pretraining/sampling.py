"""Short thermostatted trajectories at the reference level, every kept frame labelled.

Run `python -m models.pretraining.sampling --out DIR --workers 2 --trajectories 600`.
"""

import argparse
import logging
import multiprocessing
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import CalculationFailed
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import FIRE

from models.pretraining.families import FAMILIES
from models.reference.base import labelled_copy
from models.reference.xtb import GROUND_STATE_MULTIPLICITY, Method, calculator, isolated_atom

log = logging.getLogger(__name__)

MAX_FORCE = 25.0  # eV/Å: beyond this a frame says more about the packing than about the chemistry
TEMPERATURES = (300.0, 300.0, 400.0, 600.0)  # K


def trajectory(
    name: str,
    family: str,
    start: Atoms,
    charge: int,
    method: Method,
    rng: np.random.Generator,
    *,
    frames: int = 12,
    stride: int = 12,
) -> list[Atoms]:
    """One Langevin trajectory from `start`: `frames` labelled snapshots and a rattled copy of each.

    1 fs steps, `stride` steps between snapshots; rattle of 0.03 or 0.06 Å. Frames whose SCF does
    not converge, or with a force above 25 eV/Å, are left out.
    """
    atoms = start.copy()
    atoms.info = {"family": family, "trajectory": name, "charge": charge}
    atoms.calc = calculator(method, charge=charge)
    temperature = float(rng.choice(TEMPERATURES))
    kept: list[Atoms] = []
    try:
        FIRE(atoms, logfile=None).run(fmax=0.5, steps=50)
        MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
        dynamics = Langevin(
            atoms, 1.0 * units.fs, temperature_K=temperature, friction=0.03 / units.fs, rng=rng
        )
        dynamics.run(60)
        for _ in range(frames):
            dynamics.run(stride)
            kept.append(labelled_copy(atoms))
            shaken = kept[-1].copy()
            shaken.rattle(float(rng.choice([0.03, 0.06])), rng=rng)
            shaken.calc = calculator(method, charge=charge)
            kept.append(labelled_copy(shaken))
    except (CalculationFailed, RuntimeError) as failure:
        log.warning("trajectory %s stopped after %d frames: %s", name, len(kept), failure)
    return [frame for frame in kept if np.abs(frame.arrays["REF_forces"]).max() < MAX_FORCE]


def _worker(
    out: Path, worker: int, method: Method, families: list[str], trajectories: int, frames: int, seed: int
) -> None:
    rng = np.random.default_rng([seed, worker])
    shares = [FAMILIES[name][1] for name in families]
    path = out / f"labels-{seed}-{worker}.extxyz"
    for index in range(trajectories):
        family = str(rng.choice(families, p=np.array(shares) / np.sum(shares)))
        start, charge = FAMILIES[family][0](rng)
        name = f"{family}-{seed}-{worker}-{index}"
        labelled = trajectory(name, family, start, charge, method, rng, frames=frames)
        if labelled:
            write(path, labelled, format="extxyz", append=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", default="GFN1-xTB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--trajectories", type=int, default=250, help="per worker")
    parser.add_argument(
        "--frames", type=int, default=12, help="of each trajectory; each is rattled once more"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write(
        args.out / "isolated_atoms.extxyz", [isolated_atom(s, args.method) for s in GROUND_STATE_MULTIPLICITY]
    )
    context = multiprocessing.get_context("spawn")
    jobs = [
        context.Process(
            target=_worker,
            args=(args.out, w, args.method, args.families, args.trajectories, args.frames, args.seed),
        )
        for w in range(args.workers)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()


if __name__ == "__main__":
    main()
