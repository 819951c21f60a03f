import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from models.exploration.base import Scene
from models.exploration.random_search import RandomSearch, fragments
from models.potentials import Potential
from models.systems.random_crystals import contact


def scene(potential: Potential, starts: list[Atoms], work) -> Scene:
    return Scene(
        name="random-search", potential=potential, starts=starts, uncertainty=None, seed=(0, 0), work=work,
        report=None,
    )  # fmt: skip


def test_molecules_and_ions_are_found_by_their_bonds(salt_water):
    found = sorted(part.get_chemical_formula() for part in fragments(salt_water))
    assert found == ["Cl", "H2O", "H2O", "H2O", "Na"]
    assert [len(part) for part in fragments(molecule("CH3CH2OH"))] == [9]


def test_a_droplet_is_packed_from_its_molecules(foundation, salt_water, tmp_path):
    salt_water.info["charge"] = 0
    found = RandomSearch(structures=2, relax_steps=4).explore(scene(foundation, [salt_water], tmp_path))
    walkers = [atoms.info["walker"] for atoms in found]
    assert walkers == ["random-search-H6ClNaO3-0"] * 3 + ["random-search-H6ClNaO3-1"] * 3
    for drawn in (found[0], found[3]):
        assert sorted(part.get_chemical_formula() for part in fragments(drawn)).count("H2O") == 3
    assert not np.allclose(found[0].get_all_distances(), found[3].get_all_distances())
    assert {atoms.info["charge"] for atoms in found} == {0}
    assert min(map(contact, found)) >= 0.5


def test_a_single_molecule_is_packed_from_its_atoms(foundation, tmp_path):
    found = RandomSearch(structures=2, relax_steps=2).explore(
        scene(foundation, [molecule("CH3Cl")], tmp_path)
    )
    assert {atoms.get_chemical_formula() for atoms in found} == {"CH3Cl"}
    assert len(fragments(found[0])) > 1 or not np.allclose(
        found[0].get_all_distances(), molecule("CH3Cl").get_all_distances(), atol=0.1
    )


def test_crystals_have_random_cells_of_the_starts_composition(foundation, tmp_path):
    start = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    found = RandomSearch(structures=4, relax_steps=4, most_atoms=6).explore(
        scene(foundation, [start], tmp_path)
    )
    sizes = {len(atoms) for atoms in found}
    assert sizes <= {2, 4, 6}
    assert len(sizes) > 1
    for atoms in found:
        assert atoms.pbc.all()
        assert (atoms.numbers == 11).sum() == len(atoms) / 2
    volumes = [atoms.get_volume() for atoms in found if atoms.info["walker"] == found[0].info["walker"]]
    assert len(set(volumes)) == len(volumes)
