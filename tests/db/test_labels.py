import hashlib
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from db import aliases, garbage, labels, retractions
from db.artifacts import Artifact
from db.errors import ConflictingMetadata, UnknownArtifact
from db.labels import Calculation, ConflictingLabels
from db.session import session
from db.structures import find, inside
from db.tables import CalculationRow, DatasetRow, LabelRow, StructureRow

Import = Callable[..., Artifact]
GFN2 = Calculation(
    level_of_theory="GFN2-xTB", calculator="tblite", version="0.8.0", settings={"accuracy": 0.1}
)
UNSAID = Calculation(level_of_theory="GFN2-xTB")


@dataclass(frozen=True)
class Water:
    """A labelled structure; its number is all that tells it from others."""

    number: int
    energy: float = -14.0
    forces: float = 0.5
    stress: float | None = None
    n_atoms: int = 3
    formula: str = "H2O"

    @property
    def structure(self) -> str:
        return hashlib.sha256(str(self.number).encode()).hexdigest()


def record(artifact: Artifact, *entries: Water, made: Calculation = GFN2) -> None:
    labels.record(artifact.id, made, entries, tolerance=1e-4)


def counted(*tables: type) -> list[int]:
    with session(read_only=True) as s:
        return [s.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]


def test_a_label_says_how_it_was_made(imported: Import) -> None:
    dataset = imported("train")
    record(dataset, Water(1), Water(2, energy=-13.0, stress=0.1))
    structure = find(Water(2).structure)
    assert (structure.n_atoms, structure.formula) == (3, "H2O")
    (label,) = structure.labels
    assert (label.energy, label.calculation, label.dataset) == (-13.0, GFN2, dataset)
    assert (label.step, label.role) == (None, None)
    assert str(label.calculation) == "GFN2-xTB by tblite 0.8.0 accuracy=0.1"
    assert str(Calculation(level_of_theory=None)) == "an unknown level by an unknown calculator"


def test_recorded_again_nothing_is_read(imported: Import) -> None:
    def never() -> Iterator[Water]:
        raise AssertionError("the dataset was read again")
        yield

    dataset = imported("train")
    record(dataset, *map(Water, range(2500)))  # more than two batches
    before = counted(StructureRow, LabelRow, DatasetRow, CalculationRow)
    labels.record(dataset.id, GFN2, never(), tolerance=1e-4)
    assert before == counted(StructureRow, LabelRow, DatasetRow, CalculationRow) == [2500, 2500, 1, 1]


def test_a_structure_that_comes_again_with_its_label_is_one(imported: Import) -> None:
    dataset = imported("train")
    record(dataset, Water(1), Water(2), Water(1))
    assert (inside(dataset.id).n_frames, inside(dataset.id).n_structures) == (3, 2)


def test_what_was_cut_off_counts_for_nothing_until_it_is_done(imported: Import) -> None:
    def cut_off() -> Iterator[Water]:
        yield from map(Water, range(labels.BATCH))
        yield Water(-1, energy=0.0)
        raise KeyboardInterrupt

    half, other = imported("half", "half"), imported("other", "other")
    with pytest.raises(KeyboardInterrupt):
        labels.record(half.id, GFN2, cut_off(), tolerance=1e-4)
    assert counted(LabelRow) == [labels.BATCH]
    assert find(Water(0).structure).labels == []
    with pytest.raises(UnknownArtifact, match=r"the structures of '.{12}' are not on record"):
        inside(half.id)
    record(other, Water(0, energy=-1.0))
    with pytest.raises(ConflictingLabels):
        record(half, *map(Water, range(labels.BATCH)), Water(-1))
    retractions.retract(other.id, "wrong functional")
    record(half, *map(Water, range(labels.BATCH)), Water(-1))
    assert inside(half.id).n_frames == labels.BATCH + 1


KILLED = """
import sys, time
from collections import namedtuple
from db import labels
Water = namedtuple("Water", "structure n_atoms formula energy forces stress")
def entries():
    for number in range(labels.BATCH + 1):
        yield Water(f"{number:064x}", 3, "H2O", -14.0, 0.5, None)
    print("one batch is in", flush=True)
    time.sleep(600)
labels.record(sys.argv[1], labels.Calculation(level_of_theory="GFN2-xTB"), entries(), tolerance=1e-4)
"""


def test_a_kill_leaves_nothing_that_counts(
    imported: Import, process: Callable[..., subprocess.Popen[str]]
) -> None:
    dataset, other = imported("half", "half"), imported("other", "other")
    child = process(KILLED, dataset.id)
    assert child.stdout is not None
    assert child.stdout.readline() == "one batch is in\n"
    child.kill()
    child.wait()
    assert counted(StructureRow, LabelRow) == [labels.BATCH, labels.BATCH]
    assert find(f"{1:064x}").labels == []
    record(other, Water(1))
    record(dataset, *map(Water, range(5)), made=UNSAID)
    assert inside(other.id).shared == [(dataset, 1)]


@pytest.mark.parametrize(
    "other",
    [
        Water(7, energy=-14.0 + 1e-3),
        Water(7, forces=0.6),
        Water(7, stress=0.2),
    ],
)
def test_another_label_at_the_same_level_is_refused(imported: Import, other: Water) -> None:
    first, second = imported("first", "train [a]"), imported("second", "more")
    mine = Water(7, stress=0.1)
    record(first, Water(1), mine, Water(2))
    with pytest.raises(ConflictingLabels) as refused:
        record(second, Water(3), other, made=UNSAID)
    said = str(refused.value)
    assert f"structure {mine.structure[:12]} (H2O) has two labels at GFN2-xTB" in said
    assert f"{mine.energy:.6f} eV in dataset 'train [a]' ({first.id[:12]})" in said
    assert f"{other.energy:.6f} eV in dataset 'more' ({second.id[:12]})" in said
    assert f"temper retract {first.id[:12]} or {second.id[:12]}" in said
    with pytest.raises(ConflictingLabels):  # and again, until one is retracted
        record(second, Water(3), other, made=UNSAID)
    retractions.retract(first.id, "SCF not converged")
    record(second, Water(3), other, made=UNSAID)
    retractions.reinstate(first.id)
    for dataset, entry in ((first, mine), (second, other)):
        with pytest.raises(ConflictingLabels):
            record(dataset, entry)


def test_what_is_made_again_from_the_same_labels_is_retracted_with_them(
    imported: Import, made: Callable[..., str]
) -> None:
    old, new = imported("old", "old"), imported("new", "new")
    parts = [made("old part", {"labels": old.id}), made("new part", {"labels": new.id})]
    labels.record(parts[0], GFN2, [Water(1), Water(2), Water(3)], tolerance=1e-4)
    others = [Water(number, energy=-15.0) for number in (1, 2, 3)]
    with pytest.raises(
        ConflictingLabels, match=f"and so have 2 more.*retract {old.id[:12]} or {new.id[:12]}"
    ):
        labels.record(parts[1], GFN2, others, tolerance=1e-4)
    retractions.retract(old.id, "wrong units")
    labels.record(parts[1], GFN2, others, tolerance=1e-4)
    assert find(Water(1).structure).labels[0].step == "make old part"


def test_labels_that_cannot_be_compared_do_not_conflict(imported: Import) -> None:
    model = imported("model", "foundation")
    record(imported("a", "a"), Water(1))
    for number, made in enumerate(
        [
            Calculation(level_of_theory="PBE"),
            Calculation(level_of_theory="GFN2-xTB", calculator="foundation", model_id=model.id),
            Calculation(level_of_theory=None),
            Calculation(level_of_theory=None, calculator="unknown"),
        ]
    ):
        record(imported(f"{number}", f"{number}"), Water(1, energy=-1.0 - number), made=made)
    assert [label.energy for label in find(Water(1).structure).labels] == [-14.0, -1.0, -2.0, -3.0, -4.0]


def test_noise_and_a_stress_that_only_one_has_do_not_conflict(imported: Import) -> None:
    record(imported("a", "a"), Water(1, stress=0.1))
    record(imported("b", "b"), Water(1, energy=-14.00002, forces=0.50002))
    record(imported("c", "c"), Water(1, stress=0.10001))
    assert counted(StructureRow, LabelRow) == [1, 3]


def test_a_calculator_may_be_said_later_but_not_contradicted(imported: Import) -> None:
    dataset = imported("train")
    record(dataset, Water(1), made=UNSAID)
    record(dataset, made=GFN2)
    record(dataset, made=UNSAID)
    assert inside(dataset.id).calculation == GFN2
    for other in (replace(GFN2, version="0.7.0"), replace(UNSAID, level_of_theory="PBE")):
        with pytest.raises(
            ConflictingMetadata, match=r"GFN2-xTB by tblite 0\.8\.0 .* now they are said to be"
        ):
            record(dataset, made=other)


def test_labels_of_nothing_on_record(url: str) -> None:
    with pytest.raises(UnknownArtifact, match="no artifact has the id"):
        labels.record("0" * 64, GFN2, [Water(1)], tolerance=1e-4)


def test_many_at_once_enter_each_structure_once(imported: Import) -> None:
    datasets = [imported(f"part {number}", f"part {number}") for number in range(4)]

    def enter(number: int) -> None:
        entries = [Water((number % 2 or -1) * k) for k in range(-1500, 1500)]
        record(datasets[number % 4], *entries)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(8)))
    assert counted(StructureRow, LabelRow, DatasetRow) == [3001, 12000, 4]


def test_of_two_that_contradict_each_other_one_is_refused(imported: Import) -> None:
    datasets = [imported(f"{number}", f"{number}") for number in range(6)]

    def enter(number: int) -> str:
        try:
            record(datasets[number], Water(1, energy=-1.0 * number), Water(2))
        except ConflictingLabels as error:
            return str(error)
        return "entered"

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(enter, range(6)))[:1] == ["entered"]
    assert len(find(Water(1).structure).labels) == 1


def test_what_is_inside_a_dataset_keeps_nothing_and_goes_with_it(imported: Import) -> None:
    kept, lost, model = imported("kept"), imported("lost"), imported("model")
    aliases.promote("a@kept", kept.id, reason="in use")
    record(kept, Water(1))
    record(lost, Water(1), made=Calculation(level_of_theory="GFN2-xTB", calculator="m", model_id=model.id))
    found = garbage.find(unreachable=True, grace=timedelta(0))
    assert {artifact.id for artifact in found.artifacts} == {lost.id, model.id}
    garbage.remove(found)
    (label,) = find(Water(1).structure).labels
    assert label.dataset.id == kept.id
