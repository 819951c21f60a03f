import json
from dataclasses import asdict

import numpy as np
import pytest
from ase import Atoms

from models import graphs
from models.graphs import Prediction
from models.validation.errors import errors, parity


def labelled(symbols: str, energy: float, forces: list, trajectory: str, family: str) -> Atoms:
    atoms = Atoms(symbols, np.arange(3 * len(forces), dtype=float).reshape(-1, 3))
    atoms.info |= {"REF_energy": energy, "trajectory": trajectory, "family": family}
    atoms.arrays["REF_forces"] = np.array(forces, dtype=float)
    return atoms


@pytest.fixture
def structures() -> list[Atoms]:
    return [
        labelled("NaCl", -10.0, [[0, 0, 0], [0, 0, 0]], "a", "salt"),
        labelled("NaCl", -11.0, [[1, 1, 1], [0, 0, 0]], "a", "salt"),
        labelled("OH2", -5.0, [[0, 0, 0]] * 3, "b", "water"),
    ]


@pytest.fixture
def predictions() -> list[Prediction]:
    return [
        Prediction(energy=-10.004, forces=np.array([[0.006, 0, 0], [0, 0, 0]])),
        Prediction(energy=-11.0, forces=np.array([[1, 1, 1], [0, 0, -0.012]])),
        Prediction(energy=-4.97, forces=np.array([[0, 0, 0], [0, 0.009, 0], [0, 0, 0]])),
    ]


def test_metrics_by_hand(predictions, structures):
    found = errors(predictions, structures)
    assert found.energy.mae == pytest.approx((2 + 0 + 10) / 3)
    assert found.energy.rmse == pytest.approx(np.sqrt((4 + 0 + 100) / 3))
    assert found.energy.max == pytest.approx(10.0)
    assert found.forces.n == 21
    assert found.forces.mae == pytest.approx((6 + 12 + 9) / 21)
    assert found.forces.rmse == pytest.approx(np.sqrt((36 + 144 + 81) / 21))
    assert found.forces.max == pytest.approx(12.0)
    assert {k: m.mae for k, m in found.forces_by_element.items()} == pytest.approx(
        {"Cl": 12 / 6, "H": 9 / 6, "Na": 6 / 6, "O": 0.0}
    )
    assert found.energy_by_family["salt"].mae == pytest.approx(1.0)
    assert found.energy_by_family["water"].mae == pytest.approx(10.0)
    assert found.forces_by_family["salt"].mae == pytest.approx(18 / 12)
    assert (found.n_structures, found.n_trajectories) == (3, 2)


def test_missing_labels_are_left_out(predictions, structures):
    del structures[2].info["REF_energy"]
    del structures[0].arrays["REF_forces"]
    found = errors(predictions, structures)
    assert found.energy.n == 2
    assert found.forces.n == 15
    assert len(parity(predictions, structures).forces_reference) == 15
    assert len(parity(predictions, structures).energy_reference) == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, s: s.pop(), "3 predictions for 2 structures"),
        (
            lambda p, s: p.__setitem__(1, Prediction(energy=np.nan, forces=p[1].forces)),
            r"structure 1 \(ClNa\)",
        ),
        (lambda p, s: [(a.info.clear(), a.arrays.pop("REF_forces")) for a in s], "none of the 3 structures"),
    ],
)
def test_what_cannot_be_judged_is_refused(predictions, structures, spoil, message):
    spoil(predictions, structures)
    with pytest.raises(ValueError, match=message):
        errors(predictions, structures)


def test_parity_keeps_differences_and_is_drawn_once(predictions, structures):
    points = parity(predictions, structures)
    shown = np.array(points.energy_predicted) - np.array(points.energy_reference)
    np.testing.assert_allclose(shown, [-0.002, 0.0, 0.01], atol=1e-12)
    assert sum(points.energy_reference[:2]) == pytest.approx(0.0, abs=1e-9)  # both NaCl: about their mean
    few = parity(predictions, structures, max_points=5)
    assert len(few.forces_predicted) == 5
    assert few == parity(predictions, structures, max_points=5)


def test_errors_are_json(predictions, structures):
    found = json.loads(json.dumps(asdict(errors(predictions, structures))))
    assert found["forces_by_element"]["Cl"]["n"] == 6


def test_a_network_agrees_with_its_own_labels(tiny_potential, salt_water):
    predicted = graphs.predict(tiny_potential, graphs.graphs([salt_water], tiny_potential))
    salt_water.info["REF_energy"] = predicted[0].energy
    salt_water.arrays["REF_forces"] = predicted[0].forces
    again = graphs.predict(tiny_potential, graphs.graphs([salt_water], tiny_potential))
    found = errors(again, [salt_water])
    assert found.energy.max == pytest.approx(0.0, abs=1e-6)
    assert found.forces.max == pytest.approx(0.0, abs=1e-6)
