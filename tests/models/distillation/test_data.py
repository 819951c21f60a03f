import numpy as np
import pytest

from models.distillation.data import excursions, pool


def test_the_pool_is_half_dynamics_and_half_rattled(tiny_potential, labelled_waters):
    dynamics = [atoms.copy() for atoms in labelled_waters for _ in range(2)]

    def made(*runs):
        return pool(tiny_potential, labelled_waters, runs, 20, 0.05, 0, seed=0)

    structures = made(dynamics)
    assert len(structures) == 20
    known = {atoms.positions.tobytes() for atoms in labelled_waters}
    assert [atoms.positions.tobytes() in known for atoms in structures] == [True] * 10 + [False] * 10
    assert all(not atoms.info and "REF_forces" not in atoms.arrays for atoms in structures)
    again = made(dynamics)
    assert all((a.positions == b.positions).all() for a, b in zip(structures, again, strict=True))
    assert len(made(dynamics[:2])) == 20
    met = made(dynamics, dynamics[:3], dynamics)
    assert len(met) == 20 + 3 + 10
    assert all((a.positions == b.positions).all() for a, b in zip(structures[10:], met[10:], strict=False))


def test_excursions_rattle_relax_and_repeat(tiny_potential, labelled_waters):
    starts = labelled_waters[:2]
    found = excursions(tiny_potential, starts, 12, 0.05, 4, np.random.default_rng(0))
    assert len(found) == 12
    # Two walkers: both rattled, both relaxed, three times over.
    rattled, relaxed = found[0:2], found[2:4]
    moved = [np.abs(a.positions - b.positions).max() for a, b in zip(rattled, relaxed, strict=True)]
    assert all(0 < m < 0.3 for m in moved)
    assert len({atoms.positions.tobytes() for atoms in found}) == 12
    assert len(excursions(tiny_potential, starts, 7, 0.05, 4, np.random.default_rng(0))) == 7


def test_relaxing_lowers_the_teachers_energy(tiny_potential, labelled_waters):
    from models.graphs import graphs, predict

    found = excursions(tiny_potential, labelled_waters[:1], 6, 0.05, 4, np.random.default_rng(0))
    energies = [p.energy for p in predict(tiny_potential, graphs(found, tiny_potential))]
    assert all(after < before for before, after in zip(energies[0::2], energies[1::2], strict=True))
    assert energies[0] == pytest.approx(energies[1], abs=20.0)
