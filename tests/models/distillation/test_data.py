from models.distillation.data import pool


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
