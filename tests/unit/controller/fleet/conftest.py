from __future__ import annotations

import pytest

from controller.database.database import Database, sqlite_url


@pytest.fixture
def database(tmp_path):
    opened = Database.open(sqlite_url(tmp_path / "state.db"))
    yield opened
    opened.close()
