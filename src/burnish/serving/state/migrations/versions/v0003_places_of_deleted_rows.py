"""A page may begin after a row that was deleted since its id was shown."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "deleted",
        sa.Column("id", sa.String(length=64), primary_key=True),
        sa.Column("table", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
    )
