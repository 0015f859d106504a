"""Whether the server requires keys no longer follows from the keys that are left."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    switches = op.create_table(
        "switches",
        sa.Column("name", sa.String(length=64), primary_key=True),
        sa.Column("is_on", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
    )
    # A server that ever had a key, revoked or not, is not meant for everybody on its machine.
    ever = op.get_bind().execute(sa.text("SELECT seq FROM keys LIMIT 1")).first() is not None
    row = {"name": "keys", "is_on": ever, "changed_at": int(time.time())}
    op.bulk_insert(switches, [row])
