"""What devices say of variants that were published as unproven."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from controller.database.schema import UtcDateTime

__all__ = ["downgrade", "upgrade"]

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "variant_proofs",
        sa.Column("manifest_sha256", sa.String(length=64), nullable=False),
        sa.Column("variant", sa.String(length=64), nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=64), nullable=False),
        sa.Column("device_class", sa.String(length=32), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("latency_ms", sa.Double(), nullable=True),
        sa.Column("fp32_latency_ms", sa.Double(), nullable=True),
        sa.Column("first_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_variant_proofs_device_id")),
        sa.PrimaryKeyConstraint("manifest_sha256", "variant", "device_id", name=op.f("pk_variant_proofs")),
    )
    op.create_index(op.f("ix_variant_proofs_device_id"), "variant_proofs", ["device_id"], unique=False)


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("variant_proofs")
