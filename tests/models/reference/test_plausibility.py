from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.io import read
from ase.md.verlet import VelocityVerlet

from models.reference.plausibility import Doubt, examine
from models.reference.xtb import calculator, isolated_atom, labelled_copy, relabelled

CAMPAIGNS = Path(__file__).parents[3] / "deployments" / "campaigns"


def shipped(campaign: str, file: str = "labels") -> list[Atoms]:
    """Every second frame of a file."""
    return read(CAMPAIGNS / campaign / f"{file}.extxyz", "::2")


def halves(frames: list[Atoms]) -> tuple[list[Atoms], list[Atoms]]:
    """Frames of every other trajectory, and of the rest."""
    names = sorted({frame.info["trajectory"] for frame in frames})[::2]
    return (
        [frame for frame in frames if frame.info["trajectory"] in names],
        [frame for frame in frames if frame.info["trajectory"] not in names],
    )


def doubted(new: list[Atoms], known: list[Atoms], reason: str = "") -> set[int]:
    return {doubt.index for doubt in examine(new, known) if reason in doubt.reason}


@pytest.fixture(scope="module")
def walk() -> list[Atoms]:
    """Sixteen frames of salt water at 400 K, 2 fs apart."""
    atoms = shipped("nacl")[0]
    atoms.calc = calculator("GFN2-xTB")
    rng = np.random.default_rng(0)
    atoms.set_momenta(
        rng.normal(size=(len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * 400.0)[:, None]
    )
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
    frames = []
    for index in range(16):
        dynamics.run(2)
        frames.append(labelled_copy(atoms))
        frames[-1].info |= {"walker": "dynamics-400K-0", "time_fs": 2.0 * index}
    return frames


@pytest.mark.parametrize("campaign", ["nacl", "ice", "sn2", "spice", "li-electrolyte", "argyrodite"])
def test_sound_labels_raise_no_doubt(campaign):
    known, new = halves(shipped(campaign))
    assert examine(new, known) == []
    assert examine(new, known[:10]) == []
    assert examine(new, []) == []


@pytest.mark.parametrize(
    ("campaign", "file"),
    [("nacl", "minima"), ("ice", "crystals"), ("sn2", "paths"), ("argyrodite", "crystals")],
)
def test_relaxed_structures_raise_no_doubt(campaign, file):
    assert examine(shipped(campaign, file), shipped(campaign)) == []


@pytest.mark.parametrize("campaign", ["nacl", "sn2", "spice"])
def test_another_level_of_theory_shows_in_the_energies(campaign):
    known, new = halves(shipped(campaign))
    new = new[:6]
    other = [relabelled(frame, "GFN1-xTB") for frame in new]
    assert doubted(other, known, "eV/atom from what the known labels say") == set(range(6))
    assert doubted([*new, other[3]], known) == {6}


def test_one_shifted_e0_shows_in_the_energies():
    known, new = halves(shipped("nacl"))
    wrong = new[7].copy()
    wrong.info["REF_energy"] += 2.0 * np.sum(wrong.numbers == 8)
    new[7] = wrong
    assert doubted(new, known) == {7}


def test_another_level_of_theory_is_known_by_its_name():
    known, new = halves(shipped("nacl"))
    for frame in known:
        frame.info["level_of_theory"] = "GFN2-xTB"
    new[1].info["level_of_theory"] = "GFN1-xTB"
    new[2].info["level_of_theory"] = "GFN2-xTB"
    expected = Doubt(index=1, reason="labelled at GFN1-xTB, the known labels at GFN2-xTB")
    assert examine(new, known) == [expected]


@pytest.mark.parametrize("campaign", ["nacl", "ice", "spice", "li-electrolyte"])
def test_the_sign_of_forces_shows_along_bonds(campaign):
    known, new = halves(shipped(campaign))
    for frame in new:
        frame.arrays["REF_forces"] *= -1.0
    assert len(doubted(new, known, "wrong sign")) > 0.8 * len(new)


def test_energies_follow_the_forces_of_a_walker(walk):
    assert examine(walk, []) == []
    assert examine(walk[::3], []) == []


@pytest.mark.parametrize("at", [0, 7, 15])
def test_one_flipped_force_shows_among_its_neighbours(walk, at):
    frames = [frame.copy() for frame in walk]
    frames[at].arrays["REF_forces"] *= -1.0
    found = doubted(frames, [], "work of the forces")
    assert at in found
    assert found <= {at - 1, at, at + 1}
    assert (found == {at}) == (0 < at < 15)


def test_neighbours_may_come_in_any_order_and_be_known(walk):
    frames = [frame.copy() for frame in walk]
    frames[4].arrays["REF_forces"] *= -1.0
    assert doubted([frames[4]], [*frames[:4], *frames[5:]]) == {0}
    assert doubted(frames[::-1], [], "work of the forces") == {11}


def test_a_swapped_frame_has_the_forces_of_other_positions(walk):
    frames = [frame.copy() for frame in walk]
    for one, other in ((3, 10), (10, 3)):
        frames[one].info["REF_energy"] = walk[other].info["REF_energy"]
        frames[one].arrays["REF_forces"] = walk[other].arrays["REF_forces"]
    assert doubted(frames, [], "torque") == {3, 10}
    assert doubted(frames, []) == {3, 10}
    for frame in frames:
        frame.set_cell([40.0, 40.0, 40.0])
        frame.pbc = True  # nothing is said of torques
    assert doubted(frames, [], "work of the forces") == {3, 10}


def test_forces_that_no_structure_has_are_named(walk):
    frames = [frame.copy() for frame in walk[:3]]
    frames[0].arrays["REF_forces"] = frames[0].arrays["REF_forces"] + [0.0, 0.0, 0.2]
    frames[1].arrays["REF_forces"][[0, 1]] += [[200.0, 0.0, 0.0], [-200.0, 0.0, 0.0]]
    assert doubted(frames, [], "net force") == {0}
    assert doubted(frames, [], "a force of") == {1}


def test_isolated_atoms_are_neither_known_nor_doubted():
    known, new = halves(shipped("nacl"))
    atoms = [isolated_atom(symbol, "GFN2-xTB") for symbol in ("H", "O")]
    assert examine([*new[:3], *atoms], [*known, *atoms]) == []


def test_a_composition_that_known_labels_do_not_span_is_left_alone():
    known, _ = halves(shipped("nacl"))
    hydrogen = Atoms("H2", [(0.0, 0.0, 0.0), (0.0, 0.0, 0.75)])
    hydrogen.calc = calculator("GFN2-xTB")
    assert examine([labelled_copy(hydrogen)], known) == []
