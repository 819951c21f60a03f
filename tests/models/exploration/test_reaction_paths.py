import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from models.exploration.base import Scene
from models.exploration.reaction_paths import ReactionPaths
from models.graphs import graphs, predict
from models.potentials import Potential
from models.systems.molecules import methyl_halide_complex
from models.validation.barriers import distance


def scene(potential: Potential, starts: list[Atoms], work, told: list | None = None) -> Scene:
    return Scene(
        name="reaction-paths", potential=potential, starts=starts, uncertainty=None, seed=(0, 0), work=work,
        report=None if told is None else told.append,
    )  # fmt: skip


def test_images_lie_between_their_ends_and_relax(foundation, tmp_path):
    ends = [methyl_halide_complex("Cl", "F", asymmetry) for asymmetry in (-1.2, 1.2)]
    for end in ends:
        end.info["charge"] = -1
    found = ReactionPaths(images=3, relax_steps=4).explore(scene(foundation, ends, tmp_path))
    assert len(found) == 6
    assert {(a.info["walker"], a.info["charge"]) for a in found} == {("reaction-paths-CH3ClF-0", -1)}
    apart = distance(*ends)
    for image in found:
        assert 0.1 * apart < distance(ends[0], image) < 0.95 * apart
    first, last = sorted(found[:3], key=lambda a: a.get_distance(0, 4))[
        ::2
    ]  # the carbon and the leaving halide
    assert last.get_distance(0, 4) - first.get_distance(0, 4) > 0.3
    energies = [p.energy for p in predict(foundation, graphs(found, foundation))]
    assert sum(energies[3:]) < sum(energies[:3])


@pytest.mark.parametrize("wrong", ["order", "charge", "same", "periodic"])
def test_without_two_starts_of_the_same_atoms_it_says_so(foundation, wrong, tmp_path):
    first, second = methyl_halide_complex("Cl", "F", -1.2), methyl_halide_complex("Cl", "F", 1.2)
    if wrong == "order":
        second = second[::-1]
    elif wrong == "charge":
        second.info["charge"] = -1
    elif wrong == "same":
        second = first.copy()
        second.rotate(70.0, (1.0, 2.0, 3.0))
    else:
        first, second = (bulk("NaCl", "rocksalt", a=a) for a in (5.0, 6.0))
    told: list = []
    assert ReactionPaths().explore(scene(foundation, [first, second, molecule("H2O")], tmp_path, told)) == []
    assert len(told) == 1
    assert "no two starts" in told[0]["note"]


def test_pairs_are_as_many_as_asked_for_and_different(foundation, tmp_path):
    starts = [methyl_halide_complex("Cl", "F", asymmetry) for asymmetry in (-1.2, -0.2, 0.4, 1.2)]
    found = ReactionPaths(pairs=3, images=1, relax_steps=1).explore(scene(foundation, starts, tmp_path))
    assert len({atoms.info["walker"] for atoms in found}) == 3
    lengths = np.array([atoms.get_distance(0, 4) for atoms in found[::2]])
    assert len(np.unique(lengths.round(3))) == 3
