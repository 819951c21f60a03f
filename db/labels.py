"""Labels on record: which structures a dataset holds, what their labels say, and how these were made.

A structure has one label at each level of theory, whatever datasets it is in.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Protocol

from sqlalchemy import ARRAY, func, literal, or_, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from db.artifacts import titled
from db.canonical import JSON, canonical, plain
from db.errors import ConflictingMetadata, ProvenanceError, UnknownArtifact
from db.retractions import tainted_in
from db.session import insert_new, session
from db.tables import ArtifactRow, Base, CalculationRow, DatasetRow, LabelRow, StructureRow, UsedRow

BATCH = 1000


class ConflictingLabels(ProvenanceError):
    """One structure has two different labels at one level of theory."""


class Entry(Protocol):
    """A labelled structure.

    Attributes:
        structure: sha256 of its content, hex.
        energy: total, eV.
        forces: a number that two labels differ in if their forces (eV/Å) do.
        stress: likewise (eV/Å³); None where there is none.
    """

    @property
    def structure(self) -> str: ...
    @property
    def n_atoms(self) -> int: ...
    @property
    def formula(self) -> str: ...
    @property
    def energy(self) -> float: ...
    @property
    def forces(self) -> float: ...
    @property
    def stress(self) -> float | None: ...


@dataclass(frozen=True, kw_only=True)
class Calculation:
    """How labels were made.

    Attributes:
        level_of_theory: None where it is unknown; such labels are compared with no others.
        calculator: the program, or the name of the model; empty where it is unknown.
        settings: what else decided the result.
        model_id: the artifact of the model that made them, if it was no reference calculator.
    """

    level_of_theory: str | None
    calculator: str = ""
    version: str = ""
    settings: Mapping[str, JSON] = field(default_factory=dict)
    model_id: str | None = None

    @classmethod
    def of(cls, row: CalculationRow) -> "Calculation":
        """The calculation of a row."""
        return cls(**{name: getattr(row, name) for name in cls.__dataclass_fields__})

    def __str__(self) -> str:
        return f"{self.level_of_theory or 'an unknown level'} by {self.program or 'an unknown calculator'}"

    @property
    def program(self) -> str:
        """Calculator, version and settings as far as they are known."""
        settings = (f"{name}={value}" for name, value in self.settings.items())
        return " ".join(filter(None, [self.calculator, self.version, *settings]))


def record(artifact_id: str, calculation: Calculation, entries: Iterable[Entry], *, tolerance: float) -> None:
    """Put the structures and labels of a dataset on record. What is there already is not entered again.

    Entries are read only if they are needed, and held in small batches. A kill leaves a dataset that counts
    for nothing until this is called again. A calculator that was unknown may be said later.

    Raises:
        UnknownArtifact: no artifact has this full id.
        ConflictingMetadata: the dataset is on record with another calculation.
        ConflictingLabels: another dataset at this level of theory has another label for one of its
            structures: energies differ by more than ``tolerance`` (eV) per atom, or forces (eV/Å) or stress
            (eV/Å³). Labels by models do not count, nor does what is retracted.
    """
    with session() as s:
        dataset = _dataset(s, artifact_id, calculation)
        if dataset.n_frames is not None:
            _refuse_conflicts(s, dataset, tolerance)
            return
    n_frames, remaining = 0, iter(entries)
    while batch := list(islice(remaining, BATCH)):
        with session() as s:  # short, so that nobody waits long
            _enter(s, dataset.id, batch)
        n_frames += len(batch)
    with session() as s:
        if s.get_bind().dialect.name == "postgresql":  # of two that contradict each other, one comes second
            s.execute(text("LOCK TABLE dataset IN SHARE ROW EXCLUSIVE MODE"))
        dataset = s.get_one(DatasetRow, dataset.id)
        dataset.n_frames = n_frames
        _refuse_conflicts(s, dataset, tolerance)


def _dataset(s: Session, artifact_id: str, calculation: Calculation) -> DatasetRow:
    """The row of a dataset, new or with what is now known of its calculation."""
    artifact = s.get(ArtifactRow, artifact_id)
    if artifact is None:
        raise UnknownArtifact(f"no artifact has the id '{artifact_id}'")
    said = asdict(calculation) | {"settings": plain(calculation.settings, "settings")}
    digest = hashlib.sha256(canonical(said, "calculation").encode()).hexdigest()
    insert_new(s, CalculationRow, digest=digest, **said)
    calculation_id = s.execute(select(CalculationRow.id).filter_by(digest=digest)).scalar_one()
    insert_new(s, DatasetRow, artifact_id=artifact_id, calculation_id=calculation_id)
    row = s.execute(select(DatasetRow).filter_by(artifact_id=artifact_id).with_for_update()).scalar_one()
    if row.calculation_id != calculation_id:
        known = Calculation.of(s.get_one(CalculationRow, row.calculation_id))
        unknown = Calculation(level_of_theory=calculation.level_of_theory)
        if known == unknown:
            row.calculation_id = calculation_id
        elif calculation != unknown or known.level_of_theory != calculation.level_of_theory:
            raise ConflictingMetadata(
                f"{titled(artifact)}: its labels are on record as "
                f"{known}, now they are said to be {calculation}; correct the one that is wrong"
            )
    return row


def _enter(s: Session, dataset_id: int, batch: Sequence[Entry]) -> None:
    """Enter structures and labels that are not on record."""
    by_hash = {bytes.fromhex(entry.structure): entry for entry in reversed(batch)}
    order = sorted(by_hash)  # the same for all who write, so that none waits for one that waits for it
    structures = [
        {"hash": hash_, "n_atoms": by_hash[hash_].n_atoms, "formula": by_hash[hash_].formula}
        for hash_ in order
    ]
    _insert_many(s, StructureRow, structures)
    known = select(StructureRow.hash, StructureRow.id).where(StructureRow.hash.in_(order))
    ids = dict(s.execute(known).tuples().all())
    labels = [
        {
            "dataset_id": dataset_id,
            "structure_id": ids[hash_],
            "energy": entry.energy,
            "forces": entry.forces,
            "stress": entry.stress,
        }
        for hash_, entry in sorted(by_hash.items())
    ]
    _insert_many(s, LabelRow, labels)


def _insert_many(s: Session, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows that are not there."""
    if s.get_bind().dialect.name == "postgresql":
        # A few arrays: row by row it takes several times as long.
        columns = [table.__table__.c[name] for name in rows[0]]
        arrays = [literal([row[c.name] for row in rows], ARRAY(c.type)) for c in columns]
        given = select(*map(func.unnest, arrays))
        s.execute(postgresql.insert(table).from_select(columns, given).on_conflict_do_nothing())
    else:
        s.connection().execute(sqlite.insert(table).on_conflict_do_nothing(), rows)


def _refuse_conflicts(s: Session, dataset: DatasetRow, tolerance: float) -> None:
    """Raise ConflictingLabels if another dataset has another label for a structure of this one."""
    calculation = s.get_one(CalculationRow, dataset.calculation_id)
    level = calculation.level_of_theory
    if level is None or calculation.model_id is not None or tainted_in(s, dataset.artifact_id):
        return
    comparable = (
        select(DatasetRow.id)
        .join(CalculationRow, CalculationRow.id == DatasetRow.calculation_id)
        .where(DatasetRow.id != dataset.id, DatasetRow.n_frames.is_not(None))
        .where(CalculationRow.level_of_theory == level, CalculationRow.model_id.is_(None))
    )
    others = s.scalars(comparable).all()
    if not others:
        return
    mine, other = aliased(LabelRow), aliased(LabelRow)
    contradiction = or_(
        func.abs(mine.energy - other.energy) > tolerance * StructureRow.n_atoms,
        func.abs(mine.forces - other.forces) > tolerance,
        func.abs(mine.stress - other.stress) > tolerance,
    )
    found = (
        select(other.dataset_id, func.min(other.structure_id), func.count())
        .join(mine, mine.structure_id == other.structure_id)
        .join(StructureRow, StructureRow.id == other.structure_id)
        .where(mine.dataset_id == dataset.id, other.dataset_id.in_(others), contradiction)
        .group_by(other.dataset_id)
        .order_by(other.dataset_id)
    )
    for other_id, structure_id, n_structures in s.execute(found).tuples():
        against = s.get_one(DatasetRow, other_id)
        if tainted_in(s, against.artifact_id) is None:
            raise ConflictingLabels(_conflict(s, [against, dataset], structure_id, n_structures))


def _conflict(s: Session, datasets: Sequence[DatasetRow], structure_id: int, n_structures: int) -> str:
    """What two datasets say of one structure, and what to do."""
    structure = s.get_one(StructureRow, structure_id)
    said, sources = [], []
    for dataset in datasets:
        artifact = s.get_one(ArtifactRow, dataset.artifact_id)
        energy = s.get_one(LabelRow, (dataset.id, structure_id)).energy
        said.append(f"{energy:.6f} eV in {titled(artifact)}")
        read = s.scalars(select(UsedRow.artifact_id).where(UsedRow.step_key == artifact.step_key)).all()
        sources.append(read[0] if len(read) == 1 else artifact.id)
    if sources[0] == sources[1]:
        sources = [dataset.artifact_id for dataset in datasets]
    level = s.get_one(CalculationRow, datasets[0].calculation_id).level_of_theory
    more = f", and so have {n_structures - 1} more structures" if n_structures > 1 else ""
    return (
        f"structure {structure.hash.hex()[:12]} ({structure.formula}) has two labels at {level} that differ "
        f"in energy, forces or stress: {said[0]} and {said[1]}{more}. Retract the one that is wrong: "
        f"temper retract {sources[0][:12]} or {sources[1][:12]}, with --reason"
    )
