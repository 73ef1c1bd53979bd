"""The controller's state: SQLAlchemy models, migrations, and how to reach them."""
