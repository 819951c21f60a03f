"""Are new labels what they claim to be? Compared with known ones, with neighbours, and with mechanics."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from ase.neighborlist import natural_cutoffs, neighbor_list

NOISE = 0.1  # eV/Å per atom: what a sum of forces or torques may be off by
LARGEST_FORCE = 100.0  # eV/Å
LEAST_ENERGY = 0.1  # eV/atom: nothing nearer to the fit is doubted
DEVIATIONS = 10.0  # of the known labels, robustly
REACH = 0.5  # Å: energy that a force may have put into an atom, per force
BONDED = 1.25  # times the sum of covalent radii
LEAST_CORRELATION = -0.7  # of force and length, where one says something of the other
LEAST_BONDS = 5  # in one structure: the few of a transition state may all be unlike any others
WRONG_WAY = -0.5  # cosine of the forces along bonds with those expected


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Why the new label of this index may be wrong."""

    index: int
    reason: str


def examine(new: Sequence[Atoms], known: Sequence[Atoms]) -> list[Doubt]:
    """What speaks against new labels (`REF_energy` eV, `REF_forces` eV/Å), in the order of their index.

    Known labels are taken as right; with few of them, or none of the same elements, less can be said. A
    doubt is a reason for a person to look, or to label again, and no proof.
    """
    known = [frame for frame in known if frame.info.get("config_type") != "IsolatedAtom"]
    found = [*_levels(new, known), *_mechanics(new), *_energies(new, known), *_directions(new, known)]
    # What is doubted already says nothing against its neighbours.
    found += _neighbours(new, known, {index for index, _ in found})
    doubts = [Doubt(index=index, reason=reason) for index, reason in found]
    return sorted(doubts, key=lambda doubt: doubt.index)


def _levels(new: Sequence[Atoms], known: Sequence[Atoms]) -> Iterator[tuple[int, str]]:
    """Labels of another level of theory than all known ones."""
    levels = {str(frame.info["level_of_theory"]) for frame in known if "level_of_theory" in frame.info}
    for index, frame in enumerate(new):
        level = str(frame.info.get("level_of_theory", ""))
        if level and levels and level not in levels:
            yield index, f"labelled at {level}, the known labels at {', '.join(sorted(levels))}"


def _mechanics(new: Sequence[Atoms]) -> Iterator[tuple[int, str]]:
    """Forces beyond all reason, or that would set the structure moving or spinning as a whole."""
    for index, frame in enumerate(new):
        forces = frame.arrays["REF_forces"]
        if (largest := float(np.linalg.norm(forces, axis=1).max())) > LARGEST_FORCE:
            yield index, f"a force of {largest:.0f} eV/Å"
        if (net := float(np.linalg.norm(forces.sum(axis=0)))) > NOISE * np.sqrt(len(frame)):
            yield index, f"a net force of {net:.2f} eV/Å"
        if not frame.pbc.any():
            arms = frame.positions - frame.positions.mean(axis=0)
            torque = float(np.linalg.norm(np.cross(arms, forces).sum(axis=0)))
            if torque > NOISE * (1.0 + np.linalg.norm(arms)):
                yield index, f"a torque of {torque:.2f} eV: the forces are not of these positions"


def _energies(new: Sequence[Atoms], known: Sequence[Atoms]) -> Iterator[tuple[int, str]]:
    """Energies that no sum over atoms like the known ones explains.

    Energies and charges are fitted by a sum over elements with least absolute deviations. What a structure's
    forces may have put into it is allowed for, and compositions that the known ones do not span are left out.
    """
    if not known:
        return
    elements = sorted({int(z) for frame in known for z in frame.numbers})
    rows, targets = _compositions(known, elements), _energies_per_atom(known)
    weights = np.ones(len(known))
    for _ in range(50):
        fit = np.linalg.lstsq(rows * weights[:, None], targets * weights, rcond=1e-8)[0]
        residuals = targets - rows @ fit
        weights = 1.0 / np.sqrt(np.maximum(np.abs(residuals), 1e-3))
    middle = float(np.median(residuals))
    spread = 1.4826 * float(np.median(np.abs(residuals - middle)))
    inverse = np.linalg.pinv(rows.T @ rows, rcond=1e-10)
    spanned = inverse @ rows.T @ rows
    for index, frame in enumerate(new):
        if frame.info.get("config_type") == "IsolatedAtom" or not set(map(int, frame.numbers)) <= set(
            elements
        ):
            continue
        (row,), (target,) = _compositions([frame], elements), _energies_per_atom([frame])
        if np.linalg.norm(row - spanned @ row) > 1e-3 * np.linalg.norm(row):
            continue
        away = target - row @ fit - middle
        leverage = np.sqrt(1.0 + row @ inverse @ row)
        strain = REACH * float(np.linalg.norm(frame.arrays["REF_forces"], axis=1).mean())
        if abs(away) > max(DEVIATIONS * spread, LEAST_ENERGY) * leverage + strain:
            yield index, f"{away:+.2f} eV/atom from what the known labels say of its composition"


def _compositions(frames: Sequence[Atoms], elements: Sequence[int]) -> np.ndarray:
    """Shares of the elements in each structure, and its charge per atom."""
    counts = [[np.sum(f.numbers == z) for z in elements] + [float(f.info.get("charge", 0))] for f in frames]
    return np.array(counts, dtype=float) / np.array([[len(f)] for f in frames])


def _energies_per_atom(frames: Sequence[Atoms]) -> np.ndarray:
    return np.array([float(frame.info["REF_energy"]) / len(frame) for frame in frames])


def _directions(new: Sequence[Atoms], known: Sequence[Atoms]) -> Iterator[tuple[int, str]]:
    """Forces along bonds that stretch what is long and press together what is short.

    What to expect of a bond is a line in its length for each pair of elements whose known bonds lie on one.
    Everything is counted in units of what these miss it by, so that a relaxed structure is not doubted.
    """
    gathered: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for frame in known:
        for pair, length, force in _bonds(frame):
            gathered[pair].append((length, force))
    lines = {pair: line for pair, seen in gathered.items() if (line := _Line.through(seen))}
    for index, frame in enumerate(new):
        bonds = [lines[p].compare(length, force) for p, length, force in _bonds(frame) if p in lines]
        expected, found = np.array([bond for bond in bonds if bond is not None]).reshape(-1, 2).T
        if len(expected) < LEAST_BONDS:
            continue
        cosine = float(expected @ found) / max(float(np.linalg.norm(expected) * np.linalg.norm(found)), 1e-12)
        if cosine < WRONG_WAY and np.sqrt(np.mean((found - expected) ** 2)) > 2.0:
            yield index, f"forces along bonds have the wrong sign (cosine {cosine:.2f} with those expected)"


@dataclass(frozen=True)
class _Line:
    """Force over length of the bonds between two elements, and what it leaves (root mean square)."""

    slope: float
    offset: float
    scatter: float
    shortest: float
    longest: float

    @classmethod
    def through(cls, seen: Sequence[tuple[float, float]]) -> "_Line | None":
        """None where bonds are few, or lengths say little of forces, as of single and double ones."""
        lengths, forces = np.array(seen).T
        away, pull = lengths - lengths.mean(), forces - forces.mean()
        size = float(np.linalg.norm(away) * np.linalg.norm(pull))
        if len(seen) < 10 or size < 1e-9 or float(away @ pull) > LEAST_CORRELATION * size:
            return None
        slope = float(away @ pull) / float(away @ away)
        return cls(
            slope=slope,
            offset=float(forces.mean() - slope * lengths.mean()),
            scatter=max(float(np.sqrt(np.mean((pull - slope * away) ** 2))), 1e-6),
            shortest=float(lengths.min()),
            longest=float(lengths.max()),
        )

    def compare(self, length: float, force: float) -> tuple[float, float] | None:
        """The force expected and the one found, per scatter; None where no bond of such a length was seen."""
        if not self.shortest <= length <= self.longest:
            return None
        return (self.slope * length + self.offset) / self.scatter, force / self.scatter


def _bonds(atoms: Atoms) -> list[tuple[tuple[int, int], float, float]]:
    """Each bond's elements, its length (Å) and the force that lengthens it (eV/Å)."""
    first, second, lengths, vectors = neighbor_list("ijdD", atoms, natural_cutoffs(atoms, mult=BONDED))
    forces = atoms.arrays["REF_forces"]
    apart = 0.5 * np.einsum("ij,ij->i", forces[second] - forces[first], vectors) / lengths
    pairs = np.sort(atoms.numbers[np.column_stack([first, second])], axis=1)
    return [
        ((int(a), int(b)), float(length), float(force))
        for (a, b), length, force, once in zip(pairs, lengths, apart, first < second, strict=True)
        if once
    ]


def _neighbours(new: Sequence[Atoms], known: Sequence[Atoms], without: Set[int]) -> Iterator[tuple[int, str]]:
    """Energies that differ from the work of the forces between neighbouring frames of one trajectory.

    The work is that of the trapezoid rule, whose error is of third order in the way. Of two frames that do
    not go together, the one is doubted that goes with fewer of its neighbours.
    """
    missed: dict[tuple[int, int], float] = {}
    frames = [*new, *known]
    for line in _trajectories(frames).values():
        for one, other in pairwise(index for index in line if index not in without):
            if (miss := _missing_work(frames[one], frames[other])) and min(one, other) < len(new):
                missed[one, other] = miss
    while missed:
        counts = Counter(i for pair in missed for i in pair if i < len(new))
        worst = {i for i, count in counts.items() if count == max(counts.values())}
        for index in worst:
            miss = max((m for pair, m in missed.items() if index in pair), key=abs)
            yield (
                index,
                f"its energy and a neighbour's are {miss:+.3f} eV off the work of the forces between them",
            )
        missed = {pair: miss for pair, miss in missed.items() if not worst & set(pair)}


def _trajectories(frames: Sequence[Atoms]) -> Mapping[str, list[int]]:
    """Indices of the frames of each walker or trajectory, in time where all of them know it."""
    lines: dict[str, list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        if (name := frame.info.get("walker", frame.info.get("trajectory"))) is not None:
            lines[str(name)].append(index)
    for line in lines.values():
        if all("time_fs" in frames[i].info for i in line):
            line.sort(key=lambda i: float(frames[i].info["time_fs"]))
    return lines


def _missing_work(one: Atoms, other: Atoms) -> float:
    """Energy (eV) from one frame to the other beyond the work of the forces, where it is too much; else 0."""
    if len(one) != len(other) or (one.numbers != other.numbers).any() or (one.pbc != other.pbc).any():
        return 0.0
    if one.pbc.any() and not np.allclose(one.cell, other.cell, atol=1e-6):
        return 0.0
    way, lengths = find_mic(other.positions - one.positions, one.cell, one.pbc)
    first, second = one.arrays["REF_forces"], other.arrays["REF_forces"]
    work = 0.5 * float(((first + second) * way).sum())
    missing = float(other.info["REF_energy"] - one.info["REF_energy"]) + work
    # Sound labels of molecular dynamics at 400 to 1500 K missed up to 10 d³ where frames were close, 0.4 d²
    # where they were not; those of water whose atoms were moved at random by 0.05 Å ten times as much, since
    # all bonds change at once. Where atoms are pressed into each other, forces change the faster.
    strong = np.linalg.norm([first, second], axis=2).max(axis=0)
    error = np.minimum(
        (60.0 + 2.0 * strong) * lengths**3, (8.0 + 0.3 * np.maximum(strong - 5.0, 0.0)) * lengths**2
    )
    allowed = float(error.sum()) + 2e-3 * np.sqrt(len(one))
    return missing if abs(missing) > allowed else 0.0
