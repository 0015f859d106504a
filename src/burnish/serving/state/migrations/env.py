"""Runs the migrations on the connection that `Database` hands over, in its transaction."""

from alembic import context

from burnish.serving.state.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
