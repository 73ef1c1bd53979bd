"""Messages for the broker that outlive a lost connection and a restart, in a bounded SQLite file.

Rules:
    * First in, first out within a channel; a message is removed only after the broker took it.
    * A channel holds at most `rows` messages; the oldest are dropped first, and counted.
    * The count of dropped messages survives a restart; `take_dropped` hands it out once.
    * A file that a power cut left unreadable is put aside and a new one begun: telemetry is not
      worth a device that does not start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from runtime.logs import get_logger
from runtime.protocol.topics import Channel

__all__ = ["Spool", "Spooled"]

_log = get_logger("vedette.agent.spool")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT NOT NULL, payload BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_of_channel ON messages (channel, id);
CREATE TABLE IF NOT EXISTS dropped (channel TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""
_TRIM = """
DELETE FROM messages WHERE channel = ? AND id <= (
    SELECT id FROM messages WHERE channel = ? ORDER BY id DESC LIMIT 1 OFFSET ?
)
"""
_COUNT_DROPPED = """
INSERT INTO dropped VALUES (?, ?) ON CONFLICT (channel) DO UPDATE SET count = count + excluded.count
"""


@dataclass(frozen=True, slots=True)
class Spooled:
    """A message that waits."""

    id: int
    channel: Channel
    payload: bytes


class Spool:
    """The messages in the file *path*, at most *rows* of them a channel."""

    def __init__(self, path: Path, *, rows: int = 10_000) -> None:
        self._rows = rows
        self._lost = 0  # since the last `take_dropped`: the disk did not take them
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = _open(path)
        except sqlite3.DatabaseError as error:
            aside = path.with_suffix(".broken")
            path.replace(aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            _log.warning("spool was unreadable and put aside", path=str(aside), reason=str(error))
            self._database = _open(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def put(self, channel: Channel, payload: bytes) -> None:
        """Append a message; the channel's oldest goes if it is full. A full disk costs this message, no more."""
        try:
            with self._database as database:
                database.execute("INSERT INTO messages (channel, payload) VALUES (?, ?)", (channel, payload))
                dropped = database.execute(_TRIM, (channel, channel, self._rows)).rowcount
                if dropped:
                    database.execute(_COUNT_DROPPED, (channel, dropped))
        except sqlite3.OperationalError as error:
            self._lost += 1
            _log.warning("message lost", channel=channel, reason=str(error))

    def oldest(self, most: int = 64) -> list[Spooled]:
        """Return the messages that wait longest, oldest first, at most *most*."""
        rows = self._database.execute("SELECT id, channel, payload FROM messages ORDER BY id LIMIT ?", (most,))
        return [Spooled(number, Channel(channel), payload) for number, channel, payload in rows]

    def remove(self, ids: Sequence[int]) -> None:
        """Forget messages that the broker took."""
        with self._database as database:
            database.executemany("DELETE FROM messages WHERE id = ?", [(number,) for number in ids])

    def take_dropped(self) -> int:
        """Return how many messages were dropped since the last call."""
        count = 0
        try:
            with self._database as database:
                (count,) = database.execute("SELECT coalesce(sum(count), 0) FROM dropped").fetchone()
                database.execute("DELETE FROM dropped")
        except sqlite3.OperationalError as error:
            _log.warning("count of dropped messages kept for later", reason=str(error))
            return 0
        lost, self._lost = self._lost, 0
        return int(count) + lost

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM messages").fetchone()[0])


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=5)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last second, never the file
        database.executescript(_SCHEMA)
        database.execute("SELECT count(*) FROM messages").fetchone()
    except sqlite3.DatabaseError:
        with suppress(sqlite3.Error):
            database.close()
        raise
    return database
