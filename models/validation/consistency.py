"""What a potential owes to physics, whatever it was trained on: symmetries, sizes, derivatives, limits."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import ClassVar, Literal

import numpy as np
from ase import Atoms
from pydantic import Field
from scipy.spatial.transform import Rotation

from models.datasets import DataError
from models.graphs import Prediction, graphs, predict
from models.potentials import Potential
from models.validation.base import Check, Figure, Finding, Line, Number, Plot, Quantity, Role, Subject, Table

SHAKE = 0.05  # Å, so that a crystal at rest has forces
DISPLACEMENT = 1e-3  # Å along a direction of all atoms
STRAIN = 1e-4
BESIDE_CUTOFF = 1e-3  # Å
GAP = 2.5  # Å between a cluster and its images; it then has a stress, and its images matter
APART = 4.0  # cutoffs between two copies that must not feel each other

_TURNS = ("rotation", "inversion", "permutation", "translation")


class Consistency(Check):
    """Symmetries, extensivity, derivatives and limits, in float64, where a sound potential is exact."""

    title: ClassVar[str] = "Consistency"
    explanation: ClassVar[str] = (
        "Nothing may change when a structure is turned, mirrored, moved or its atoms are renumbered; two "
        "copies far apart have twice the energy; forces and stress are the slopes of the energy; atoms far "
        "from everything have the energy of an isolated atom. In float64 a sound potential holds all this "
        "to rounding."
    )
    needs: ClassVar[tuple[Role, ...]] = ("test",)
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "symmetry": Quantity(
            words="largest change of a force when turned, mirrored, moved or renumbered",
            unit="meV/Å",
            better="lower",
        ),
        "invariance": Quantity(
            words="largest change of the energy when turned, mirrored, moved or renumbered",
            unit="meV/atom",
            better="lower",
        ),
        "size": Quantity(
            words="energy of two copies against twice that of one", unit="meV/atom", better="lower"
        ),
        "forces": Quantity(words="forces against slopes of the energy", unit="%", better="lower"),
        "stress": Quantity(
            words="stress against slopes of the energy under strain", unit="%", better="lower"
        ),
        "smoothness": Quantity(
            words="largest jump of a pair's energy at the cutoff", unit="meV", better="lower"
        ),
        "isolated": Quantity(
            words="largest difference of a lone atom's energy from its E0", unit="meV", better="lower"
        ),
    }

    kind: Literal["consistency"] = "consistency"
    n_structures: int = Field(4, ge=1, description="drawn from the test structures")
    n_directions: int = Field(3, ge=1, description="random rotations, displacements and strains of each")
    seed: int = 0

    def measure(self, subject: Subject) -> Finding:
        """Measure on test structures shaken by 0.05 Å. Raises DataError where the file has no structure."""
        structures, notes = drawn(subject, self.n_structures, self.seed)
        if not structures:
            return self.unmeasured(*notes)
        potential = in_float64(subject.potential)
        generator = np.random.default_rng(self.seed)
        shaken = [_shaken(atoms, generator) for atoms in structures.values()]
        numbers = sorted({int(z) for atoms in shaken for z in atoms.numbers})
        changes = self._changes(potential, shaken, generator)
        forces = self._forces(potential, shaken, generator)
        stress = self._stress(potential, shaken, generator)
        measured = {
            "symmetry": _largest([changes[name][1] for name in _TURNS]),
            "invariance": _largest([changes[name][0] for name in _TURNS]),
            "size": changes["doubling"][0],
            "forces": _relative(*forces),
            "stress": _relative(*stress),
            "smoothness": _smoothness(potential, numbers),
            "isolated": _isolated(potential, numbers),
        }
        if wrong := [
            self.quantities[name].words for name, value in measured.items() if not np.isfinite(value)
        ]:
            notes = [*notes, f"Not finite, and therefore not measured: {'; '.join(wrong)}."]
        return Finding(
            figures={name: Figure(value=_number(value)) for name, value in measured.items()},
            plots=[
                _slopes("Forces and slopes of the energy", "eV/Å", *forces),
                _slopes("Stress and slopes of the energy", "eV", *stress),
            ],
            tables=[
                Table(
                    title="Largest changes of what must not change",
                    columns=("under", "energy, meV/atom", "forces, meV/Å"),
                    rows=[(name, *map(_number, values)) for name, values in changes.items()],
                )
            ],
            notes=notes,
        )

    def _changes(
        self, potential: Potential, structures: Sequence[Atoms], generator: np.random.Generator
    ) -> dict[str, tuple[float, float]]:
        """Largest changes of energy (meV/atom) and forces (meV/Å) by what was done to the structures."""
        before = predict(potential, graphs(structures, potential))
        found: dict[str, list[tuple[float, float]]] = {}
        cases: list[tuple[str, Prediction, np.ndarray, np.ndarray, int]] = []
        changed: list[Atoms] = []

        def add(
            name: str, k: int, atoms: Atoms, turn: np.ndarray, order: np.ndarray, copies: int = 1
        ) -> None:
            changed.append(atoms)
            cases.append((name, before[k], turn, order, copies))

        for k, atoms in enumerate(structures):
            same, order = np.eye(3), np.arange(len(atoms))
            for matrix in Rotation.random(self.n_directions, rng=generator).as_matrix():
                add("rotation", k, _turned(atoms, matrix), matrix, order)
            add("inversion", k, _turned(atoms, -same), -same, order)
            drawn_order = generator.permutation(len(atoms))
            add("permutation", k, atoms[drawn_order], same, drawn_order)
            add("translation", k, _moved(atoms, generator), same, order)
            add("doubling", k, _doubled(atoms, potential.cutoff), same, np.tile(order, 2), 2)
        after = predict(potential, graphs(changed, potential))
        for (name, old, turn, order, copies), new in zip(cases, after, strict=True):
            energy = abs(new.energy / copies - old.energy) / len(old.forces)
            force = np.abs(new.forces @ turn - old.forces[order]).max()
            found.setdefault(name, []).append((1e3 * energy, 1e3 * float(force)))
        return {name: (_largest([e for e, _ in v]), _largest([f for _, f in v])) for name, v in found.items()}

    def _forces(
        self, potential: Potential, structures: Sequence[Atoms], generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Slopes of the energy along random directions, and what the forces say they are, eV/Å."""
        directions = [
            _unit(generator.standard_normal((len(atoms), 3)))
            for atoms in structures
            for _ in range(self.n_directions)
        ]
        bases = [atoms for atoms in structures for _ in range(self.n_directions)]
        displaced = []
        for atoms, direction in zip(bases, directions, strict=True):
            for sign in (1.0, -1.0):
                displaced.append(atoms.copy())
                displaced[-1].positions += sign * DISPLACEMENT * direction
        slopes = _central(predict(potential, graphs(displaced, potential)), DISPLACEMENT)
        at_rest = predict(potential, graphs(structures, potential))
        told = [
            -float((at_rest[k // self.n_directions].forces * direction).sum())
            for k, direction in enumerate(directions)
        ]
        return slopes, np.array(told)

    def _stress(
        self, potential: Potential, structures: Sequence[Atoms], generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Slopes of the energy under random strains, and what the stress says they are, eV."""
        boxes = [_boxed(atoms) for atoms in structures]
        strains = []
        for _ in range(len(boxes) * self.n_directions):
            drawn_strain = generator.standard_normal((3, 3))
            strains.append(_unit(drawn_strain + drawn_strain.T))
        strained = []
        for k, strain in enumerate(strains):
            for sign in (1.0, -1.0):
                strained.append(boxes[k // self.n_directions].copy())
                cell = strained[-1].cell.array @ (np.eye(3) + sign * STRAIN * strain)
                strained[-1].set_cell(cell, scale_atoms=True)
        slopes = _central(predict(potential, graphs(strained, potential)), STRAIN)
        told = []
        at_rest = predict(potential, graphs(boxes, potential), stress=True)
        for k, strain in enumerate(strains):
            box, stress = boxes[k // self.n_directions], at_rest[k // self.n_directions].stress
            told.append(np.nan if stress is None else box.get_volume() * float((stress * strain).sum()))
        return slopes, np.array(told)


def in_float64(potential: Potential) -> Potential:
    """The same potential computing in float64, where differences of energies keep their digits."""
    return replace(potential, network=copy.deepcopy(potential.network).double())


def drawn(subject: Subject, n: int, seed: int) -> tuple[dict[str, Atoms], list[str]]:
    """Up to `n` test structures of two or more atoms by their number in the file, and notes.

    Structures with elements that the potential does not know are left out, which a note says. Raises
    DataError where the file holds nothing but single atoms.
    """
    several = {f"frame {k}": atoms for k, atoms in enumerate(subject.structures("test")) if len(atoms) > 1}
    if not several:
        raise DataError(f"{subject.files['test']}: no structure has more than one atom")
    known = {name: atoms for name, atoms in several.items() if subject.knows(atoms)}
    notes = []
    if left_out := len(several) - len(known):
        notes.append(
            f"{left_out} of {len(several)} structures left out: it does not know all their elements."
        )
    names = list(known)
    chosen = np.random.default_rng(seed).choice(len(names), min(n, len(names)), replace=False)
    return {names[k]: known[names[k]] for k in sorted(chosen)}, notes


def _shaken(atoms: Atoms, generator: np.random.Generator) -> Atoms:
    bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.positions += generator.normal(scale=SHAKE, size=bare.positions.shape)
    return bare


def _turned(atoms: Atoms, matrix: np.ndarray) -> Atoms:
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ matrix.T)
    turned.positions = atoms.positions @ matrix.T
    return turned


def _moved(atoms: Atoms, generator: np.random.Generator) -> Atoms:
    """All atoms by one vector, and where periodic each by lattice vectors of its own."""
    moved = atoms.copy()
    lattice = generator.integers(-2, 3, size=(len(atoms), 3)) * atoms.pbc
    moved.positions += generator.normal(scale=5.0, size=3) + lattice @ atoms.cell.array
    return moved


def _doubled(atoms: Atoms, cutoff: float) -> Atoms:
    """A supercell where periodic, else two copies that are far from each other."""
    if atoms.pbc.any():
        return atoms.repeat(np.where(np.arange(3) == np.argmax(atoms.pbc), 2, 1))
    other = atoms.copy()
    other.positions[:, 0] += np.ptp(atoms.positions[:, 0]) + APART * cutoff
    return atoms + other


def _boxed(atoms: Atoms) -> Atoms:
    """The structure periodic along all axes."""
    boxed = atoms.copy()
    boxed.center(vacuum=0.5 * GAP, axis=np.flatnonzero(~atoms.pbc))
    boxed.pbc = True
    return boxed


def _smoothness(potential: Potential, numbers: Sequence[int]) -> float:
    """Largest difference of a pair's energies just inside and just outside the cutoff, meV."""
    pairs = [
        Atoms(numbers=pair, positions=[(0.0, 0.0, 0.0), (potential.cutoff + beside, 0.0, 0.0)])
        for pair in combinations_with_replacement(numbers, 2)
        for beside in (-BESIDE_CUTOFF, BESIDE_CUTOFF)
    ]
    energies = np.array([p.energy for p in predict(potential, graphs(pairs, potential))]).reshape(-1, 2)
    return float(1e3 * np.abs(np.diff(energies)).max())


def _isolated(potential: Potential, numbers: Sequence[int]) -> float:
    """Largest difference of an atom's energy from its E0, meV."""
    e0s = potential.e0s()
    found = predict(potential, graphs([Atoms(numbers=[z]) for z in numbers], potential))
    return _largest([1e3 * abs(p.energy - e0s[z]) for z, p in zip(numbers, found, strict=True)])


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))


def _central(predictions: Sequence[Prediction], step: float) -> np.ndarray:
    """Central differences of energies that come as forward, backward, forward, …"""
    energies = np.array([p.energy for p in predictions]).reshape(-1, 2)
    return np.asarray((energies[:, 0] - energies[:, 1]) / (2.0 * step))


def _relative(slopes: np.ndarray, told: np.ndarray) -> float:
    """Root mean square difference over the larger root mean square of both, %."""
    scale = max(np.linalg.norm(slopes), np.linalg.norm(told))
    return float(100.0 * np.linalg.norm(told - slopes) / scale) if scale != 0.0 else 0.0


def _largest(values: Sequence[float]) -> float:
    """The largest; NaN where one is."""
    return float(np.max(values))


def _number(value: float) -> Number:
    return float(value) if np.isfinite(value) else None


def _slopes(title: str, unit: str, slopes: np.ndarray, told: np.ndarray) -> Plot:
    return Plot(
        title=title,
        x_label=f"by differences of the energy, {unit}",
        y_label=f"by the potential, {unit}",
        lines=[Line(x=slopes.tolist(), y=[_number(value) for value in told])],
        kind="parity",
    )
