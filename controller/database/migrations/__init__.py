"""Alembic's migrations; they run when the controller starts (`database.Database.open`)."""
