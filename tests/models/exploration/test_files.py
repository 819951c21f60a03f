from pathlib import Path

import pytest
from ase import Atoms

from models.datasets import DataError, read_structures, write_structures
from models.exploration import (
    EXPLORERS,
    Dynamics,
    Excursions,
    NormalModes,
    RandomSearch,
    ReactionPaths,
)
from models.exploration import dynamics as dynamics_module
from models.exploration.files import explore_files
from models.foundation import shipped
from models.systems.random_crystals import contact

FOUNDATION = shipped()["temper-gfn1"]
QUICK = Dynamics(temperatures=(300.0,), walkers=2, duration=10.0, save_every=4, watch_every=2)
EVERYTHING = (
    QUICK,
    Excursions(walkers=2, relax_steps=1),
    RandomSearch(structures=2, relax_steps=2, most_atoms=4),
    NormalModes(starts=1, structures=2, relax_steps=5),
    ReactionPaths(pairs=1, images=1, relax_steps=1),
    QUICK.model_copy(update={"temperatures": (600.0,)}),
)


class Killed(Exception):
    pass


@pytest.fixture
def starts(labelled_waters: list[Atoms], tmp_path: Path) -> Path:
    frames = [labelled_waters[k].copy() for k in (4, 8, 12)]
    for frame in frames:
        frame.info |= {"charge": 0, "multiplicity": 1, "note": "of the start"}
    write_structures(tmp_path / "starts.extxyz", frames)
    return tmp_path / "starts.extxyz"


def test_a_killed_call_goes_on_to_the_same_pool(tiny_foundation, starts, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamics_module, "SEGMENT", 8)

    def explored(work: str, report=None) -> bytes:
        (tmp_path / work).mkdir(exist_ok=True)
        path = explore_files(EVERYTHING, [tiny_foundation], None, starts, 3, tmp_path / work, report)
        assert path == tmp_path / work / "pool.extxyz"
        return path.read_bytes()

    messages: list[dict] = []
    whole = explored("whole", messages.append)
    assert len([m for m in messages if "part" in m]) == 10

    def killed_at(message: int):
        count = iter(range(1, message + 1))

        def report(_: dict) -> None:
            if next(count) == message:
                raise Killed

        return report

    with pytest.raises(Killed):
        explored("killed", killed_at(6))  # in its second segment
    assert len(list((tmp_path / "killed").iterdir())) == 1
    assert explored("killed") == whole
    pool = read_structures(tmp_path / "killed" / "pool.extxyz")
    walkers = {(atoms.info["explorer"], atoms.info["walker"]) for atoms in pool}
    assert {explorer for explorer, _ in walkers} == {
        "dynamics", "dynamics-2", "excursions", "normal-modes", "random-search", "reaction-paths",
    }  # fmt: skip
    assert len({walker for _, walker in walkers}) == len(walkers)
    assert len({atoms.positions.tobytes() for atoms in pool}) == len(pool)


def test_every_frame_says_where_it_comes_from(uncertainty, starts, tmp_path):
    explorers = (QUICK, Excursions(walkers=1, relax_steps=1))
    path = explore_files(explorers, [FOUNDATION], uncertainty, starts, 0, tmp_path)
    pool = read_structures(path)
    assert {atoms.info["explorer"] for atoms in pool} == {"dynamics", "excursions"}
    of = {}
    for atoms in pool:
        assert atoms.info["charge"] == 0
        assert atoms.info["multiplicity"] == 1
        assert "note" not in atoms.info
        assert "trajectory" not in atoms.info
        assert not [key for key in (*atoms.info, *atoms.arrays) if key.startswith("REF_")]
        assert set(atoms.arrays) == {"numbers", "positions", "uncertainty"}
        assert atoms.calc is None
        assert atoms.info["uncertainty"] == pytest.approx(atoms.arrays["uncertainty"].max(), abs=1e-7)
        assert contact(atoms) >= 0.5
        of.setdefault(atoms.info["walker"], set()).add((atoms.info["explorer"], atoms.get_chemical_formula()))
    assert all(len(kinds) == 1 for kinds in of.values())
    assert len({atoms.positions.tobytes() for atoms in pool}) == len(pool)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([Atoms("Fe2", [(0.0, 0.0, 0.0), (2.0, 0.0, 0.0)])], "does not know Fe"),
        ([Atoms("O"), Atoms("H")], "every start is a single atom"),
        ([Atoms("H2", [(0.0, 0.0, 0.0), (0.1, 0.0, 0.0)])], "dynamics found no structure"),
    ],
)
def test_starts_that_are_of_no_use_are_named(tiny_foundation, frames, message, tmp_path):
    write_structures(tmp_path / "starts.extxyz", frames)
    with pytest.raises(DataError, match=f"starts.extxyz.*{message}"):
        explore_files([QUICK], [tiny_foundation], None, tmp_path / "starts.extxyz", 0, tmp_path)


def test_explorers_are_read_from_a_campaign_file():
    read_back = EXPLORERS.validate_python([one.model_dump(mode="json") for one in EVERYTHING])
    assert read_back == EVERYTHING
    given = EXPLORERS.validate_python(
        [
            {"kind": kind}
            for kind in (
                "dynamics",
                "excursions",
                "random_search",
                "normal_modes",
                "reaction_paths",
            )
        ]
    )
    assert given == (Dynamics(), Excursions(), RandomSearch(), NormalModes(), ReactionPaths())
