from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.eos import EquationOfState
from ase.io import write

from models import foundation, lattice, potentials
from models.datasets import DataError
from models.dynamics.relax import relax
from models.graphs import graphs, predict
from models.potentials import Potential
from models.validation.base import Finding, Subject
from models.validation.consistency import in_float64
from models.validation.crystals import Crystals
from models.validation.faults import FAULTS, with_term

VOLUMES = np.linspace(0.94, 1.06, 7)


@pytest.fixture(scope="module")
def salts() -> Potential:
    """The foundation in the box, which knows lithium chloride as a stable rock salt."""
    return in_float64(potentials.load(foundation.shipped()["temper-gfn1"]))


@pytest.fixture(scope="module")
def crystal(salts) -> Atoms:
    (found,) = relax(salts, [bulk("LiCl", "rocksalt", a=5.14)], fmax=1e-4, steps=200, pressure=0.0)
    assert found.converged
    return found.atoms


@pytest.fixture(scope="module")
def at_volumes(salts, crystal) -> list[Atoms]:
    """The crystal at seven volumes, labelled by the potential itself."""
    frames = []
    for volume in VOLUMES:
        frames.append(crystal.copy())
        frames[-1].set_cell(volume ** (1 / 3) * crystal.cell.array, scale_atoms=True)
    for frame, found in zip(frames, predict(salts, graphs(frames, salts)), strict=True):
        frame.info = {"crystal": "LiCl", "REF_energy": found.energy}
    return frames


@pytest.fixture(scope="module")
def bulk_modulus(at_volumes) -> float:
    """By ASE, GPa."""
    volumes, energies = zip(*((a.get_volume(), a.info["REF_energy"]) for a in at_volumes), strict=True)
    return EquationOfState(volumes, energies, eos="birchmurnaghan").fit()[2] / units.GPa


def measured(potential: Potential, frames: list[Atoms], folder: Path, **settings) -> Finding:
    write(folder / "crystals.extxyz", frames)
    subject = Subject(potential=potential, files={"crystals": folder / "crystals.extxyz"})
    return Crystals(supercell=6.0, fmax=1e-3, **settings).measure(subject)


def values(finding: Finding) -> dict[str, float | None]:
    return {name: figure.value for name, figure in finding.figures.items()}


def test_energies_stresses_and_strains_give_one_bulk_modulus(salts, crystal, at_volumes, bulk_modulus):
    state = lattice.equation_of_state(
        [a.get_volume() for a in at_volumes], [a.info["REF_energy"] for a in at_volumes]
    )
    assert state.bulk_modulus == pytest.approx(bulk_modulus, rel=1e-3)
    assert state.volume == pytest.approx(crystal.get_volume(), rel=1e-3)
    by_energy, by_stress = lattice.bulk_moduli(salts, crystal)
    assert by_stress == pytest.approx(by_energy, rel=1e-3)
    tensor = lattice.elastic_constants(salts, crystal, fmax=1e-3, steps=50)
    assert tensor[:3, :3].sum() / 9 == pytest.approx(by_energy, rel=0.01)
    assert bulk_modulus == pytest.approx(by_energy, rel=0.05)
    np.testing.assert_allclose(np.diag(tensor)[:3], tensor[0, 0], rtol=1e-3)
    np.testing.assert_allclose(np.diag(tensor)[3:], tensor[3, 3], rtol=1e-3)
    np.testing.assert_allclose(tensor[3:, :3], 0.0, atol=0.1)


def test_phonons_of_a_stable_crystal(salts, crystal):
    found = lattice.phonons(salts, crystal, 7.0)
    assert found.lowest == pytest.approx(0.0, abs=1e-3)
    assert 8.0 < found.highest < 14.0
    # Six branches, of which all states are counted.
    assert np.trapezoid(found.density, found.points) == pytest.approx(6.0, rel=0.05)


def test_a_potential_is_right_about_its_own_crystals(salts, at_volumes, bulk_modulus, tmp_path):
    tensor = lattice.elastic_constants(salts, at_volumes[3], fmax=1e-3, steps=50)
    at_volumes = [frame.copy() for frame in at_volumes]
    at_volumes[2].info["REF_elastic"] = tensor.ravel()
    at_volumes[4].info["REF_highest_frequency"] = lattice.phonons(salts, at_volumes[3], 6.0).highest
    finding = measured(salts, at_volumes, tmp_path)
    found = values(finding)
    assert found.keys() == Crystals.quantities.keys()
    assert found["volume"] < 1e-3
    assert found["bulk_modulus"] < 1e-3
    assert found["elastic"] < 1.0
    assert found["frequency"] < 1.0
    assert found["mismatch"] < 0.1
    assert (found["unstable"], found["imaginary"]) == (0.0, 0.0)
    assert finding.tables[0].rows[0][3] == pytest.approx(bulk_modulus, rel=1e-3)
    assert [line.name for line in finding.plots[0].lines] == ["", "reference"]
    assert finding.plots[1].title == "LiCl: phonons"
    assert not finding.notes


def test_a_single_frame_is_relaxed_and_scaled(salts, crystal, bulk_modulus, tmp_path):
    alone = crystal.copy()
    alone.set_cell(1.04 * crystal.cell.array, scale_atoms=True)
    alone.info = {"crystal": "LiCl", "REF_bulk_modulus": 0.5 * bulk_modulus}
    found = values(measured(salts, [alone], tmp_path, elastic=False, phonons=False))
    assert found.keys() == {"volume", "bulk_modulus", "mismatch"}
    assert found["volume"] == pytest.approx(100 * (1 - 1.04**-3), rel=0.01)
    assert found["bulk_modulus"] == pytest.approx(100.0, abs=8.0)


def test_a_soft_crystal_is_caught(salts, crystal, at_volumes, tmp_path):
    def soft(pairs):
        """Chloride ions would rather be anywhere else than where they are."""
        away = pairs.lengths - crystal.cell.lengths()[0]
        return -0.2 * pairs.between("Cl", "Cl") * away.abs().clamp(max=0.6) ** 2

    found = values(measured(with_term(salts, soft), at_volumes, tmp_path))
    assert found["unstable"] == 1.0
    assert found["imaginary"] > 1.0
    assert found["bulk_modulus"] > 50.0
    assert found["volume"] < 1.0


def test_a_crystal_that_collapses_is_a_finding(salts, at_volumes, tmp_path):
    def collapse(pairs):
        return -0.8 * pairs.between("Cl", "Cl") * (5.0 - pairs.lengths).clamp(min=0.0) ** 2

    finding = measured(with_term(salts, collapse), at_volumes, tmp_path)
    assert values(finding)["unstable"] == 1.0
    assert [name for name, value in values(finding).items() if value is None] == [
        "volume",
        "bulk_modulus",
        "imaginary",
    ]
    assert "LiCl: not relaxed, the cell has collapsed" in finding.notes[0]
    assert finding.notes[1] == "LiCl: the energy has no minimum from 28.1 to 31.7 Å³."


def test_a_stress_of_the_wrong_sign_is_caught(salts, at_volumes, tmp_path):
    wrong = FAULTS["a stress of the wrong sign"](salts, at_volumes)
    found = values(measured(wrong, at_volumes, tmp_path, phonons=False))
    assert found["mismatch"] == pytest.approx(200.0, rel=1e-3)
    assert found["unstable"] == 1.0
    assert found["volume"] < 1e-3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda frames: frames[1].info.pop("crystal"), "frame 1: has no info 'crystal'"),
        (lambda frames: frames[2].set_pbc(False), "frame 2: is not periodic"),
        (lambda frames: frames[3].info.pop("REF_energy"), "crystal LiCl: 7 frames; give one, or 5"),
        (
            lambda frames: frames[3].info.update(REF_elastic=[1.0] * 6),
            "REF_elastic must be 36 finite numbers",
        ),
        (lambda frames: frames[0].info.update(REF_energy=-1e3), "REF_energy has no minimum"),
    ],
)
def test_a_mistake_in_the_file_is_named(salts, at_volumes, tmp_path, spoil, message):
    frames = [frame.copy() for frame in at_volumes]
    spoil(frames)
    with pytest.raises(DataError, match=rf"crystals\.extxyz, .*{message}"):
        measured(salts, frames, tmp_path)
