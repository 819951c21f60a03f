import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from db import labels, structures
from db.artifacts import Artifact
from db.errors import UnknownArtifact
from db.labels import Calculation
from db.structures import OverlappingDatasets, UnknownStructure, check_disjoint, find, inside

Import = Callable[..., Artifact]
PBE = Calculation(level_of_theory="PBE", calculator="cp2k", version="2026.1")


@dataclass(frozen=True)
class Molecule:
    """A labelled structure; its number is all that tells it from others."""

    number: int
    n_atoms: int = 3
    formula: str = "H2O"
    energy: float = -14.0
    forces: float = 0.5
    stress: float | None = None

    @property
    def structure(self) -> str:
        return hashlib.sha256(str(self.number).encode()).hexdigest()


@pytest.fixture
def dataset(imported: Import) -> Callable[..., str]:
    """Put a dataset of structures with these numbers on record; its id."""

    def enter(name: str, *numbers: int) -> str:
        artifact = imported(name, name)
        labels.record(artifact.id, PBE, map(Molecule, numbers), tolerance=1e-4)
        return artifact.id

    return enter


def test_a_structure_knows_all_datasets_it_is_in(
    dataset: Callable[..., str], imported: Import, made: Callable[..., str]
) -> None:
    first = dataset("first", 1, 2)
    part = made("part", {"labels": first})
    model = imported("model", "small")
    by_model = Calculation(level_of_theory="GFN1-xTB", calculator="small", model_id=model.id)
    labels.record(part, by_model, [Molecule(2, energy=-13.5)], tolerance=1e-4)
    structure = find(Molecule(2).structure[:6])
    assert structure.hash == Molecule(2).structure
    one, two = structure.labels
    assert (one.dataset.id, one.calculation, one.energy, one.step, one.role) == (
        first,
        PBE,
        -14.0,
        None,
        None,
    )
    assert (two.dataset.id, two.calculation, two.step, two.role) == (part, by_model, "make part", "out")


def test_what_is_inside_a_dataset_and_what_it_shares(dataset: Callable[..., str]) -> None:
    ids = [dataset("a", 1, 2, 3, 2), dataset("b", 2, 3, 4), dataset("c", 5, 6), dataset("d", 3)]
    found = inside(ids[0])
    assert (found.artifact.id, found.calculation) == (ids[0], PBE)
    assert (found.n_frames, found.n_structures, found.n_atoms) == (4, 3, 9)
    assert [(other.id, n) for other, n in found.shared] == [(ids[1], 2), (ids[3], 1)]
    assert inside(ids[2]).shared == []


def test_an_empty_dataset_has_nothing_inside(dataset: Callable[..., str]) -> None:
    found = inside(dataset("empty"))
    assert (found.n_frames, found.n_structures, found.n_atoms, found.shared) == (0, 0, 0, [])


def test_digits_that_fit_no_structure_or_several(
    dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset("a", *range(300))
    with pytest.raises(UnknownStructure, match="no structure has a hash that starts with 'abcdef0'"):
        find("abcdef0")
    for digits in ("abc", "ABCDEF", "nacl@train"):
        with pytest.raises(UnknownStructure, match=f"'{digits}' is not 6 or more hex digits"):
            find(digits)
    monkeypatch.setattr(structures, "SHORTEST_PREFIX", 1)
    with pytest.raises(UnknownStructure, match=r"'a' fits several structures.*: (a\w{15} \(H2O\), ){5}…"):
        find("a")
    odd = Molecule(7).structure[:5]
    assert find(odd).hash == Molecule(7).structure


def test_what_is_trained_on_is_not_tested_on(dataset: Callable[..., str]) -> None:
    train, more, test, clean = dataset("a", 1, 2), dataset("b", 3), dataset("c", 4, 3), dataset("d", 5)
    check_disjoint([train, more], [clean])
    check_disjoint([train], [test])
    check_disjoint([], [test])
    with pytest.raises(OverlappingDatasets) as refused:
        check_disjoint([train, more], [clean, test])
    assert str(refused.value) == (
        f"structure {Molecule(3).structure[:12]} (H2O) is trained on in dataset 'b' ({more[:12]}) and tested "
        f"on in dataset 'c' ({test[:12]}); remove it from one of them"
    )
    with pytest.raises(OverlappingDatasets):
        check_disjoint([train], [train])


def test_what_is_not_on_record_is_not_taken_for_disjoint(
    dataset: Callable[..., str], imported: Import
) -> None:
    other = imported("other", "other").id
    for train, test in (([other], [dataset("a", 1)]), ([], [other])):
        with pytest.raises(UnknownArtifact, match=f"the structures of '{other[:12]}' are not on record"):
            check_disjoint(train, test)
    with pytest.raises(UnknownArtifact, match="are not on record"):
        inside(other)
