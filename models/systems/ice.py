"""The ice example: crystals of the DMC-ICE13 phases, and labels of Ih, II, VI and VIII at GFN2-xTB.

Oxygens stand where diffraction found them. The hydrogens obey the ice rules of Bernal and Fowler (J. Chem.
Phys. 1, 515): in an ordered phase they lie on the published bonds, in a disordered one they are drawn
at random, and of many draws the one with the least dipole is taken. Every molecule is a rigid water.

tblite knows no k-points: energies belong to the cell they were computed in, and each phase has one.

Run `python -m models.systems.ice --out deployments/campaigns/ice` to make both files again.
"""

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal
from scipy.spatial.transform import Rotation

from models.reference.base import labelled_copy
from models.reference.xtb import Method, calculator
from models.systems.deformation import deformed, random_strain
from models.systems.ice_phases import PHASES
from models.systems.labelling import Part, make_files, relax

METHOD: Method = "GFN2-xTB"
BOND = 0.975  # Å, O–H
ANGLE = 106.0  # degrees, H–O–H
LONGEST = 3.0  # Å between oxygens that share a hydrogen
DRAWS = 300

LABELLED = ("Ih", "II", "VI", "VIII")
CRYSTALS = ("Ih", "II")  # those that need no pressure, or little
VOLUMES = (0.97, 1.02, 1.07, 1.12, 1.17)  # of the diffraction's; GFN2-xTB makes ice less dense
TRAJECTORIES = 4  # of each phase, each with its volume, and where hydrogens are disordered with its order
FRAMES = 3


def ice(name: str, rng: np.random.Generator) -> Atoms:
    """A crystal of the phase `name`, as O, H, H of one molecule after the other; info `crystal`.

    `rng` draws the hydrogens of a disordered phase. Raises KeyError for a phase that is not in `PHASES`.
    """
    phase = PHASES[name]
    basis = [*phase.oxygens, *phase.hydrogens]
    symbols = ["O"] * len(phase.oxygens) + ["H"] * len(phase.hydrogens)
    sites = crystal(
        symbols, basis, spacegroup=phase.spacegroup, setting=phase.setting, cellpar=phase.cell, symprec=2e-3
    )
    sites = make_supercell(sites, phase.supercell)
    oxygens, hydrogens = sites[sites.numbers == 8], sites[sites.numbers == 1]
    bonds = _published(oxygens, hydrogens) if len(hydrogens) else _drawn(oxygens, phase.intertwined, rng)
    atoms = Atoms(cell=oxygens.cell, pbc=True, info={"crystal": name})
    for place, (first, second) in zip(oxygens.positions, bonds, strict=True):
        atoms += _water(place, first, second)
    return atoms


def _water(place: np.ndarray, first: np.ndarray, second: np.ndarray) -> Atoms:
    """A rigid water at `place` whose hydrogens point, as well as they can, along two vectors."""
    a, b = first / np.linalg.norm(first), second / np.linalg.norm(second)
    along, across = (a + b) / np.linalg.norm(a + b), (a - b) / np.linalg.norm(a - b)
    half = np.radians(ANGLE) / 2.0
    arms = [BOND * (np.cos(half) * along + sign * np.sin(half) * across) for sign in (1.0, -1.0)]
    return Atoms("OHH", positions=[place, *(place + arm for arm in arms)])


def _published(oxygens: Atoms, hydrogens: Atoms) -> np.ndarray:
    """For each oxygen, the vectors along which its two hydrogens lie: (oxygens, 2, 3).

    A hydrogen belongs to the nearest oxygen. Raises ValueError where an oxygen has not two.
    """
    both = oxygens + hydrogens
    vectors: list[list[np.ndarray]] = [[] for _ in oxygens]
    for hydrogen in range(len(oxygens), len(both)):
        distances = both.get_distances(hydrogen, range(len(oxygens)), mic=True)
        own = int(np.argmin(distances))
        vectors[own].append(both.get_distance(own, hydrogen, mic=True, vector=True))
    if any(len(found) != 2 for found in vectors):
        raise ValueError("an oxygen has not two hydrogens")
    return np.array(vectors)


def _drawn(oxygens: Atoms, intertwined: bool, rng: np.random.Generator) -> np.ndarray:
    """The same, drawn at random among the orders that obey the ice rules: of many, the least polar one.

    Raises ValueError where the oxygens have not four neighbours each.
    """
    starts, ends, vectors = neighbor_list("ijD", oxygens, LONGEST)
    if intertwined:
        network = oxygens.arrays["spacegroup_kinds"]
        within = network[starts] == network[ends]
        starts, ends, vectors = starts[within], ends[within], vectors[within]
    if not (np.bincount(starts, minlength=len(oxygens)) == 4).all():
        raise ValueError("an oxygen has not four neighbours")
    reverse = _reverse(starts, ends, vectors)
    least, chosen = np.inf, np.empty((len(oxygens), 2, 3))
    for _ in range(DRAWS):
        order = _walks(starts, ends, reverse, rng)
        pairs = vectors[order[np.argsort(starts[order], kind="stable")]].reshape(-1, 2, 3)
        units = pairs / np.linalg.norm(pairs, axis=2, keepdims=True)
        halves = units.sum(axis=1)
        polar = float(np.linalg.norm((halves / np.linalg.norm(halves, axis=1, keepdims=True)).sum(axis=0)))
        if polar < least - 1e-6:
            least, chosen = polar, pairs
    return chosen


def _reverse(starts: np.ndarray, ends: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """For each bond, which are listed in both directions, the index of the same in the other direction."""
    forth = np.lexsort(np.column_stack([vectors.round(4), ends, starts]).T)
    back = np.lexsort(np.column_stack([-vectors.round(4), starts, ends]).T)
    reverse = np.empty_like(forth)
    reverse[forth] = back
    return reverse


def _walks(starts: np.ndarray, ends: np.ndarray, reverse: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One direction of every bond, so that each oxygen is left as often as it is entered.

    Walks along bonds that have not been used until it is back where it began, again and again.
    """
    unused = [np.flatnonzero(starts == site).tolist() for site in range(starts.max() + 1)]
    taken: list[int] = []
    for begin in rng.permutation(len(unused)):
        site = begin
        while unused[site]:
            bond = unused[site].pop(rng.integers(len(unused[site])))
            site = ends[bond]
            unused[site].remove(int(reverse[bond]))
            taken.append(bond)
    return np.array(taken)


def thermal(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """A copy of an ice with its molecules displaced and turned, and its atoms rattled, as if it were warm."""
    warm = atoms.copy()
    shift = rng.normal(0.0, rng.uniform(0.03, 0.12), size=(len(atoms) // 3, 3))
    turn = rng.normal(0.0, np.radians(rng.uniform(2.0, 10.0)), size=(len(atoms) // 3, 3))
    for k, rotation in enumerate(Rotation.from_rotvec(turn)):
        oxygen = atoms.positions[3 * k]
        molecule = slice(3 * k, 3 * k + 3)
        warm.positions[molecule] = oxygen + shift[k] + rotation.apply(atoms.positions[molecule] - oxygen)
    warm.positions += rng.normal(0.0, rng.uniform(0.01, 0.035), size=warm.positions.shape)
    return warm


def molecules(atoms: Atoms) -> np.ndarray:
    """Which molecule each atom of an ice belongs to."""
    return np.arange(len(atoms)) // 3


def _labelled(index: int) -> list[Atoms]:
    name, turn = LABELLED[index // TRAJECTORIES], index % TRAJECTORIES
    rng = np.random.default_rng([1, index])
    start = ice(name, rng)
    stretch = np.linspace(VOLUMES[0], VOLUMES[-1], TRAJECTORIES)[turn] ** (1.0 / 3.0) - 1.0
    frames = []
    for _ in range(FRAMES):
        strain = stretch * np.eye(3) + random_strain(0.01, rng)
        frame = thermal(deformed(start, strain, molecules(start)), rng)
        frame.calc = calculator(METHOD)
        frames.append(labelled_copy(frame))
        frames[-1].info |= {"trajectory": f"{name}-{turn}", "family": "ice"}
    return frames


def _crystal(index: int) -> list[Atoms]:
    """A phase at several volumes, its molecules as relaxed in the middle one and moved as wholes."""
    start = ice(CRYSTALS[index], np.random.default_rng([2, index]))
    middle = deformed(start, _isotropic(VOLUMES[len(VOLUMES) // 2]), molecules(start))
    middle.calc = calculator(METHOD)
    relax(middle, fmax=0.1, steps=10)
    frames = []
    for volume in VOLUMES:
        relative = volume / VOLUMES[len(VOLUMES) // 2]
        frame = deformed(middle, _isotropic(relative), molecules(middle))
        frame.calc = calculator(METHOD)
        frames.append(labelled_copy(frame))
    return frames


def _isotropic(volume: float) -> np.ndarray:
    return (volume ** (1.0 / 3.0) - 1.0) * np.eye(3)


def main() -> None:
    make_files(
        __doc__,
        {
            "labels": Part(make=_labelled, n=len(LABELLED) * TRAJECTORIES),
            "crystals": Part(make=_crystal, n=len(CRYSTALS)),
        },
    )


if __name__ == "__main__":
    main()
