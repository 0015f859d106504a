"""Files and uploads are of the project whose key brought them, as jobs are."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for table in ("files", "uploads"):
        op.add_column(table, sa.Column("project", sa.String(length=64), nullable=True))
    for table in ("files", "jobs"):
        op.create_index(f"ix_{table}_project_seq", table, ["project", "seq"])
