"""The least squares behind heads and last-layer uncertainties."""

import numpy as np
import pytest
import torch

from models.distillation.features import n_invariants
from models.graphs import graphs
from models.uncertainty import LastLayer, regression
from models.uncertainty.ensembles import ask_perturbed, perturbed
from models.uncertainty.regression import invariants, normal_equations


def rows(potential, frames) -> tuple[np.ndarray, np.ndarray]:
    """All rows and residuals, by the definition."""
    everything = perturbed(potential, torch.eye(n_invariants(potential.network), dtype=torch.float64))
    energies, forces = [], []
    for atoms, said in zip(frames, ask_perturbed(everything, graphs(frames, potential)), strict=True):
        root = np.sqrt(len(atoms))
        energies.append((said.energies[None] / root, [(atoms.info["REF_energy"] - said.energy) / root]))
        forces.append((said.member_forces.reshape(len(said.energies), -1).T,
                       (atoms.arrays["REF_forces"] - said.forces).ravel()))  # fmt: skip
    parts = []
    for kind in (energies, forces):
        matrix, missing = np.concatenate([x for x, _ in kind]), np.concatenate([r for _, r in kind])
        scale = np.sqrt(np.mean(missing**2))
        parts.append((matrix / scale, missing / scale))
    return np.concatenate([x for x, _ in parts]), np.concatenate([r for _, r in parts])


def test_the_normal_equations_are_those_of_all_energies_and_forces(tiny_potential, labelled_waters):
    matrix, missing = rows(tiny_potential, labelled_waters)
    weights = np.stack([np.ones(24), np.full(24, 2.0)])
    found = normal_equations(tiny_potential, labelled_waters, weights, None)
    np.testing.assert_allclose(found.left[0], matrix.T @ matrix, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.right[0], matrix.T @ missing, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.left[1], 2.0 * found.left[0])
    torch.testing.assert_close(found.right[1], 2.0 * found.right[0])


def test_the_variance_of_an_energy_is_that_of_last_layer_prediction_rigidity(tiny_potential, labelled_waters):
    train, valid = labelled_waters[:12], labelled_waters[12:]
    members = LastLayer(members=1000).perturbations(tiny_potential, train, valid, None)
    matrix, _ = rows(tiny_potential, train)
    factor = normal_equations(tiny_potential, train, np.ones((1, 12)), None).factor()
    np.testing.assert_allclose(factor @ factor.T, matrix.T @ matrix, rtol=1e-8, atol=1e-8)
    energies, features = invariants(tiny_potential, graphs(valid, tiny_potential))
    rigid = np.einsum("nk,kl,nl->n", features, np.linalg.inv((factor @ factor.T).numpy()), features)
    residuals = np.array([a.info["REF_energy"] for a in valid]) - energies.numpy()
    alpha = np.sqrt(np.mean(residuals**2 / rigid))
    assert members.shape == (8, 8)  # as many as invariants: the whole posterior
    np.testing.assert_allclose(((features @ members.T) ** 2).sum(dim=1), alpha**2 * rigid, rtol=1e-6)


def test_of_many_labels_some_stand_for_all(tiny_potential, labelled_waters, monkeypatch):
    monkeypatch.setattr(regression, "MAX_ATOMS", 30)
    told = []
    normal_equations(tiny_potential, labelled_waters, np.ones((1, 24)), told.append)
    assert 5 <= told[-1]["of"] <= 10
    assert told[-1]["structures"] == told[-1]["of"]


def test_invariants_that_are_not_numbers_are_an_error():
    broken = regression.NormalEquations(left=torch.full((1, 2, 2), torch.nan), right=torch.zeros(1, 2))
    with pytest.raises(FloatingPointError, match="not finite"):
        broken.factor()
