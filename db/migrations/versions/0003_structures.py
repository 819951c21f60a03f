"""Structures, and labels with the calculations that made them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables; they are filled as datasets are used."""
    op.create_table(
        "structure",
        sa.Column("id", BIG, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("n_atoms", sa.Integer(), nullable=False),
        sa.Column("formula", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_structure"),
        sa.UniqueConstraint("hash", name="uq_structure_hash"),
    )
    op.create_table(
        "calculation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("level_of_theory", sa.String()),
        sa.Column("calculator", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("model_id", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name="pk_calculation"),
        sa.UniqueConstraint("digest", name="uq_calculation_digest"),
        sa.ForeignKeyConstraint(
            ["model_id"], ["artifact.id"], name="fk_calculation_model_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_calculation_model_id", "calculation", ["model_id"])
    op.create_table(
        "dataset",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("artifact_id", sa.String(64), nullable=False),
        sa.Column("calculation_id", sa.Integer(), nullable=False),
        sa.Column("n_frames", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="pk_dataset"),
        sa.UniqueConstraint("artifact_id", name="uq_dataset_artifact_id"),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifact.id"], name="fk_dataset_artifact_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["calculation_id"], ["calculation.id"], name="fk_dataset_calculation_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_dataset_calculation_id", "dataset", ["calculation_id"])
    op.create_table(
        "label",
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("structure_id", BIG, nullable=False),
        sa.Column("energy", sa.Float(), nullable=False),
        sa.Column("forces", sa.Float(), nullable=False),
        sa.Column("stress", sa.Float()),
        sa.PrimaryKeyConstraint("dataset_id", "structure_id", name="pk_label"),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dataset.id"], name="fk_label_dataset_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["structure_id"], ["structure.id"], name="fk_label_structure_id"),
    )
    op.create_index("ix_label_structure_id", "label", ["structure_id"])


def downgrade() -> None:
    """Drop the tables: what is inside datasets is then known from their files alone."""
    for table in ("label", "dataset", "calculation", "structure"):
        op.drop_table(table)
