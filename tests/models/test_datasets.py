import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.io import read, write
from pydantic import ValidationError

from models import datasets
from models.datasets import DataError, Keys, Splitting, Units, ingest, read_labels, split

EV = Units(energy="eV", forces="eV/Å")


def real_set(name: str) -> Path:
    """A file of the real labelled sets, which are not part of the project."""
    folder = Path(os.environ.get("TEMPER_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (folder / name).is_file():
        pytest.skip(f"no {name}: set TEMPER_TEST_DATA to the folder of the real sets")
    return folder / name


def water(shift: float = 0.0, trajectory: str | None = None, **info: object) -> Atoms:
    atoms = molecule("H2O")
    atoms.positions[0, 2] += shift
    atoms.info = {"REF_energy": -14.0 + shift, **info}
    if trajectory is not None:
        atoms.info["trajectory"] = trajectory
    atoms.arrays["REF_forces"] = np.full((3, 3), 0.1 + shift)
    return atoms


def written(path: Path, *frames: Atoms) -> Path:
    write(path, list(frames), format="extxyz")
    return path


def raw(path: Path, properties: str, comment: str, columns: str = "") -> Path:
    """A water molecule written by hand, as other programs do."""
    rows = "\n".join(f"{s} {x} 0.0 0.0 {columns}" for s, x in (("O", 0.0), ("H", 0.96), ("H", -0.96)))
    path.write_text(f"3\nProperties=species:S:1:pos:R:3{properties} {comment}\n{rows}\n")
    return path


def test_labels_are_renamed_and_converted(tmp_path):
    frame = Atoms("Na", cell=[5.0] * 3, pbc=True, info={"E": 2.0, "S": np.arange(1.0, 7.0), "note": "kept"})
    frame.arrays["F"] = np.array([[1.0, 2.0, 3.0]])
    given = Units(energy="Hartree", forces="Hartree/Bohr", stress="GPa")
    [read_back] = read_labels(
        written(tmp_path / "a.xyz", frame), Keys(energy="E", forces="F", stress="S"), given
    )
    assert read_back.info["REF_energy"] == pytest.approx(2.0 * units.Hartree)
    np.testing.assert_allclose(
        read_back.arrays["REF_forces"], np.array([[1, 2, 3]]) * units.Hartree / units.Bohr
    )
    np.testing.assert_allclose(read_back.info["REF_stress"][0], np.array([1, 6, 5]) * units.GPa)
    assert read_back.info["note"] == "kept"
    assert "E" not in read_back.info
    assert read_back.calc is None


@pytest.mark.parametrize(
    ("table", "unit", "value"),
    [
        (datasets.ENERGY_UNITS, "meV", 1e-3),
        (datasets.ENERGY_UNITS, "Rydberg", units.Ry),
        (datasets.ENERGY_UNITS, "kcal/mol", 0.0433641),
        (datasets.ENERGY_UNITS, "kJ/mol", 0.0103643),
        (datasets.FORCE_UNITS, "meV/Å", 1e-3),
        (datasets.FORCE_UNITS, "Hartree/Bohr", 51.42207),
        (datasets.FORCE_UNITS, "Rydberg/Bohr", 25.71103),
        (datasets.FORCE_UNITS, "kcal/mol/Å", 0.0433641),
        (datasets.FORCE_UNITS, "kJ/mol/nm", 0.00103643),
        (datasets.STRESS_UNITS, "GPa", 0.00624151),
        (datasets.STRESS_UNITS, "kbar", 0.000624151),
    ],
)
def test_every_unit_has_its_value(table, unit, value):
    assert table[unit] == pytest.approx(value, rel=1e-5)


def test_plain_names_that_ase_swallows_are_found(tmp_path):
    path = raw(
        tmp_path / "plain.xyz",
        ":forces:R:3",
        'energy=-14.0 stress="1 2 3 2 5 6 3 6 9" Lattice="9 0 0 0 9 0 0 0 9" pbc="T T T"',
        "0.1 0.2 0.3",
    )
    assert "energy" not in read(path).info
    keys = Keys(energy="energy", forces="forces", stress="stress")
    [frame] = read_labels(path, keys, Units(energy="eV", forces="eV/Å", stress="eV/Å³"))
    assert frame.info["REF_energy"] == -14.0
    np.testing.assert_array_equal(frame.arrays["REF_forces"], [[0.1, 0.2, 0.3]] * 3)
    np.testing.assert_array_equal(frame.info["REF_stress"], [[1, 2, 3], [2, 5, 6], [3, 6, 9]])


def test_a_stress_of_nine_numbers_under_a_name_of_its_own(tmp_path):
    path = raw(
        tmp_path / "nine.xyz",
        ":dft_forces:R:3",
        'dft_energy=-14.0 dft_stress="1 2 3 2 5 6 3 6 9" Lattice="9 0 0 0 9 0 0 0 9" pbc="T T T"',
        "0.1 0.2 0.3",
    )
    keys = Keys(energy="dft_energy", forces="dft_forces", stress="dft_stress")
    [frame] = read_labels(path, keys, Units(energy="eV", forces="eV/Å", stress="eV/Å³"))
    np.testing.assert_array_equal(frame.info["REF_stress"], [[1, 2, 3], [2, 5, 6], [3, 6, 9]])


def test_forces_in_the_singular_are_asked_for_by_name(tmp_path):
    path = raw(tmp_path / "singular.xyz", ":force:R:3", "energy=-14.0", "0.1 0.2 0.3")
    with pytest.raises(DataError, match=r"frame 0: no forces under 'forces'; it has .*force"):
        read_labels(path, Keys(energy="energy", forces="forces"), EV)
    [frame] = read_labels(path, Keys(energy="energy", forces="force"), EV)
    assert frame.arrays["REF_forces"][0].tolist() == [0.1, 0.2, 0.3]


def broken(**changes: object) -> Atoms:
    frame = water()
    frame.info |= {k: v for k, v in changes.items() if k not in frame.arrays}
    frame.arrays |= {k: np.asarray(v) for k, v in changes.items() if k in frame.arrays}
    return frame


@pytest.mark.parametrize(
    ("frame", "keys", "given", "message"),
    [
        (water(), Keys(energy="E"), EV, r"frame 1: no energy under 'E'; it has REF_energy, REF_forces. Set"),
        (Atoms("H"), Keys(), EV, "frame 1: no energy under 'REF_energy'; it has no labels at all"),
        (broken(REF_energy=np.nan), Keys(), EV, "frame 1: energy under 'REF_energy' is not finite"),
        (broken(REF_energy="low"), Keys(), EV, "frame 1: energy under 'REF_energy' is not a number: 'low'"),
        (broken(REF_energy=[1.0, 2.0]), Keys(), EV, r"frame 1: energy .* has shape \(2,\)"),
        (broken(REF_forces=np.full((3, 3), np.inf)), Keys(), EV, "frame 1: forces .* is not finite"),
        (broken(REF_forces=np.zeros((3, 2))), Keys(), EV, r"forces .* has shape \(3, 2\), not \(3, 3\)"),
        (broken(positions=np.full((3, 3), np.nan)), Keys(), EV, "frame 1: a position is not finite"),
        (broken(config_type="IsolatedAtom"), Keys(), EV, "config_type=IsolatedAtom, but it has 3 atoms"),
        (
            broken(S=np.zeros(5)), Keys(stress="S"), Units(energy="eV", forces="eV/Å", stress="GPa"),
            r"frame 1: stress under 'S' has shape \(5,\), not \(6,\) or \(9,\) or \(3, 3\)",
        ),
        (
            water(), Keys(stress="S"), Units(energy="eV", forces="eV/Å", stress="GPa"),
            "frame 1: no stress under 'S'",
        ),
        (water(), Keys(stress="S"), EV, "give both names.stress and units.stress, or neither"),
        (water(), Keys(), Units(energy="eV", forces="eV/Å", stress="GPa"), "both names.stress and units"),
    ],
)  # fmt: skip
def test_a_bad_label_is_named_with_its_frame(frame, keys, given, message, tmp_path):
    good = water(S=np.zeros(6))
    good.info["E"] = -14.0
    with pytest.raises(DataError, match=message):
        read_labels(written(tmp_path / "bad.xyz", good, frame), keys, given)


def test_files_that_hold_no_structures(tmp_path):
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "text.xyz").write_text("no structures\n")
    for name, message in (
        ("absent", "no such file"),
        ("empty", "holds no structures"),
        ("text", "cannot be read"),
    ):
        with pytest.raises(DataError, match=rf"{name}\.xyz: {message}"):
            datasets.read_structures(tmp_path / f"{name}.xyz")


def test_an_unnamed_stress_does_not_travel_without_its_unit(tmp_path):
    frame = water(REF_stress=np.arange(9.0).reshape(3, 3))
    [read_back] = read_labels(written(tmp_path / "a.xyz", frame), Keys(), EV)
    assert "REF_stress" not in read_back.info


def test_isolated_atoms_need_no_forces_and_are_kept_apart(tmp_path):
    alone = Atoms("H", info={"REF_energy": -13.6, "config_type": "IsolatedAtom"})
    frames = [water(0.01 * k, f"t{k}") for k in range(4)]
    isolated, others = datasets.isolated_atoms(
        read_labels(written(tmp_path / "a.xyz", alone, *frames), Keys(), EV)
    )
    assert [a.arrays["REF_forces"].tolist() for a in isolated] == [[[0.0, 0.0, 0.0]]]
    assert len(others) == 4
    parts = ingest(tmp_path / "a.xyz", Keys(), EV, Splitting(), tmp_path)
    assert parts["isolated"].contents["elements"] == ["H"]


def trajectories(n: int, frames: int = 3) -> list[Atoms]:
    return [water(0.001 * (frames * k + i), f"t{k}") for k in range(n) for i in range(frames)]


def test_whole_trajectories_are_dealt_the_same_way_every_time():
    frames = trajectories(20)
    parts = split(frames, Splitting(valid=0.15, test=0.25, seed=3), "labels")
    assert parts == split(frames, Splitting(valid=0.15, test=0.25, seed=3), "labels")
    assert parts != split(frames, Splitting(valid=0.15, test=0.25, seed=4), "labels")
    dealt = {p: {frames[i].info["trajectory"] for i in parts.indices[p]} for p in datasets.PARTS}
    assert sorted(i for indices in parts.indices.values() for i in indices) == list(range(60))
    assert (
        {p: len(names) for p, names in dealt.items()}
        == {"train": 12, "valid": 3, "test": 5}
        == parts.n_groups
    )
    assert parts.grouped_by == "trajectory"


@pytest.mark.parametrize("n", [3, 4, 5])
def test_a_few_trajectories_leave_every_part_something(n):
    parts = split(trajectories(n), Splitting(valid=0.45, test=0.45), "labels")
    assert all(parts.indices[part] for part in datasets.PARTS)


def test_without_trajectories_a_formula_is_a_group():
    frames = [
        Atoms(f"H{n}", positions=np.arange(3.0 * n).reshape(n, 3) + k) for n in (1, 2, 3, 4) for k in range(3)
    ]
    parts = split(frames, Splitting(), "labels")
    assert parts.grouped_by == "chemical formula"
    groups = [{len(frames[i]) for i in parts.indices[p]} for p in datasets.PARTS]
    assert sum(map(len, groups)) == 4


def test_splits_that_cannot_be_made():
    mixed = [*trajectories(3), water(0.9)]
    with pytest.raises(DataError, match="labels, frame 9: has no 'trajectory', though other frames do"):
        split(mixed, Splitting(), "labels")
    with pytest.raises(DataError, match=r"labels: only 2 groups by trajectory; .* at least three. Name each"):
        split(trajectories(2), Splitting(), "labels")
    twins = [water(0.1, name) for name in ("a", "b", "c")]
    with pytest.raises(
        DataError, match=r"labels: structure 0 of \w+ \(H2O\) is structure 0 of \w+ too; a split"
    ):
        split(twins, Splitting(), "labels")
    with pytest.raises(ValidationError, match="valid and test together leave nothing to train on"):
        Splitting(valid=0.5, test=0.5)


def test_a_fingerprint_sees_what_matters_and_only_that():
    atoms = Atoms("NaCl", [(0, 0, 0), (0, 0, 2.4)], cell=[5, 5, 5], pbc=True)
    same = atoms.copy()
    same.positions += 1e-9
    same.info["REF_energy"] = 1.0
    assert datasets.fingerprint(same) == datasets.fingerprint(atoms)
    moved, swapped, open_, wider = atoms.copy(), atoms[[1, 0]], atoms.copy(), atoms.copy()
    moved.positions[0, 0] += 1e-5
    open_.pbc = False
    wider.cell[0, 0] += 0.1
    others = {datasets.fingerprint(a) for a in (moved, swapped, open_, wider)}
    assert len(others | {datasets.fingerprint(atoms)}) == 5


def test_ingesting_freezes_the_parts_byte_for_byte(tmp_path, labelled_waters):
    source = written(tmp_path / "labels.xyz", *labelled_waters)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = ingest(source, Keys(), EV, Splitting(), tmp_path / "a")
    again = ingest(source, Keys(), EV, Splitting(), tmp_path / "b")
    for part in datasets.PARTS:
        assert first[part].path.read_bytes() == again[part].path.read_bytes()
    assert sum(part.contents["n_structures"] for part in first.values()) == len(labelled_waters)
    [frame, *_] = datasets.read_structures(first["train"].path)
    original = next(a for a in labelled_waters if datasets.fingerprint(a) == datasets.fingerprint(frame))
    assert frame.info["REF_energy"] == original.info["REF_energy"]
    np.testing.assert_allclose(frame.arrays["REF_forces"], original.arrays["REF_forces"], atol=1e-8)
    assert frame.info["trajectory"] == original.info["trajectory"]


def test_an_unknown_element_is_named_with_its_frame():
    with pytest.raises(
        DataError, match=r"labels, frame 1 \(CH4\): the foundation tiny does not know C; it knows H O"
    ):
        datasets.check_elements([water(), molecule("CH4")], ["H", "O"], "labels", "tiny")


def test_real_mp2_labels_of_salt_water():
    frames = read_labels(real_set("nacl_water/derived/nacl_water_MP2.xyz"), Keys(), EV)
    assert len(frames) == 164
    assert datasets.describe(frames)["elements"] == ["Cl", "H", "Na", "O"]
    counts = np.array([[(a.numbers == z).sum() for z in (1, 8, 11, 17)] for a in frames])
    assert np.linalg.matrix_rank(counts) == 2


def test_real_dipeptides_have_a_force():
    path = real_set("spice_dipeptides/spice-dipep-dipolar_train.xyz")
    with pytest.raises(DataError, match=r"no forces under 'forces'; it has .*\bforce\b"):
        read_labels(path, Keys(energy="energy", forces="forces"), EV)
    frames = read_labels(path, Keys(energy="energy", forces="force"), EV)
    assert len(frames) == 495
    assert all(np.isfinite(a.arrays["REF_forces"]).all() for a in frames)


def test_real_crystals_with_names_of_their_own():
    keys = Keys(energy="dft_energy", forces="dft_forces", stress="dft_stress")
    path = real_set("janus_core/NaCl-set.xyz")
    frames = read_labels(path, keys, Units(energy="eV", forces="eV/Å", stress="eV/Å³"))
    assert len(frames) == 11
    assert all(a.info["REF_stress"].shape == (3, 3) for a in frames)
    with pytest.raises(
        DataError, match="no energy under 'REF_energy'; it has dft_energy, dft_forces, dft_stress"
    ):
        read_labels(path, Keys(), EV)
