"""The tables, in the shape of W3C PROV: artifact (entity), step (activity), used and generated (edges).

Beside them what is inside datasets: structures, and labels with the calculations that made them.

Source: W3C, *PROV-DM: The PROV Data Model*, 2013.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Utc(TypeDecorator[datetime]):
    """Timezone-aware UTC on every database; SQLite keeps no zone, so it is added back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"timestamp {value} has no time zone")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and (value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC))


class Base(DeclarativeBase):
    """Declarative base; constraints are named so that migrations can refer to them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
        }
    )
    type_annotation_map = {datetime: Utc, dict[str, Any]: JSON}  # noqa: RUF012 (read by SQLAlchemy)


class StepRow(Base):
    """A computation: memo, lock and provenance record at once."""

    __tablename__ = "step"
    __table_args__ = (CheckConstraint("status IN ('running', 'done', 'failed')", name="status"),)

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str]
    version: Mapped[int]
    parameters: Mapped[dict[str, Any]]
    seed: Mapped[int | None] = mapped_column(BigInteger)
    status: Mapped[str]
    error: Mapped[str | None] = mapped_column(Text)
    attempt: Mapped[int]
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    seconds: Mapped[float | None]
    software: Mapped[dict[str, Any]]
    host: Mapped[str]
    user: Mapped[str]
    flow_run_id: Mapped[str | None]


class ArtifactRow(Base):
    """A file that never changes, known by the sha256 of its bytes.

    ``step_key`` is the step that made these bytes first (none: imported). A later step may happen to make
    the same bytes (a filter that drops nothing); following only first makers keeps lineage free of cycles.
    """

    __tablename__ = "artifact"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    suffix: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    step_key: Mapped[str | None] = mapped_column(ForeignKey("step.key"), index=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str]


class UsedRow(Base):
    """A step read an artifact. ``position`` orders the artifacts of one role."""

    __tablename__ = "used"

    step_key: Mapped[str] = mapped_column(ForeignKey("step.key"), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifact.id"), index=True)


class GeneratedRow(Base):
    """An artifact is the present output of a step in a role."""

    __tablename__ = "generated"

    step_key: Mapped[str] = mapped_column(ForeignKey("step.key"), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifact.id"), index=True)


class AliasRow(Base):
    """A name such as ``nacl@champion`` and the artifact it stands for now."""

    __tablename__ = "alias"

    name: Mapped[str] = mapped_column(primary_key=True)
    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifact.id"), index=True)
    set_at: Mapped[datetime]
    set_by: Mapped[str]
    step_key: Mapped[str | None] = mapped_column(ForeignKey("step.key"))
    reason: Mapped[str] = mapped_column(Text)


class AliasEventRow(Base):
    """One change of an alias. Rows are only ever added."""

    __tablename__ = "alias_event"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifact.id"))
    set_at: Mapped[datetime]
    set_by: Mapped[str]
    step_key: Mapped[str | None] = mapped_column(ForeignKey("step.key"))
    reason: Mapped[str] = mapped_column(Text)


class RetractionEventRow(Base):
    """An artifact was retracted, or reinstated; the last event counts. Rows are only ever added."""

    __tablename__ = "retraction_event"
    __table_args__ = (CheckConstraint("event IN ('retracted', 'reinstated')", name="event"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifact.id"), index=True)
    event: Mapped[str]
    at: Mapped[datetime]
    by: Mapped[str]
    reason: Mapped[str] = mapped_column(Text)


class StructureRow(Base):
    """Atoms and cell, known by the sha256 of them (see ``db.labels``)."""

    __tablename__ = "structure"

    # SQLite counts up a primary key only if its type is INTEGER, which has 64 bits there.
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    n_atoms: Mapped[int]
    formula: Mapped[str]


class CalculationRow(Base):
    """How labels were made: by a reference calculator, or by a model that is on record."""

    __tablename__ = "calculation"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    level_of_theory: Mapped[str | None]
    calculator: Mapped[str]
    version: Mapped[str]
    settings: Mapped[dict[str, Any]]
    model_id: Mapped[str | None] = mapped_column(ForeignKey("artifact.id", ondelete="CASCADE"), index=True)


class DatasetRow(Base):
    """An artifact whose structures and labels are on record, or being entered (then without ``n_frames``).

    It is an index over the artifact's file: it goes when the artifact goes, and can be made again.
    """

    __tablename__ = "dataset"

    id: Mapped[int] = mapped_column(primary_key=True)
    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifact.id", ondelete="CASCADE"), unique=True)
    calculation_id: Mapped[int] = mapped_column(ForeignKey("calculation.id", ondelete="CASCADE"), index=True)
    n_frames: Mapped[int | None]


class LabelRow(Base):
    """The label of a structure in a dataset. ``forces`` and ``stress`` are one number each to compare by."""

    __tablename__ = "label"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id", ondelete="CASCADE"), primary_key=True)
    structure_id: Mapped[int] = mapped_column(ForeignKey("structure.id"), primary_key=True, index=True)
    energy: Mapped[float]
    forces: Mapped[float]
    stress: Mapped[float | None]
