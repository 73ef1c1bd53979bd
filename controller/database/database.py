"""How the state is reached: one object, short transactions, never from the event loop's own thread.

Rules:
    * Opening brings the schema up to date; a database that a newer Vedette wrote is refused.
    * SQLite runs in WAL mode, and a writing transaction takes its lock at the start, so that two of
      them wait for one another instead of failing half-way.
    * Transactions are synchronous and short; asynchronous code calls them through `asyncio.to_thread`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session

from controller.errors import ServeError

__all__ = ["Database", "sqlite_url"]

BUSY_TIMEOUT = 10_000  # milliseconds that a writer waits for another


def sqlite_url(path: Path) -> str:
    """Return the URL of the SQLite database in the file *path*."""
    return f"sqlite:///{path}"


@dataclass(frozen=True, slots=True)
class Database:
    """An open database; `read` and `write` give a session of one transaction."""

    engine: Engine

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the database at *url* and bring its schema up to date.

        Raises:
            ServeError: *url* is no database's, the database does not answer, or it is of a newer Vedette.
        """
        shown = url
        try:
            shown = make_url(url).render_as_string(hide_password=True)
            engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
            _prepare(engine)
            with engine.execution_options(immediate=True).begin() as connection:
                _migrate(connection)
        except ModuleNotFoundError as error:
            raise ServeError(f"database {shown}: Python module {error.name!r} is not installed") from None
        except (ArgumentError, NoSuchModuleError):
            raise ServeError(f"database {shown!r} is not usable: expected a URL like sqlite:////path/file") from None
        except CommandError as error:
            raise ServeError(f"database {shown} was not written by this version of Vedette: {error}") from None
        except DBAPIError as error:
            raise ServeError(f"database {shown} cannot be used: {error.orig}") from None
        return cls(engine)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session that sees one moment of the database and changes nothing."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a session whose changes are committed together at the end, or not at all.

        Raises:
            ServeError: The disk is full, or the database went away.
        """
        writer = self.engine.execution_options(immediate=True)
        try:
            with Session(writer, expire_on_commit=False) as session, session.begin():
                yield session
        except OperationalError as error:
            raise ServeError(f"database {self.engine.url!r} cannot be written: {error.orig}") from None

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _prepare(engine: Engine) -> None:
    """Make SQLite keep to our transactions; other databases do so by themselves."""
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins no transactions of its own
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _migrate(connection: Connection) -> None:
    configuration = Config()
    configuration.set_main_option("script_location", "controller.database:migrations")
    configuration.set_main_option("path_separator", "os")
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")
