"""Run migrations on the connection that `database.Database.open` hands over."""

from __future__ import annotations

from alembic import context

from controller.database.schema import Base

if __name__ == "env_py":  # the name under which Alembic runs this file; importing it does nothing
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite alters tables by copying them
    )
    with context.begin_transaction():
        context.run_migrations()
