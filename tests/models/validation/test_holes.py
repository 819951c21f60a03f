import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write
from pydantic import ValidationError

from models.dynamics.relax import COLLAPSED, Relaxed
from models.potentials import Potential
from models.systems.random_crystals import CLOSEST, contact, draw_formulas, random_crystal, room
from models.validation.base import Finding, Subject
from models.validation.faults import FAULTS, changed, with_term
from models.validation.holes import CRITERIA, SHOWN, Group, Holes

FEW = Holes(compositions=("Na2Cl2",), structures=3, rounds=2, steps=10, pressures=(0.1, 10.0))


@pytest.fixture(scope="module")
def sound(tiny_potential) -> Potential:
    """The tiny network is untrained: bonds of covalent length give it minima, and walls."""

    def bonds(pairs):
        morse = (1.0 - torch.exp(3.0 - 3.0 * pairs.lengths / pairs.radii)) ** 2 - 1.0
        return morse * (1.0 - (pairs.lengths / tiny_potential.cutoff) ** 2).clamp(min=0.0) ** 3

    return with_term(tiny_potential, bonds)


def measured(potential: Potential, folder, check: Holes = FEW, seen: Atoms | None = None) -> Finding:
    write(folder / "test.extxyz", bulk("NaCl", "rocksalt", a=5.6) if seen is None else seen)
    return check.measure(Subject(potential=potential, files={"test": folder / "test.extxyz"}))


def ended(*, volume: float, energy: float, near: float = 1.2, failure: str | None = None) -> Relaxed:
    """Two hydrogen atoms, `near` in units of their covalent radii; per atom Å³ and eV."""
    return Relaxed(
        atoms=Atoms("H2", [(0, 0, 0), (0.62 * near, 0, 0)], cell=[(2.0 * volume) ** (1 / 3)] * 3, pbc=True),
        energy=2.0 * energy,
        force=0.0,
        stress=0.0,
        steps=1,
        converged=failure is None,
        failure=failure,
    )


def judged(*more: Relaxed) -> Group:
    """With eleven others: 20 Å³ and -3 eV per atom in the median, with a deviation of 0.3 eV."""
    others = [ended(volume=20.0 + 0.1 * k, energy=-3.0 + 0.1 * k) for k in range(-5, 6)]
    return Group(formula="H2", pressure=0.1, ends=[*others, *more])


@pytest.mark.parametrize(
    ("end", "met"),
    [
        (ended(volume=20.0, energy=-3.0), []),
        (ended(volume=20.0, energy=-3.0, near=0.51), []),
        (ended(volume=20.0, energy=-3.0, near=0.49), ["distance"]),
        (ended(volume=6.1, energy=-2.9), []),
        (ended(volume=5.8, energy=-2.9), ["volume"]),
        (ended(volume=20.0, energy=-7.9), []),
        (ended(volume=20.0, energy=-8.2), ["energy"]),
        (ended(volume=9.5, energy=-2.0), []),
        (ended(volume=9.5, energy=-3.5), ["volume and energy"]),
        (ended(volume=20.0, energy=np.nan, failure="not finite"), ["failed"]),
    ],
)
def test_the_four_criteria(end, met):
    group = judged(end)
    assert [name for name, holds in zip(CRITERIA, group.met[-1], strict=True) if holds] == met
    assert group.holes[-1] == bool(met)
    assert not group.holes[:-1].any()


def test_a_depth_within_ten_deviations_is_no_hole():
    spread = [ended(volume=20.0, energy=-3.0 + 2.0 * k) for k in range(-5, 6)]
    group = Group(formula="H2", pressure=0.1, ends=[*spread, ended(volume=20.0, energy=-20.0)])
    assert group.medians[2] > 5.0
    assert not group.holes.any()


def test_the_medians_are_of_structures_that_have_not_collapsed():
    collapsed = [ended(volume=2.0, energy=-50.0, near=0.3) for _ in range(20)]
    group = judged(*collapsed)
    assert group.medians == pytest.approx((20.0, -3.0, 0.3))
    assert group.holes.sum() == 20
    lost = Group(formula="H2", pressure=0.1, ends=collapsed)
    assert np.isnan(lost.medians).all()
    assert lost.holes.all()


def test_a_sound_potential_has_no_holes(sound, tmp_path):
    finding = measured(sound, tmp_path)
    assert {name: figure.value for name, figure in finding.figures.items()} == {
        "low_pressure": 0.0,
        "high_pressure": 0.0,
    }
    assert set(finding.figures["low_pressure"].samples) == {f"Na2Cl2/{k}" for k in range(3)}
    low, high = finding.tables[0].rows
    assert low[:4] == ("Na2Cl2", 0.1, 3, 0)
    assert high[-2] < low[-2]  # denser under pressure
    assert [line.name for line in finding.plots[0].lines] == ["", "holes"]
    assert len(finding.plots[0].lines[0].x) == 3
    assert not finding.structures
    assert finding == measured(sound, tmp_path)


def well(pairs):
    """Sodium and chlorine fall into each other."""
    return torch.where(
        pairs.between("Na", "Cl"), -40.0 * torch.exp(-((pairs.lengths / pairs.radii - 0.3) ** 2) / 0.09), 0.0
    )


@pytest.mark.parametrize("of_many_atoms", [False, True])
def test_a_planted_hole_is_caught(sound, salt_crystal, tmp_path, of_many_atoms):
    crowded = FAULTS["a hole of many atoms"](sound, [salt_crystal])
    finding = measured(crowded if of_many_atoms else with_term(sound, well), tmp_path)
    assert finding.figures["low_pressure"].value > 30.0
    assert finding.figures["high_pressure"].value > 30.0
    assert 2 <= len(finding.structures) <= SHOWN
    first_two = {structure.title.split(" at ")[1] for structure in finding.structures[:2]}
    assert first_two == {"0.1 GPa", "10 GPa"}
    assert "Å³ per atom" in finding.structures[0].text
    assert finding.structures[0].text.split(":")[0].split(", ")[0] in CRITERIA
    json.dumps(finding.to_json(), allow_nan=False)


def test_a_collapse_is_a_hole_and_ends_before_it_is_crowded(sound, salt_crystal, tmp_path):
    most = 0.0

    def watched(data, output):
        nonlocal most
        most = max(most, data["edge_index"].shape[1] / len(data["species"]))
        return output

    bottomless = FAULTS["a hole of many atoms"](changed(sound, watched), [salt_crystal])
    # Ten steps are not enough for a collapse: it goes on from round to round.
    finding = measured(bottomless, tmp_path, FEW.model_copy(update={"rounds": 4}))
    assert [figure.value for figure in finding.figures.values()] == [100.0, 100.0]
    assert [row[8] for row in finding.tables[0].rows] == [3, 3]
    densest = COLLAPSED * room(Atoms("NaCl").numbers) / 2.0
    assert most < 1.2 * 4.0 / 3.0 * np.pi * sound.cutoff**3 / densest
    assert all("collapsed" in structure.text for structure in finding.structures)


def test_a_potential_without_values_is_all_holes(sound, tmp_path):
    silent = changed(sound, lambda _, output: output | {"forces": output["forces"] * torch.nan})
    finding = measured(silent, tmp_path)
    assert [figure.value for figure in finding.figures.values()] == [100.0, 100.0]
    assert [row[8] for row in finding.tables[0].rows] == [3, 3]
    assert "not finite" in finding.structures[0].text
    assert any(note.startswith("Every structure is a hole: Na2Cl2 at 0.1 GPa") for note in finding.notes)
    json.dumps(finding.to_json(), allow_nan=False)


def test_compositions_are_of_the_elements_of_the_test_structures(sound, tmp_path):
    drawn = Holes(compositions=2, structures=3, rounds=1, steps=1)
    finding = measured(sound, tmp_path, drawn)
    formulas = {row[0] for row in finding.tables[0].rows}
    assert "Na5Cl5" in formulas
    assert {symbol for formula in formulas for symbol in Atoms(formula).symbols} == {"Na", "Cl"}
    strange = measured(sound, tmp_path, drawn, seen=bulk("Au"))
    assert [figure.value for figure in strange.figures.values()] == [None, None]
    assert "none of the elements" in strange.notes[0]


def test_balanced_formulas_are_drawn_first():
    def draw(symbols: list[str], n: int) -> list[str]:
        return draw_formulas(symbols, n, np.random.default_rng(3))

    few = draw(["H", "O", "Na", "Cl"], 4)
    assert few == draw(["H", "O", "Na", "Cl"], 4)
    assert len(set(few)) == 4
    for formula in few:
        atoms = Atoms(formula)
        assert 6 <= len(atoms) <= 10
        others = sum({"H": 0, "O": -2, "Na": 1, "Cl": -1}[symbol] for symbol in atoms.symbols)
        hydrogens = atoms.symbols.formula.count().get("H", 0)  # each is a proton or a hydride
        assert abs(others) <= hydrogens
        assert (others - hydrogens) % 2 == 0
    assert draw(["Na", "Cl"], 3)[0] == "Na5Cl5"
    assert draw(["Si"], 3) == ["Si10"]
    assert draw([], 3) == []


@pytest.mark.parametrize("formula", ["Na5Cl5", "H6O3", "Cs2Au8"])
def test_random_crystals_have_the_room_of_solids(formula):
    crystals = [random_crystal(formula, np.random.default_rng(k)) for k in range(5)]
    for crystal in crystals:
        assert crystal.symbols.formula.count() == Atoms(formula).symbols.formula.count()
        assert contact(crystal) > CLOSEST
        assert 8.0 < crystal.get_volume() / len(crystal) < 100.0
    again = random_crystal(formula, np.random.default_rng(4))
    np.testing.assert_array_equal(again.positions, crystals[4].positions)
    assert abs(crystals[0].get_volume() - crystals[1].get_volume()) > 1.0


def test_contact_sees_periodic_images():
    assert contact(bulk("NaCl", "rocksalt", a=5.36)) == pytest.approx(2.68 / (1.66 + 1.02))
    assert contact(Atoms("H", cell=[0.31] * 3, pbc=True)) == pytest.approx(0.5)
    assert contact(Atoms("H2", [(0, 0, 0), (3, 0, 0)])) == np.inf


@pytest.mark.parametrize("compositions", [0, -1, (), ("NaCl", "Nö2")])
def test_what_are_no_compositions_is_refused(compositions):
    with pytest.raises(ValidationError, match=r"composition|formula"):
        Holes(compositions=compositions)


@pytest.mark.parametrize("pressures", [(50.0, 0.1), (-1.0, 5.0)])
def test_pressures_out_of_order_are_refused(pressures):
    with pytest.raises(ValidationError, match="low pressure comes first"):
        Holes(pressures=pressures)


def test_a_formula_of_unknown_elements_is_refused(sound, tmp_path):
    with pytest.raises(ValueError, match="Br"):
        measured(sound, tmp_path, Holes(compositions=("Na4Br4",)))
