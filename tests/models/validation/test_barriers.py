from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import write
from ase.mep import NEB
from ase.optimize import FIRE

from models import foundation, potentials
from models.calculator import PotentialCalculator
from models.datasets import DataError
from models.dynamics.relax import relax
from models.graphs import graphs, predict
from models.potentials import Potential, compiled
from models.validation.barriers import Barriers
from models.validation.base import Finding, Subject
from models.validation.faults import changed, with_term


@pytest.fixture(scope="module")
def potential() -> Potential:
    return compiled(potentials.load(foundation.shipped()["temper-gfn1"], torch.float64))


@pytest.fixture(scope="module")
def inversion(potential) -> list[Atoms]:
    """Ammonia turned inside out: five images by plain ASE, labelled by the potential itself."""
    (before,) = relax(potential, [molecule("NH3")], fmax=0.005, steps=200)
    after = before.atoms.copy()
    after.positions[:, 2] *= -1.0
    images = [before.atoms, *(before.atoms.copy() for _ in range(3)), after]
    band = NEB(images, climb=True, method="improvedtangent", allow_shared_calculator=True)
    band.interpolate()
    calculator = PotentialCalculator(potential)
    for image in images:
        image.calc = calculator
    assert FIRE(band, logfile=None).run(fmax=0.05, steps=100)
    for k, (image, p) in enumerate(zip(images, predict(potential, graphs(images, potential)), strict=True)):
        image.calc = None
        image.info = {"path": "NH3", "image": k, "REF_energy": p.energy}
    return images


@pytest.fixture
def barrier(inversion) -> float:
    """eV"""
    return max(atoms.info["REF_energy"] for atoms in inversion) - inversion[0].info["REF_energy"]


def measured(potential: Potential, frames: list[Atoms], folder: Path, **settings) -> Finding:
    write(folder / "paths.extxyz", frames)
    return Barriers(**settings).measure(
        Subject(potential=potential, files={"paths": folder / "paths.extxyz"})
    )


def values(finding: Finding) -> dict[str, float | None]:
    return {name: figure.value for name, figure in finding.figures.items()}


@pytest.mark.parametrize("start", ["reference", "idpp"])
def test_a_potential_finds_the_barrier_that_ase_finds(potential, inversion, barrier, tmp_path, start):
    assert 0.1 < barrier < 1.0
    shuffled = [inversion[k] for k in (3, 1, 0, 2, 4)]
    finding = measured(potential, shuffled, tmp_path, start=start)
    assert values(finding)["barrier"] < 3.0
    assert values(finding)["reaction_energy"] < 1.0
    assert values(finding)["failures"] == 0.0
    (row,) = finding.tables[0].rows
    assert row[1] == pytest.approx(barrier, abs=0.003)
    assert row[2] == pytest.approx(barrier, abs=1e-6)
    assert row[3] == pytest.approx(barrier, abs=1e-6)
    model, reference = finding.plots[0].lines
    assert (model.name, reference.name) == ("", "reference")
    assert reference.x[2] == pytest.approx(0.5, abs=0.02)
    assert max(reference.y) == pytest.approx(barrier)
    assert finding.structures[0].title == "Highest image of NH3"


def test_a_bump_at_the_transition_state_is_caught(potential, inversion, tmp_path):
    def bump(pairs):
        """0.2 eV more for a nitrogen in the plane of its neighbours."""
        own = torch.where(pairs.between("N", "H") & (pairs.first == 7), 1.0, 0.0)[:, None]
        pointing = pairs.vectors.new_zeros(pairs.atoms, 3).index_add(
            0, pairs.sender, own * pairs.vectors / pairs.lengths[:, None]
        )
        with_neighbours = torch.zeros(pairs.atoms).index_add(0, pairs.sender, own[:, 0].float()) > 0
        return 0.2 * with_neighbours * torch.exp(-(pointing**2).sum(dim=1) / 0.1)

    found = values(measured(with_term(potential, bump), inversion, tmp_path))
    assert found["barrier"] == pytest.approx(200.0, abs=15.0)
    assert found["reaction_energy"] < 1.0
    assert found["failures"] == 0.0


def test_a_band_that_does_not_converge_is_compared_on_the_reference(potential, inversion, tmp_path):
    stretched = [atoms.copy() for atoms in inversion]
    for atoms in stretched[1:-1]:
        atoms.positions *= 1.1
    finding = measured(potential, stretched, tmp_path, steps=2)
    assert values(finding)["failures"] == 100.0
    assert values(finding)["barrier"] == pytest.approx(
        1e3 * abs(finding.tables[0].rows[0][3] - finding.tables[0].rows[0][2])
    )
    assert finding.notes == ["NH3: not converged after 2 steps."]


def test_an_end_that_is_no_minimum_is_noticed(potential, inversion, tmp_path):
    frames = [atoms.copy() for atoms in inversion]
    # The end is still on the way up.
    frames[-1].positions = inversion[1].positions
    finding = measured(potential, frames, tmp_path)
    assert values(finding)["failures"] == 100.0
    assert finding.notes == ["NH3: an end relaxes to another minimum."]


def test_a_potential_without_values_has_no_barrier(potential, inversion, tmp_path):
    def blind(data, output):
        return output | {"forces": output["forces"].detach() * np.nan}

    def blinder(data, output):
        return output | {"interaction_energy": output["interaction_energy"].detach() * np.nan}

    finding = measured(changed(potential, blind), inversion, tmp_path)
    assert values(finding)["failures"] == 100.0
    assert "an end does not relax" in finding.notes[0]
    found = values(measured(changed(potential, blinder), inversion, tmp_path))
    assert found == {"barrier": None, "reaction_energy": None, "failures": 100.0}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda frames: frames[1].info.pop("path"), "frame 1: has no info 'path'"),
        (lambda frames: frames[2].info.pop("REF_energy"), "frame 2: has no info 'REF_energy'"),
        (lambda frames: frames[2].info.update(image=1), "frame 2: image 1 of NH3 comes twice"),
        (lambda frames: frames[3].set_atomic_numbers([1, 7, 1, 1]), "path NH3: its images differ"),
        (lambda frames: frames.__delitem__(slice(2, None)), "path NH3: 2 images; a path needs three"),
    ],
)
def test_a_mistake_in_the_file_is_named(potential, inversion, tmp_path, spoil, message):
    frames = [atoms.copy() for atoms in inversion]
    spoil(frames)
    with pytest.raises(DataError, match=rf"paths\.extxyz, {message}"):
        measured(potential, frames, tmp_path)
