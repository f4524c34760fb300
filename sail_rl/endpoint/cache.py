"""A cache of verdicts on disk: one SQLite file that several processes share and that survives kills."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

BUSY_SECONDS = 30.0  # longest wait for another process's write
KEYS_A_QUERY = 500
TABLE = "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL, saved_at REAL NOT NULL)"


class VerdictCache:
    """Verdicts (JSON texts) by key. Each `put` is its own transaction, so that no paid verdict is lost.

    The file must be on a local disk, because SQLite's write-ahead log doesn't work on network file systems.

    Raises:
        ValueError: if the file can't be created, or isn't an SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection, connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(TABLE)
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"judge cache {path}: {error}; give a writable file on a local disk") from error

    @contextmanager
    def open(self) -> Iterator[OpenCache]:
        """Open the cache for one batch, in one thread."""
        try:
            with closing(self._connect()) as connection:
                yield OpenCache(connection)
        except sqlite3.Error as error:
            raise RuntimeError(f"judge cache {self.path}: {type(error).__name__}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS)
        connection.execute("PRAGMA synchronous=NORMAL")  # safe in WAL mode; only a power cut can lose the last verdicts
        return connection


class OpenCache:
    """A connection to the cache file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """The known verdicts among these, by key."""
        found: dict[str, str] = {}
        for start in range(0, len(keys), KEYS_A_QUERY):
            some = keys[start : start + KEYS_A_QUERY]
            marks = ",".join("?" * len(some))
            found |= dict(self._connection.execute(f"SELECT key, verdict FROM verdicts WHERE key IN ({marks})", some))
        return found

    def put(self, key: str, verdict: str) -> None:
        """Save one verdict; it replaces an earlier one under the same key."""
        with self._connection:
            self._connection.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", (key, verdict, time.time()))
