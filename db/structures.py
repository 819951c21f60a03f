"""Structures on record: where each is used, what its labels say, and which datasets share them.

They come on record with the labels of datasets, see ``db.labels``.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import aliased

from db.artifacts import CANDIDATES_SHOWN, SHORTEST_PREFIX, Artifact, titled
from db.errors import ProvenanceError, UnknownArtifact
from db.labels import Calculation
from db.session import session
from db.tables import (
    ArtifactRow,
    CalculationRow,
    DatasetRow,
    GeneratedRow,
    LabelRow,
    StepRow,
    StructureRow,
)


class UnknownStructure(ProvenanceError):
    """No structure has this hash, or its digits fit several."""


class OverlappingDatasets(ProvenanceError):
    """A structure that is trained on is tested on too."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """What one dataset says of a structure.

    Attributes:
        energy: total, eV.
        dataset: where it is.
        step: the kind of the step that made the dataset; None if it was imported.
        role: the dataset's role among what that step made.
    """

    energy: float
    calculation: Calculation
    dataset: Artifact
    step: str | None
    role: str | None


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Atoms and cell, known by their hash (hex), with all their labels, oldest dataset first."""

    hash: str
    n_atoms: int
    formula: str
    labels: Sequence[Label]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is inside an artifact.

    Attributes:
        n_frames: how many frames it has; more than ``n_structures`` if some come again with the same label.
        n_atoms: of all structures together.
        shared: datasets that have structures in common with it, and how many.
    """

    artifact: Artifact
    calculation: Calculation
    n_frames: int
    n_structures: int
    n_atoms: int
    shared: Sequence[tuple[Artifact, int]]


def find(digits: str) -> Structure:
    """The structure whose hash begins with these hex digits (6 or more).

    Raises:
        UnknownStructure: there is none, or there are several, which are listed.
    """
    if not re.fullmatch(f"[0-9a-f]{{{SHORTEST_PREFIX},64}}", digits):
        raise UnknownStructure(
            f"'{digits}' is not {SHORTEST_PREFIX} or more hex digits of a structure's hash"
        )
    lowest, highest = bytes.fromhex(digits.ljust(64, "0")), bytes.fromhex(digits.ljust(64, "f"))
    fitting = select(StructureRow).where(StructureRow.hash.between(lowest, highest))
    with session(read_only=True) as s:
        rows = s.scalars(fitting.order_by(StructureRow.hash).limit(CANDIDATES_SHOWN + 1)).all()
        if not rows:
            raise UnknownStructure(f"no structure has a hash that starts with '{digits}'")
        if len(rows) > 1:
            shown = ", ".join(f"{row.hash.hex()[:16]} ({row.formula})" for row in rows[:CANDIDATES_SHOWN])
            more = ", …" if len(rows) > CANDIDATES_SHOWN else ""
            raise UnknownStructure(f"'{digits}' fits several structures, give more digits: {shown}{more}")
        labels = (
            select(LabelRow.energy, CalculationRow, ArtifactRow, StepRow.kind, GeneratedRow.role)
            .join(DatasetRow, DatasetRow.id == LabelRow.dataset_id)
            .join(CalculationRow, CalculationRow.id == DatasetRow.calculation_id)
            .join(ArtifactRow, ArtifactRow.id == DatasetRow.artifact_id)
            .outerjoin(StepRow, StepRow.key == ArtifactRow.step_key)
            .outerjoin(
                GeneratedRow,
                (GeneratedRow.step_key == ArtifactRow.step_key)
                & (GeneratedRow.artifact_id == ArtifactRow.id),
            )
            .where(LabelRow.structure_id == rows[0].id, DatasetRow.n_frames.is_not(None))
            .order_by(DatasetRow.id)
        )
        return Structure(
            hash=rows[0].hash.hex(),
            n_atoms=rows[0].n_atoms,
            formula=rows[0].formula,
            labels=[
                Label(
                    energy=energy,
                    calculation=Calculation.of(calculation),
                    dataset=Artifact.of(artifact),
                    step=step,
                    role=role,
                )
                for energy, calculation, artifact, step, role in s.execute(labels).tuples()
            ],
        )


def inside(artifact_id: str) -> Dataset:
    """What is inside a dataset.

    Raises:
        UnknownArtifact: no artifact with this full id has its structures on record.
    """
    mine, other = aliased(LabelRow), aliased(LabelRow)
    with session(read_only=True) as s:
        rows = s.execute(
            select(DatasetRow, CalculationRow, ArtifactRow)
            .join(CalculationRow, CalculationRow.id == DatasetRow.calculation_id)
            .join(ArtifactRow, ArtifactRow.id == DatasetRow.artifact_id)
            .where(DatasetRow.artifact_id == artifact_id, DatasetRow.n_frames.is_not(None))
        )
        row = rows.tuples().first()
        if row is None:
            raise UnknownArtifact(_not_on_record(artifact_id))
        dataset, calculation, artifact = row
        n_structures, n_atoms = s.execute(
            select(func.count(), func.coalesce(func.sum(StructureRow.n_atoms), 0))
            .join(LabelRow, LabelRow.structure_id == StructureRow.id)
            .where(LabelRow.dataset_id == dataset.id)
        ).one()
        counts = (
            select(other.dataset_id, func.count().label("n"))
            .join(mine, mine.structure_id == other.structure_id)
            .where(mine.dataset_id == dataset.id, other.dataset_id != dataset.id)
            .group_by(other.dataset_id)
            .subquery()
        )
        shared = (
            select(ArtifactRow, counts.c.n)
            .join(DatasetRow, DatasetRow.artifact_id == ArtifactRow.id)
            .join(counts, counts.c.dataset_id == DatasetRow.id)
            .where(DatasetRow.n_frames.is_not(None))
            .order_by(DatasetRow.id)
        )
        return Dataset(
            artifact=Artifact.of(artifact),
            calculation=Calculation.of(calculation),
            n_frames=dataset.n_frames or 0,
            n_structures=n_structures,
            n_atoms=n_atoms,
            shared=[(Artifact.of(other_artifact), n) for other_artifact, n in s.execute(shared).tuples()],
        )


def check_disjoint(train: Iterable[str], test: Iterable[str]) -> None:
    """Refuse datasets to train on that share a structure with datasets to test on.

    Raises:
        UnknownArtifact: one is no full id of a dataset whose structures are on record.
        OverlappingDatasets: names one structure and both datasets.
    """
    trained, tested = set(train), set(test)
    one, two = aliased(LabelRow), aliased(LabelRow)
    with session(read_only=True) as s:
        query = select(DatasetRow.artifact_id, DatasetRow.id).where(
            DatasetRow.artifact_id.in_(trained | tested), DatasetRow.n_frames.is_not(None)
        )
        ids = dict(s.execute(query).tuples().all())
        for artifact_id in sorted((trained | tested) - ids.keys()):
            raise UnknownArtifact(_not_on_record(artifact_id))
        both = (
            select(one.dataset_id, two.dataset_id, one.structure_id)
            .join(two, two.structure_id == one.structure_id)
            .where(one.dataset_id.in_([ids[artifact_id] for artifact_id in trained]))
            .where(two.dataset_id.in_([ids[artifact_id] for artifact_id in tested]))
            .limit(1)
        )
        found = s.execute(both).tuples().first()
        if found is None:
            return
        names = []
        for dataset_id in found[:2]:
            artifact = s.get_one(ArtifactRow, s.get_one(DatasetRow, dataset_id).artifact_id)
            names.append(titled(artifact))
        structure = s.get_one(StructureRow, found[2])
        raise OverlappingDatasets(
            f"structure {structure.hash.hex()[:12]} ({structure.formula}) is trained on in {names[0]} and "
            f"tested on in {names[1]}; remove it from one of them"
        )


def _not_on_record(artifact_id: str) -> str:
    return (
        f"the structures of '{artifact_id[:12]}' are not on record: it is no dataset, or no campaign used it"
    )
