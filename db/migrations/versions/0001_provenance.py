"""Artifacts, steps, the edges between them, aliases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "step",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger()),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String()),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("seconds", sa.Float()),
        sa.Column("software", sa.JSON(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("flow_run_id", sa.String()),
        sa.PrimaryKeyConstraint("key", name="pk_step"),
        sa.CheckConstraint("status IN ('running', 'done', 'failed')", name="ck_step_status"),
    )
    op.create_table(
        "artifact",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("suffix", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("step_key", sa.String(64)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_artifact"),
        sa.ForeignKeyConstraint(["step_key"], ["step.key"], name="fk_artifact_step_key"),
    )
    op.create_index("ix_artifact_step_key", "artifact", ["step_key"])
    op.create_table(
        "used",
        sa.Column("step_key", sa.String(64), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("artifact_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("step_key", "role", "position", name="pk_used"),
        sa.ForeignKeyConstraint(["step_key"], ["step.key"], name="fk_used_step_key"),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifact.id"], name="fk_used_artifact_id"),
    )
    op.create_index("ix_used_artifact_id", "used", ["artifact_id"])
    op.create_table(
        "generated",
        sa.Column("step_key", sa.String(64), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("artifact_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("step_key", "role", name="pk_generated"),
        sa.ForeignKeyConstraint(["step_key"], ["step.key"], name="fk_generated_step_key"),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifact.id"], name="fk_generated_artifact_id"),
    )
    op.create_index("ix_generated_artifact_id", "generated", ["artifact_id"])
    op.create_table(
        "alias",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("artifact_id", sa.String(64), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.String(), nullable=False),
        sa.Column("step_key", sa.String(64)),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_alias"),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifact.id"], name="fk_alias_artifact_id"),
        sa.ForeignKeyConstraint(["step_key"], ["step.key"], name="fk_alias_step_key"),
    )
    op.create_index("ix_alias_artifact_id", "alias", ["artifact_id"])
    op.create_table(
        "alias_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("artifact_id", sa.String(64), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.String(), nullable=False),
        sa.Column("step_key", sa.String(64)),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_alias_event"),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifact.id"], name="fk_alias_event_artifact_id"),
        sa.ForeignKeyConstraint(["step_key"], ["step.key"], name="fk_alias_event_step_key"),
    )
    op.create_index("ix_alias_event_name", "alias_event", ["name"])


def downgrade() -> None:
    """Drop the tables, and with them every record."""
    for table in ("alias_event", "alias", "generated", "used", "artifact", "step"):
        op.drop_table(table)
