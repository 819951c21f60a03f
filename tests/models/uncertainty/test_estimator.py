"""Every kind of uncertainty, fitted to real labels, and asked."""

import copy
import json

import numpy as np
import pytest
from ase.build import molecule
from pydantic import ValidationError
from scipy.spatial.transform import Rotation
from scipy.stats import spearmanr

from models import potentials
from models.datasets import DataError, read_structures, write_structures
from models.graphs import graphs, predict
from models.uncertainty import UNCERTAINTY, Committee, Heads, LastLayer
from models.uncertainty.files import fit_files, load


def errors(structures, estimates) -> np.ndarray:
    pairs = zip(structures, estimates, strict=True)
    return np.concatenate([np.linalg.norm(a.arrays["REF_forces"] - e.forces, axis=1) for a, e in pairs])


def test_the_union_knows_the_kinds_and_their_needs():
    committee = UNCERTAINTY.validate_python({"kind": "committee", "members": 5, "coverage": 0.8})
    assert (committee, committee.trainings) == (Committee(members=5, coverage=0.8), 4)
    assert Heads().trainings == LastLayer().trainings == 0
    for wrong in ({"kind": "guess"}, {"kind": "heads", "coverage": 1.0}, {"kind": "heads", "epochs": 3}):
        with pytest.raises(ValidationError):
            UNCERTAINTY.validate_python(wrong)


def test_energies_and_forces_are_the_specialists_own(fitted, trained):
    specialist = potentials.load(fitted.checkpoints[0])
    expected = predict(specialist, graphs(trained.test, specialist))
    for estimate, prediction in zip(fitted.estimator.estimate(trained.test), expected, strict=True):
        assert estimate.energy == pytest.approx(prediction.energy, abs=2e-4)
        np.testing.assert_allclose(estimate.forces, prediction.forces, atol=2e-4)


def test_bounds_hold_as_often_as_promised_and_follow_the_errors(fitted, trained):
    found = json.loads(fitted.files["calibration"].read_text())
    assert (found["kind"], found["coverage"]) == (fitted.uncertainty.kind, fitted.estimator.coverage)
    assert (found["n_atoms"], found["n_structures"], found["grouped_by"]) == (144, 24, "trajectory")
    assert found["typical"] == fitted.estimator.typical
    assert found["observed"] == pytest.approx(0.9, abs=0.12)
    assert found["correlation"] > 0.3
    assert found["plot"]["kind"] == "parity"

    estimates = fitted.estimator.estimate(trained.test)
    bounds, seen = np.concatenate([e.atoms for e in estimates]), errors(trained.test, estimates)
    assert np.mean(seen <= bounds) == pytest.approx(0.9, abs=0.12)
    assert spearmanr(bounds, seen).statistic > 0.3


def test_what_is_unlike_the_training_structures_is_less_certain(fitted):
    water, peroxide, torn = molecule("H2O"), molecule("H2O2"), molecule("H2O")
    torn.set_distance(0, 1, 1.6, fix=0)
    usual, other, stretched = (e.largest for e in fitted.estimator.estimate([water, peroxide, torn]))
    assert usual < 2.0 * fitted.estimator.typical
    assert other > 1.5 * usual
    assert stretched > 1.5 * usual


def test_bounds_do_not_turn_and_gradients_do(fitted, trained):
    structure = trained.test[-1]
    turn = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    turned = structure.copy()
    turned.positions = structure.positions @ turn.T
    one, other = fitted.estimator.estimate([structure, turned])
    np.testing.assert_allclose(other.atoms, one.atoms, rtol=1e-2)
    np.testing.assert_allclose(other.gradient, one.gradient @ turn.T, atol=1e-2 * np.abs(one.gradient).max())
    assert other.energy_spread == pytest.approx(one.energy_spread, rel=1e-2)


def test_company_does_not_matter(fitted, trained):
    together = fitted.estimator.estimate(trained.test[:5])
    (alone,) = copy.deepcopy(fitted.estimator).estimate(trained.test[4:5])
    np.testing.assert_allclose(alone.atoms, together[4].atoms, rtol=1e-2)
    np.testing.assert_allclose(alone.forces, together[4].forces, atol=2e-4)


def test_a_file_is_of_its_checkpoints_alone(fitted, trained):
    with pytest.raises(DataError, match="fitted to other checkpoints"):
        load(fitted.files["uncertainty"], trained.members[1:])
    with pytest.raises(DataError, match="not the file of an uncertainty"):
        load(trained.members[0], fitted.checkpoints)


def test_members_must_be_as_many_as_named_and_alike(trained, tiny_foundation, tmp_path):
    files = trained.train, trained.valid, tmp_path
    with pytest.raises(DataError, match="takes the specialist and 1 further checkpoints, not 1 in all"):
        fit_files(Committee(members=2), trained.members[:1], *files)
    with pytest.raises(DataError, match="other elements, cutoff or heads"):
        fit_files(Committee(members=2), [trained.members[0], tiny_foundation], *files)


def test_labels_must_be_whole_and_enough(trained, tiny_potential, tmp_path):
    frames = read_structures(trained.valid)
    del frames[3].arrays["REF_forces"]
    holey, few = tmp_path / "holey.extxyz", tmp_path / "few.extxyz"
    write_structures(holey, frames)
    write_structures(few, frames[:2])
    with pytest.raises(DataError, match=r"holey\.extxyz, frame 3: needs a finite REF_energy"):
        fit_files(LastLayer(), trained.members[:1], trained.train, holey, tmp_path)
    with pytest.raises(DataError, match=r"6 held-out atoms .* too few for a coverage of 0\.9: it takes 9"):
        fit_files(LastLayer(), trained.members[:1], trained.train, few, tmp_path)
    with pytest.raises(DataError, match="cannot be resampled"):
        Heads().perturbations(tiny_potential, frames[:1], frames, None)


def test_the_same_fit_gives_the_same_bytes(tiny_foundation, labelled_waters, tmp_path):
    train, valid = tmp_path / "train.extxyz", tmp_path / "valid.extxyz"
    write_structures(train, labelled_waters[:8])
    write_structures(valid, labelled_waters[8:])
    told, made = [], []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(
            fit_files(Heads(members=2), [tiny_foundation], train, valid, tmp_path / name, told.append)
        )
    for role, path in made[0].items():
        assert made[1][role].read_bytes() == path.read_bytes()
    assert told == [{"structures": 8, "of": 8}] * 2
