import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule

from models import datasets
from models.datasets import DataError, Keys, Splitting, Units, ingest, read_labels, settled, write_structures
from models.labels import TOLERANCE, projection

EV = Units(energy="eV", forces="eV/Å")


def water(shift: float = 0.0, energy: float = -14.0, force: float = 0.1, trajectory: str = "t0") -> Atoms:
    atoms = molecule("H2O")
    atoms.positions[0, 2] += shift
    atoms.info = {"REF_energy": energy, "trajectory": trajectory}
    atoms.arrays["REF_forces"] = np.array([[force, 0.0, 0.0], [0.0, force, 0.0], [0.0, 0.0, 0.3]])
    return atoms


def test_an_entry_says_what_tells_labels_apart():
    atoms = water()
    found = datasets.entry(atoms)
    assert found.structure == datasets.fingerprint(atoms)
    assert (found.n_atoms, found.formula, found.energy, found.stress) == (3, "H2O", -14.0, None)
    atoms.info["REF_stress"] = np.eye(3)
    stressed = datasets.entry(atoms)
    assert stressed.stress == pytest.approx(projection(np.eye(3)))
    assert not found.contradicts(stressed)
    atoms.info["REF_stress"] = 1.01 * np.eye(3)
    assert stressed.contradicts(datasets.entry(atoms))


def test_a_projection_moves_as_far_as_the_numbers_do():
    rng = np.random.default_rng(0)
    for n_atoms in (1, 10, 1000):
        forces = rng.normal(size=(n_atoms, 3))
        before = projection(forces)
        noise = rng.normal(scale=1e-6, size=(500, n_atoms, 3))
        moved = np.array([projection(forces + by) - before for by in noise])
        assert np.std(moved) == pytest.approx(1e-6, rel=0.2)
    exchanged, turned, shifted = forces.copy(), forces @ np.diag([-1.0, -1.0, 1.0]), forces + 0.01
    exchanged[[4, 7]] = exchanged[[7, 4]]
    for other in (exchanged, turned, shifted, -forces, 1.01 * forces):
        assert abs(projection(other) - projection(forces)) > TOLERANCE


@pytest.mark.parametrize("n_atoms", [3, 300])
def test_another_unit_and_back_is_no_other_label(n_atoms, tmp_path):
    rng = np.random.default_rng(n_atoms)
    atoms = Atoms("H" * n_atoms, positions=rng.uniform(0, 20, (n_atoms, 3)))
    atoms.info["REF_energy"] = -13.6 * n_atoms + rng.normal()
    atoms.arrays["REF_forces"] = rng.normal(size=(n_atoms, 3))
    write_structures(tmp_path / "eV.xyz", [atoms])
    atoms.info["REF_energy"] /= units.Hartree
    atoms.arrays["REF_forces"] /= units.Hartree / units.Bohr
    write_structures(tmp_path / "atomic.xyz", [atoms])
    one = read_labels(tmp_path / "eV.xyz", Keys(), EV)
    two = read_labels(tmp_path / "atomic.xyz", Keys(), Units(energy="Hartree", forces="Hartree/Bohr"))
    assert datasets.entry(one[0]).forces != datasets.entry(two[0]).forces
    assert datasets.entry(one[0]).structure == datasets.entry(two[0]).structure
    assert not datasets.entry(one[0]).contradicts(datasets.entry(two[0]))
    assert len(settled([*one, *two], "labels", None)) == 2


@pytest.mark.parametrize("other", [water(energy=-13.9), water(force=0.2)])
def test_two_labels_of_one_structure_need_a_word_on_which_stands(other):
    first, between, again = water(), water(0.1), water()
    frames = [between, first, other, again]
    with pytest.raises(DataError) as refused:
        settled(frames, "labels.xyz", None)
    assert str(refused.value) == (
        "labels.xyz, frame 2 (H2O): the structure of frame 1 with another label "
        f"({other.info['REF_energy']:.6f} eV here, -14.000000 eV there, or other forces); remove the "
        "wrong one (of a campaign's labels, labels.repeated can say that the first or the last one stands)"
    )
    assert settled(frames, "labels.xyz", "first") == [between, first, again]
    assert settled(frames[:3], "labels.xyz", "last") == [between, other]
    assert settled([between, first, again], "labels.xyz", None) == [between, first, again]


def test_what_is_dropped_is_counted(tmp_path):
    frames = [water(0.01 * k, trajectory=f"t{k}") for k in range(4)]
    write_structures(tmp_path / "labels.xyz", [*frames, water(energy=-13.0, trajectory="t0")])
    for work in ("none", "first", "last"):
        (tmp_path / work).mkdir()
    with pytest.raises(DataError, match=r"frame 4 \(H2O\): the structure of frame 0"):
        ingest(tmp_path / "labels.xyz", Keys(), EV, Splitting(), tmp_path / "none")
    for repeated, stands in (("first", -14.0), ("last", -13.0)):
        work = tmp_path / repeated
        parts = ingest(tmp_path / "labels.xyz", Keys(), EV, Splitting(), work, repeated)
        said = {(part.contents["repeated"], part.contents["n_dropped"]) for part in parts.values()}
        assert said == {(repeated, 1)}
        made = [entry for part in parts.values() for entry in datasets.entries(part.path)]
        assert len(made) == 4
        assert stands in {e.energy for e in made if e.structure == datasets.fingerprint(frames[0])}


def test_entries_of_a_frozen_part_are_those_of_its_frames(labelled_waters, tmp_path):
    write_structures(tmp_path / "part.extxyz", labelled_waters)
    read = datasets.read_structures(tmp_path / "part.extxyz")
    assert list(datasets.entries(tmp_path / "part.extxyz")) == [datasets.entry(atoms) for atoms in read]
