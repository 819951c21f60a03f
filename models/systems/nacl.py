"""The NaCl(aq) example: labels, reference trajectories and minima of salt-water droplets at GFN2-xTB.

Run `python -m models.systems.nacl --out deployments/campaigns/nacl` to make all files again.
"""

import numpy as np
from ase import Atoms

from models.reference.base import labelled_copy
from models.reference.xtb import Method, calculator
from models.systems.labelling import Part, make_files, minimum, settled, snapshots
from models.systems.molecules import ion, water
from models.systems.packing import pack

METHOD: Method = "GFN2-xTB"
TIME_STEP = 0.5  # fs
FRICTION = 0.02  # 1/fs
REFERENCE_TEMPERATURE = 330.0  # K
REFERENCE_INTERVAL = 20.0  # fs
STRETCHED = 4  # frames of each labelled trajectory with a proton on its way out

# (NaCl pairs, water molecules, temperature in K) of each labelled trajectory.
TRAJECTORIES = (
    (1, 8, 330.0), (1, 6, 330.0), (1, 10, 330.0), (1, 8, 400.0), (1, 5, 400.0), (2, 8, 330.0),
    (1, 9, 330.0), (1, 7, 400.0), (2, 6, 400.0), (1, 8, 330.0), (1, 12, 330.0), (1, 8, 400.0),
)  # fmt: skip
MINIMA = (4, 5, 5, 6, 7, 8)  # water molecules about one NaCl


def droplet(pairs: int, n_water: int, rng: np.random.Generator) -> Atoms:
    """`pairs` of NaCl in `n_water` molecules, packed at random and relaxed at GFN2-xTB."""
    others = [*([ion("Na"), ion("Cl")] * pairs)[1:], *(water() for _ in range(n_water))]
    atoms = pack([ion("Na"), *(others[i] for i in rng.permutation(len(others)))], rng)
    return settled(atoms, METHOD, fmax=0.3, steps=120)


def stretched(frame: Atoms, rng: np.random.Generator) -> Atoms:
    """A labelled copy of `frame` in which one proton is on its way out of its water molecule.

    It is moved to 1.1 to 1.8 Å from its oxygen, half the time in the direction of the bond and half the
    time towards the nearest other oxygen or chlorine, as in a proton transfer. Dynamics at the target
    temperature never goes there, so that a potential that has seen nothing else may find it downhill.
    """
    atoms = Atoms(frame.numbers, positions=frame.positions.round(8))
    distances = atoms.get_all_distances()
    hydrogens, heavy = np.flatnonzero(atoms.numbers == 1), np.flatnonzero(np.isin(atoms.numbers, (8, 17)))
    while True:
        hydrogen = int(rng.choice(hydrogens))
        own, other = heavy[np.argsort(distances[hydrogen, heavy])[:2]]
        way = frame.positions[hydrogen if rng.random() < 0.5 else other] - frame.positions[own]
        place = frame.positions[own] + rng.uniform(1.1, 1.8) * way / np.linalg.norm(way)
        others = np.delete(frame.positions, hydrogen, axis=0)
        if np.linalg.norm(others - place, axis=1).min() > 0.85:
            break
    atoms.positions[hydrogen] = place.round(8)
    atoms.calc = calculator(METHOD)
    return labelled_copy(atoms)


def _labelled(index: int) -> list[Atoms]:
    pairs, n_water, temperature = TRAJECTORIES[index]
    rng = np.random.default_rng([1, index])
    frames = snapshots(
        droplet(pairs, n_water, rng),
        temperature,
        rng,
        time_step=TIME_STEP,
        friction=FRICTION,
        equilibrate=600.0,
        frames=20,
        interval=25.0,
        fixed_centre=True,  # some 60 K hotter than asked for, which is as good for labels
    )
    frames += _stretched(frames, index)
    for frame in frames:
        frame.info |= {"trajectory": f"t{index:02d}", "family": "nacl_aq", "temperature": temperature}
    return frames


def _stretched(frames: list[Atoms], index: int) -> list[Atoms]:
    rng = np.random.default_rng([3, index])
    picks = sorted(rng.choice(len(frames), STRETCHED, replace=False))
    return [stretched(frames[k], rng) for k in picks]


def _reference(index: int) -> list[Atoms]:
    rng = np.random.default_rng([2, index])
    frames = snapshots(
        droplet(1, 8, rng),
        REFERENCE_TEMPERATURE,
        rng,
        time_step=TIME_STEP,
        friction=FRICTION,
        equilibrate=1000.0,
        frames=200,
        interval=REFERENCE_INTERVAL,
    )
    for k, frame in enumerate(frames):
        del frame.arrays["REF_forces"]
        frame.info |= {
            "trajectory": f"r{index:02d}",
            "time_fs": k * REFERENCE_INTERVAL,
            "temperature": REFERENCE_TEMPERATURE,
        }
        frame.positions = frame.positions.round(4)
    return frames


def _minimum(index: int) -> list[Atoms]:
    n_water = MINIMA[index]
    atoms = droplet(1, n_water, np.random.default_rng([4, index]))
    return [minimum(atoms, f"NaCl(H2O){n_water} {index}")]


def main() -> None:
    make_files(
        __doc__,
        {
            "labels": Part(make=_labelled, n=len(TRAJECTORIES)),
            "reference": Part(make=_reference, n=4),
            "minima": Part(make=_minimum, n=len(MINIMA)),
        },
    )


if __name__ == "__main__":
    main()
