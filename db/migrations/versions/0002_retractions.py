"""Retractions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "retraction_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("artifact_id", sa.String(64), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_retraction_event"),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifact.id"], name="fk_retraction_event_artifact_id"),
        sa.CheckConstraint("event IN ('retracted', 'reinstated')", name="ck_retraction_event_event"),
    )
    op.create_index("ix_retraction_event_artifact_id", "retraction_event", ["artifact_id"])


def downgrade() -> None:
    """Drop the table: what was retracted is then as good as anything else."""
    op.drop_table("retraction_event")
