"""What comes back for a request, in whatever state it comes."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write

from models.datasets import DataError, Units
from models.external.imports import bring, units_of
from models.external.requests import Request, ask, find, identifier, load, requests
from models.external.results import SETTLED_SECONDS, Inbox, OtherLevel
from models.reference.external import External

Asked = Callable[..., Request]
BOHR, HARTREE = 0.529177210, 27.211386


@pytest.fixture
def waters() -> list[Atoms]:
    """Four molecules that differ."""
    frames = []
    for index in range(4):
        frames.append(molecule("H2O"))
        frames[-1].rattle(0.05, seed=index)
    return frames


def computed(structure: Atoms, energy: float = -14.0, **info: object) -> Atoms:
    """The structure with made-up labels; the forces say which atom is which."""
    frame = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    frame.info = {"REF_energy": energy, **info}
    frame.arrays["REF_forces"] = structure.positions - structure.positions.mean(axis=0)
    return frame


def test_a_request_says_what_it_needs_and_is_written_once(tmp_path: Path, waters: list[Atoms]) -> None:
    waters[1].info["charge"] = -1
    calculator = External.model_validate(
        {"level_of_theory": "PBE", "inputs": ["orca"], "orca": {"simple_input": "PBE"}}
    )
    request = ask(tmp_path / "a-1", "a", calculator, waters)
    ids = [identifier(water) for water in waters]
    assert list(request.structures) == ids
    assert [s.info["charge"] for s in request.structures.values()] == [0, -1, 0, 0]
    assert "temper labels import a-1 FILES" in (tmp_path / "a-1/README.md").read_text()
    changed = tmp_path / "a-1" / ids[0] / "orca/orca.inp"
    changed.write_text("! PBE0")
    before = (tmp_path / "a-1/request.json").read_bytes()
    assert ask(tmp_path / "a-1", "a", calculator, waters[:2]).asked_at == request.asked_at
    assert changed.read_text() == "! PBE0"
    assert (tmp_path / "a-1/request.json").read_bytes() == before
    assert find(tmp_path, "a").folder == find(tmp_path, str(tmp_path / "a-1")).folder == tmp_path / "a-1"
    assert [one.name for one in requests(tmp_path)] == ["a"]
    with pytest.raises(DataError, match="'b' is no request for labels; there are: a-1"):
        find(tmp_path, "b")


def test_one_structure_with_two_charges_is_refused(tmp_path: Path, waters: list[Atoms]) -> None:
    ion = waters[0].copy()
    ion.info["charge"] = 2
    with pytest.raises(DataError, match="two charges"):
        ask(tmp_path / "a", "a", External(level_of_theory="PBE"), [waters[0], ion])


def test_results_are_taken_as_they_come(asked: Asked, waters: list[Atoms]) -> None:
    request = asked(*waters)
    inbox = Inbox(request)
    assert inbox.look().waiting == list(request.structures)
    shuffled = computed(waters[2])[[2, 0, 1]]
    write(request.results / "some.extxyz", [shuffled, computed(waters[0], converged=False)])
    found = inbox.look()
    ids = list(request.structures)
    assert list(found.labels) == [ids[2]]
    assert list(found.failures) == [ids[0]]
    assert found.missing == [ids[1], ids[3]]
    label = found.labels[ids[2]].label
    assert label is not None
    np.testing.assert_array_equal(label.numbers, waters[2].numbers)
    np.testing.assert_allclose(
        label.arrays["REF_forces"], computed(waters[2]).arrays["REF_forces"], atol=1e-7
    )
    assert label.info["level_of_theory"] == "PBE"
    write(request.results / "again.extxyz", computed(waters[0]))
    assert set(inbox.look().labels) == {ids[0], ids[2]}
    request.give_up(inbox.look().waiting, "the queue is closed")
    found = Inbox(load(request.folder)).look()
    assert found.waiting == []
    assert found.failures[ids[1]].failure == "the queue is closed"


def test_plain_names_do_too(asked: Asked, waters: list[Atoms]) -> None:
    request = asked(*waters)
    (request.results / "plain.xyz").write_text(
        "3\n"
        'Properties=species:S:1:pos:R:3:forces:R:3 energy=-14.5 pbc="F F F"\n'
        + "".join(
            f"{atom.symbol} {' '.join(f'{x:.8f}' for x in atom.position)} 0.1 0.2 0.3\n" for atom in waters[1]
        )
    )
    (came,) = Inbox(request).look().labels.values()
    assert came.label is not None
    assert came.label.info["REF_energy"] == -14.5
    assert came.label.arrays["REF_forces"].tolist() == [[0.1, 0.2, 0.3]] * 3


def test_what_cannot_be_taken_is_named(asked: Asked, waters: list[Atoms]) -> None:
    request = asked(*waters)
    bare = waters[0].copy()
    infinite = computed(waters[1], energy=float("nan"))
    write(request.results / "odd.extxyz", [computed(molecule("CO2")), computed(waters[2], charge=1)])
    write(request.results / "bare.extxyz", [bare, infinite])
    (request.results / "notes.txt").write_text("see the logbook")
    write(request.results / "level.extxyz", computed(waters[3], level_of_theory="PBE0"))
    found = Inbox(request).look()
    assert not found.labels
    told = "\n".join(found.problems)
    for text in (
        "odd.extxyz, frame 0: CO2 is none of those that were asked for",
        "odd.extxyz, frame 1: its charge is 1, and 0 was asked for",
        "bare.extxyz, frame 0: has no energy and no forces",
        "bare.extxyz, frame 1: its energy is not finite",
        "notes.txt: of none of the programs",
        "level.extxyz is at PBE0, and PBE is asked for",
    ):
        assert text in told


def test_labels_that_differ_stand_for_nothing_until_one_is_gone(asked: Asked, waters: list[Atoms]) -> None:
    request = asked(*waters)
    write(request.results / "one.extxyz", computed(waters[0], energy=-14.0))
    write(request.results / "other.extxyz", computed(waters[0], energy=-14.5))
    found = Inbox(request).look()
    assert identifier(waters[0]) in found.missing
    assert "two labels" in found.contradictions[0]
    (request.results / "other.extxyz").unlink()
    assert identifier(waters[0]) in Inbox(request).look().labels


def test_an_output_belongs_to_the_folder_it_lies_in(
    asked: Asked, hydrogen: dict[str, Atoms], output: Callable[[str], Path]
) -> None:
    request = asked(*hydrogen.values())
    molecule_id, crystal_id = request.structures
    shutil.copy(output("unconverged-espresso.pwo"), request.folder / molecule_id)
    text = output("crystal-cp2k.out").read_text()
    running = request.folder / crystal_id / "cp2k.out"
    running.write_text(text[: len(text) // 2])
    found = Inbox(request).look()
    assert "did not converge" in found.failures[molecule_id].failure
    assert list(found.running) == [crystal_id]
    running.write_text(text)
    assert list(Inbox(request).look().labels) == [crystal_id]
    running.rename(request.folder / molecule_id / "cp2k.out")
    assert list(Inbox(request).look().labels) == [crystal_id]


def test_half_an_output_in_results_has_failed_once_nobody_writes_it(
    asked: Asked, hydrogen: dict[str, Atoms], output: Callable[[str], Path]
) -> None:
    request = asked(*hydrogen.values())
    text = output("crystal-cp2k.out").read_text()
    half = request.results / "half.out"
    half.write_text(text[: len(text) // 2])
    inbox = Inbox(request)
    (crystal_id,) = inbox.look().running
    before = time.time() - 2 * SETTLED_SECONDS
    os.utime(half, (before, before))
    assert list(inbox.look().failures) == [crystal_id]


def test_what_is_brought_is_kept_in_our_units_once(asked: Asked, waters: list[Atoms], tmp_path: Path) -> None:
    request = asked(*waters)
    frames = [computed(water, energy=-14.0 / HARTREE) for water in waters[:2]]
    for frame in frames:
        frame.arrays["REF_forces"] *= BOHR / HARTREE
    write(tmp_path / "theirs.xyz", [*frames, computed(molecule("CO2"))], format="extxyz")
    for _ in range(2):
        done = bring(request, [tmp_path / "theirs.xyz"], "PBE", units_of("Hartree,Hartree/Bohr"))
        assert len(done.labels) == 2
        assert "CO2 is none of those" in done.problems[0]
    assert len(list(request.results.iterdir())) == 1
    found = Inbox(request).look()
    assert (len(found.labels), found.problems) == (2, [])
    label = found.labels[identifier(waters[1])].label
    assert label is not None
    assert label.info["REF_energy"] == pytest.approx(-14.0, abs=1e-5)
    np.testing.assert_allclose(
        label.arrays["REF_forces"], computed(waters[1]).arrays["REF_forces"], atol=1e-5
    )


def test_outputs_are_brought_as_they_are(
    asked: Asked, hydrogen: dict[str, Atoms], output: Callable[[str], Path], tmp_path: Path
) -> None:
    request = asked(*hydrogen.values())
    molecule_id, _ = request.structures
    (tmp_path / "run" / molecule_id).mkdir(parents=True)
    original = output("unconverged-espresso.pwo")
    shutil.copy(original, tmp_path / "run" / molecule_id)
    shutil.copy(output("crystal-espresso.pwo"), tmp_path / "run")
    (tmp_path / "run/core").write_bytes(b"\0" * 100)
    done = bring(request, [tmp_path / "run"], None)
    assert (len(done.labels), list(done.failures)) == (1, [molecule_id])
    (kept,) = (request.results / molecule_id).iterdir()
    assert kept.read_bytes() == original.read_bytes()
    assert Inbox(request).look().waiting == []


def test_nothing_is_brought_where_something_is_wrong(
    asked: Asked, waters: list[Atoms], tmp_path: Path
) -> None:
    request = asked(*waters)
    good, level, twice = (tmp_path / name for name in ("good.xyz", "level.xyz", "twice.xyz"))
    write(good, computed(waters[0]), format="extxyz")
    write(level, computed(waters[1], level_of_theory="HF"), format="extxyz")
    write(twice, computed(waters[0], energy=-13.0), format="extxyz")
    with pytest.raises(OtherLevel, match="is at HF, and PBE is asked for"):
        bring(request, [good, level], None)
    with pytest.raises(OtherLevel, match="is at PBE0, and PBE is asked for"):
        bring(request, [good], "PBE0")
    with pytest.raises(DataError, match=r"two labels of .* that differ"):
        bring(request, [good, twice], None)
    with pytest.raises(DataError, match="no such file"):
        bring(request, [good, tmp_path / "none.xyz"], None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no results"):
        bring(request, [good, tmp_path / "empty"], None)
    with pytest.raises(DataError, match="energy is one of eV, meV, Hartree"):
        units_of("hartrees,eV/Å")
    assert not list(request.results.iterdir())


def test_a_stress_needs_a_unit(asked: Asked, hydrogen: dict[str, Atoms], tmp_path: Path) -> None:
    request = asked(hydrogen["crystal"])
    write(tmp_path / "a.xyz", computed(hydrogen["crystal"], REF_stress=np.ones(6)), format="extxyz")
    done = bring(request, [tmp_path / "a.xyz"], None, Units(energy="eV", forces="eV/Å"))
    assert "has a stress; give its unit too" in done.problems[0]
    bring(request, [tmp_path / "a.xyz"], None, units_of("eV,eV/Å,GPa"))
    (came,) = Inbox(request).look().labels.values()
    assert came.label is not None
    np.testing.assert_allclose(came.label.info["REF_stress"], np.full(6, 1 / 160.21766), rtol=1e-6)
