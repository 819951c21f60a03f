import json

import numpy as np
import pytest
from ase import Atoms
from ase.data import chemical_symbols
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models import potentials
from models.datasets import DataError, write_structures
from models.e0s import E0Policy, read_e0s, refit, refit_file
from models.graphs import graphs, predict
from models.potentials import Potential

COMPOSITIONS = st.lists(st.tuples(*[st.integers(0, 6)] * 4).filter(any), min_size=1, max_size=12)
SHIFTS = st.tuples(*[st.floats(-3000.0, 3000.0)] * 4)
ELEMENTS = (1, 8, 11, 17)


def spread(counts: tuple[int, ...]) -> Atoms:
    """Atoms too far apart to see each other: their energy is the sum of their E0s."""
    numbers = np.repeat(ELEMENTS, counts)
    return Atoms(numbers, positions=[(20.0 * k, 0.0, 0.0) for k in range(len(numbers))])


def shifted(potential: Potential, frames: list[Atoms], shifts: tuple[float, ...]) -> list[Atoms]:
    by_element = dict(zip(ELEMENTS, shifts, strict=True))
    for frame, prediction in zip(frames, predict(potential, graphs(frames, potential)), strict=True):
        frame.info["REF_energy"] = prediction.energy + sum(by_element[int(z)] for z in frame.numbers)
    return frames


@settings(max_examples=40, deadline=None)
@given(compositions=COMPOSITIONS, shifts=SHIFTS)
def test_what_the_data_determine_is_recovered(tiny_potential, compositions, shifts):
    frames = shifted(tiny_potential, [spread(c) for c in compositions], shifts)
    fit = refit(tiny_potential, frames, [], E0Policy())
    counts = np.array(compositions, dtype=float)
    present = [k for k in range(4) if counts[:, k].any()]
    assert fit.rank == np.linalg.matrix_rank(counts[:, present])
    assert fit.residual_after == pytest.approx(0.0, abs=0.01)
    # Every combination in the row space is exact; what is orthogonal to all data stays at zero.
    found = np.array([fit.shifts[ELEMENTS[k]] for k in present])
    onto_data = np.linalg.pinv(counts[:, present]) @ counts[:, present]
    np.testing.assert_allclose(found, onto_data @ np.array([shifts[k] for k in present]), atol=1e-3)
    if fit.determined:
        assert fit.null_space == []
        np.testing.assert_allclose(found, [shifts[k] for k in present], atol=1e-3)
    assert set(fit.e0s) == set(ELEMENTS)
    for k in set(range(4)) - set(present):
        assert fit.e0s[ELEMENTS[k]] == tiny_potential.e0s()[ELEMENTS[k]]


def test_a_nearly_dependent_composition_still_counts(tiny_potential):
    # Two hundred waters and one hydroxide: only the last tells H from O.
    compositions = [(20, 10, 0, 0)] * 200 + [(19, 10, 0, 0)]
    frames = shifted(tiny_potential, [spread(c) for c in compositions], (-500.0, 2500.0, 0.0, 0.0))
    fit = refit(tiny_potential, frames, [], E0Policy())
    assert fit.shifts == pytest.approx({1: -500.0, 8: 2500.0}, abs=5e-3)


def test_water_alone_leaves_one_combination_free(tiny_potential):
    frames = shifted(tiny_potential, [spread((2 * n, n, 0, 0)) for n in (1, 2, 3)], (1.0, 4.0, 0.0, 0.0))
    fit = refit(tiny_potential, frames, [], E0Policy())
    assert (fit.rank, fit.n_elements, fit.determined) == (1, 2, False)
    assert fit.shifts == pytest.approx({1: 2.4, 8: 1.2})  # (2 H + O) = 6 eV, along (2, 1)
    [free] = fit.null_space
    numbers = dict(zip(free.split()[1::2], map(float, free.split()[::2]), strict=True))
    assert 2.0 * numbers["H"] + numbers["O"] == pytest.approx(0.0, abs=1e-2)
    assert free in ("-0.5 H +1 O", "+1 H -2 O")
    assert fit.residual_before == pytest.approx(2000.0)
    assert fit.residual_after == pytest.approx(0.0, abs=1e-3)


def test_salt_water_leaves_two_combinations_free(tiny_potential):
    compositions = [(2 * n, n, m, m) for n, m in ((3, 1), (4, 1), (5, 2), (2, 2))]
    fit = refit(
        tiny_potential,
        shifted(tiny_potential, [spread(c) for c in compositions], (1, 2, 3, 4)),
        [],
        E0Policy(),
    )
    assert (fit.rank, fit.n_elements) == (2, 4)
    assert len(fit.null_space) == 2
    assert sorted(set(" ".join(fit.null_space).split()) & {"H", "O", "Na", "Cl"}) == ["Cl", "H", "Na", "O"]


def isolated(z: int, energy: float) -> Atoms:
    return Atoms([z], info={"REF_energy": energy, "config_type": "IsolatedAtom"})


def test_isolated_atoms_are_taken_as_they_are(tiny_potential):
    frames = shifted(tiny_potential, [spread((2, 1, 0, 0))], (1.0, 4.0, 0.0, 0.0))
    atoms = [isolated(1, -13.6), isolated(8, -432.0)]
    fit = refit(tiny_potential, frames, atoms, E0Policy(policy="isolated_atoms"))
    assert fit.e0s == pytest.approx(tiny_potential.e0s() | {1: -13.6, 8: -432.0}, abs=1e-9)
    with pytest.raises(
        DataError, match="no frame with config_type=IsolatedAtom for O; add it or use 'estimated'"
    ):
        refit(tiny_potential, frames, atoms[:1], E0Policy(policy="isolated_atoms"))


def test_the_foundations_e0s_can_be_kept(tiny_potential):
    frames = shifted(tiny_potential, [spread((2, 1, 0, 0))], (1.0, 4.0, 0.0, 0.0))
    fit = refit(tiny_potential, frames, [], E0Policy(policy="foundation"))
    assert fit.e0s == tiny_potential.e0s()
    assert fit.residual_after == fit.residual_before == pytest.approx(2000.0)


def test_explicit_energies_are_taken_as_they_are(tiny_potential):
    frames = shifted(tiny_potential, [spread((2, 1, 0, 0))], (1.0, 4.0, 0.0, 0.0))
    policy = E0Policy(policy="explicit", energies={"H": -13.6, "O": -432.0, "Na": -5.0})
    fit = refit(tiny_potential, frames, [], policy)
    assert fit.e0s == tiny_potential.e0s() | {1: -13.6, 8: -432.0, 11: -5.0}
    assert fit.shifts == pytest.approx({1: -13.6 + 1.1, 8: -432.0 + 8.8})
    with pytest.raises(DataError, match="e0s: no energy for O in energies; add it or use 'estimated'"):
        refit(tiny_potential, frames, [], E0Policy(policy="explicit", energies={"H": -13.6}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": "explicit"}, "energies: go with the policy 'explicit' and with no other"),
        ({"energies": {"H": 1.0}}, "energies: go with the policy 'explicit' and with no other"),
        ({"policy": "explicit", "energies": {"Hx": 1.0}}, "energies: Hx: no such element"),
        ({"policy": "explicit", "energies": {"H": float("nan")}}, "a finite number of eV"),
    ],
)
def test_explicit_energies_are_examined(given, message):
    with pytest.raises(ValidationError, match=message):
        E0Policy(**given)


def test_the_average_ignores_binding_and_says_so(tiny_potential, caplog):
    compositions = [(2, 1, 0, 0), (1, 1, 0, 0), (3, 1, 0, 0)]
    frames = [spread(c) for c in compositions]
    for frame, binding in zip(frames, (-9.0, -4.0, -10.0), strict=True):
        frame.info["REF_energy"] = sum(tiny_potential.e0s()[z] for z in frame.numbers) + binding
    fit = refit(tiny_potential, frames, [], E0Policy(policy="average"))
    counts = np.array([c[:2] for c in compositions], dtype=float)
    energies = [frame.info["REF_energy"] for frame in frames]
    expected = np.linalg.lstsq(counts, np.array(energies))[0]
    assert [fit.e0s[1], fit.e0s[8]] == pytest.approx(list(expected), abs=1e-6)
    assert "only to be compared against" in fit.warnings[0]
    assert fit.warnings[0] in caplog.text
    assert "only to be compared against" in str(E0Policy.model_json_schema()["properties"]["policy"])


def test_e0s_that_do_not_belong_to_the_labels_are_reported(tiny_potential, caplog):
    frames = shifted(tiny_potential, [spread((2, 1, 0, 0)), spread((1, 2, 0, 0))], (1.0, 4.0, 0.0, 0.0))
    [warning] = refit(tiny_potential, frames, [], E0Policy(policy="foundation")).warnings
    assert warning.startswith("energies are 2550 meV/atom off before training: the E0s do not belong")
    assert warning in caplog.text
    assert refit(tiny_potential, frames, [], E0Policy()).warnings == []


def test_compositions_that_the_data_do_not_fix_are_named(tiny_potential, caplog):
    frames = shifted(tiny_potential, [spread((2 * n, n, 0, 0)) for n in (1, 2)], (1.0, 4.0, 0.0, 0.0))
    water, hydroxide, salt = spread((6, 3, 0, 0)), spread((1, 1, 0, 0)), spread((2, 1, 1, 0))
    fit = refit(tiny_potential, frames, [], E0Policy(), [water, hydroxide, salt])
    [warning] = fit.warnings
    outside = ", ".join(sorted(a.get_chemical_formula() for a in (hydroxide, salt)))
    assert f"do not fix the energies of {outside}: no combination" in warning
    assert warning in caplog.text
    assert refit(tiny_potential, frames, [], E0Policy(), [water]).warnings == []
    given = E0Policy(policy="explicit", energies={"H": -13.6, "O": -430.0})
    assert not any("do not fix" in said for said in refit(tiny_potential, frames, [], given, [salt]).warnings)


def test_a_fit_becomes_a_file_and_comes_back(tiny_foundation, labelled_waters, tmp_path):
    write_structures(tmp_path / "train.xyz", labelled_waters)
    path, fit = refit_file(tiny_foundation, tmp_path / "train.xyz", None, E0Policy(), tmp_path)
    assert read_e0s(path) == fit.e0s
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content["e0s"]) == {chemical_symbols[z] for z in potentials.load(tiny_foundation).elements}
    assert (content["rank"], len(content["null_space"])) == (1, 1)
    assert fit.residual_after < fit.residual_before
