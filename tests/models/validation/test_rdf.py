import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from models.validation.rdf import Kind, Rdf, compare, earth_movers_distance, rdf


def ideal_gas(n_frames: int, seed: int) -> list[Atoms]:
    generator = np.random.default_rng(seed)
    return [
        Atoms("Na150Cl150", scaled_positions=generator.random((300, 3)), cell=[16.0, 16.0, 16.0], pbc=True)
        for _ in range(n_frames)
    ]


def rock_salt(seed: int, shake: float = 0.08, a: float = 5.64) -> list[Atoms]:
    frames = []
    for k in range(3):
        frames.append(bulk("NaCl", "rocksalt", a=a, cubic=True).repeat(3))
        frames[-1].rattle(shake, seed=10 * seed + k)
    return frames


def peak(at: float, pair: str = "Cl-Na") -> Rdf:
    r = np.arange(0.025, 6.0, 0.05)
    g = np.zeros_like(r)
    g[np.abs(r - at).argmin()] = 1.0
    return Rdf(pair=pair, kind=Kind.RADIAL, r=r.tolist(), g=g.tolist(), error=[0.0] * len(r))


def test_an_ideal_gas_has_no_structure():
    for curve in rdf([ideal_gas(6, seed) for seed in range(3)], bin_width=0.5):
        assert curve.kind is Kind.RADIAL
        g, error = np.array(curve.g), np.array(curve.error)
        np.testing.assert_allclose(g[4:], 1.0, atol=0.1)
        assert g[4:].mean() == pytest.approx(1.0, abs=0.02)
        assert (error[4:] > 0).all()
        assert (error[4:] < 0.1).all()


def test_rock_salt_has_its_shells():
    a = 5.64
    curves = {curve.pair: curve for curve in rdf([rock_salt(1)], bin_width=0.05, r_max=20.0)}
    assert list(curves) == ["Cl-Cl", "Cl-Na", "Na-Na"]
    unlike, like = curves["Cl-Na"], curves["Na-Na"]
    r = np.array(unlike.r)
    assert r[-1] == pytest.approx(1.5 * a, abs=0.06)  # half the cell, not the 20 Å asked for
    assert r[np.argmax(unlike.g)] == pytest.approx(a / 2, abs=0.1)
    assert r[np.argmax(like.g)] == pytest.approx(a / np.sqrt(2), abs=0.1)
    density = 4 / a**3
    shell = 4 * np.pi * r**2 * 0.05 * density
    first = r < 3.4
    assert (np.array(unlike.g) * shell)[first].sum() == pytest.approx(6.0, rel=0.01)
    second = r < 4.6
    assert (np.array(like.g) * shell)[second].sum() == pytest.approx(12.0, rel=0.01)


def test_a_cluster_is_normalised_by_its_pairs():
    waters = [[Atoms("OH2", [(0, 0, 0), (0.96, 0, 0), (0, y, 0)]) for y in (0.94, 0.98, 0.99)]]
    bond, between = {c.pair: c for c in rdf(waters)}["H-O"], {c.pair: c for c in rdf(waters)}["H-H"]
    assert bond.kind is Kind.PAIR
    assert np.sum(bond.g) * 0.05 == pytest.approx(1.0)
    assert np.sum(between.g) * 0.05 == pytest.approx(1.0)
    assert [c.pair for c in rdf(waters)] == ["H-H", "H-O"]  # of O-O there is no pair
    # 0.96 three times and 0.98, 0.99 fall in one bin, 0.94 in the one below.
    assert max(bond.g) == pytest.approx(5 / 6 / 0.05)


def test_blocks_of_one_trajectory_and_trajectories_alike_give_an_error():
    still = [rock_salt(1)[0]] * 5
    assert np.max(rdf([still])[0].error) < 1e-12
    assert np.any(rdf([rock_salt(1)])[0].error)
    assert np.any(rdf([rock_salt(1), rock_salt(2)])[0].error)
    assert not np.any(rdf([still[:1]])[0].error)


def test_the_distance_of_a_curve_from_itself_is_zero_and_a_shift_is_its_length():
    assert earth_movers_distance(peak(2.0), peak(2.0)) == 0.0
    assert earth_movers_distance(peak(2.0), peak(2.45)) == pytest.approx(0.45)
    assert earth_movers_distance(peak(2.45), peak(2.0)) == pytest.approx(0.45)


def test_an_empty_curve_is_the_whole_range_away():
    full = peak(2.0)
    empty = Rdf(pair="Cl-Na", kind=Kind.RADIAL, r=full.r, g=[0.0] * len(full.g), error=full.error)
    assert earth_movers_distance(full, empty) == full.r[-1]
    assert earth_movers_distance(empty, empty) == 0.0


def test_curves_of_different_pairs_are_not_compared():
    with pytest.raises(ValueError, match="not on the same bins"):
        earth_movers_distance(peak(2.0), peak(2.0, pair="H-O"))


def test_comparing_tells_noise_from_a_difference():
    reference = [rock_salt(k) for k in range(4)]
    same = compare(reference, [rock_salt(k) for k in range(10, 14)])
    stretched = compare(reference, [rock_salt(k, a=5.9) for k in range(10, 14)])
    assert set(same.emd) == {"Cl-Cl", "Cl-Na", "Na-Na"}
    assert same.mean_emd < 2 * same.mean_noise_floor
    assert stretched.mean_emd > 5 * stretched.mean_noise_floor
    assert same.mean_noise_floor == pytest.approx(np.mean(list(same.noise_floor.values())))
    assert compare(reference, reference).mean_emd == 0.0
    assert all(0.95 < ratio < 1.05 for ratio in same.shortest.values())
    pressed = compare(reference, [rock_salt(k, a=0.8 * 5.64) for k in range(10, 14)])
    assert max(pressed.shortest.values()) < 0.87
    assert same.bin_width == 0.05
    assert same.r_max == 6.0


@pytest.mark.parametrize(
    ("trajectories", "message"),
    [
        ([], "no frames"),
        ([[Atoms("Na2", cell=[9, 9, 9], pbc=True)], [Atoms("Na2")]], "all periodic"),
        ([[Atoms("Na2", cell=[9, 9, 9], pbc=(True, True, False))]], "all periodic"),
    ],
)
def test_what_has_no_distribution_is_refused(trajectories, message):
    with pytest.raises(ValueError, match=message):
        rdf(trajectories)


def test_only_structures_of_the_same_composition_are_compared():
    ions = [[Atoms("NaCl", [(0, 0, 0), (0, 0, z)]) for z in (2.4, 2.5, 2.6, 2.7)]]
    metal = [Atoms("Na2", [(0, 0, 0), (0, 0, 3.1)]), Atoms("Na2", [(0, 0, 0), (0, 0, 3.2)])]
    found = compare([*ions, metal], ions)
    assert list(found.emd) == ["Cl-Na"]
    assert found.emd["Cl-Na"] == 0.0
    assert (found.n_reference, found.n_model) == (4, 4)
    with pytest.raises(ValueError, match="no structure of Na2"):
        compare(ions, [*ions, metal])
