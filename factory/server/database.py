"""The SQLite file: opened with write-ahead logging, brought to the newest version, guarded by one lock.

A transaction that was committed survives a kill of the process. What a power cut in the same second may lose is the newest transactions, never an older one.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...contract.errors import StorageError

# One script for each version; a file remembers how many it has seen in user_version. Never change one that was released: add another.
MIGRATIONS = (
    """
    CREATE TABLE jobs (
        n INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        status TEXT NOT NULL,
        name TEXT NOT NULL,
        image TEXT,
        masks TEXT NOT NULL DEFAULT '[]',
        names TEXT NOT NULL DEFAULT '[]',
        frame TEXT,
        params TEXT NOT NULL DEFAULT '{}',
        request_key TEXT NOT NULL,
        result TEXT,
        cached INTEGER NOT NULL DEFAULT 0,
        fresh INTEGER NOT NULL DEFAULT 0,
        priority INTEGER NOT NULL DEFAULT 0,
        batch TEXT,
        retry_of TEXT,
        attempts INTEGER NOT NULL DEFAULT 0,
        cancel INTEGER NOT NULL DEFAULT 0,
        stage TEXT,
        progress REAL NOT NULL DEFAULT 0,
        eta REAL,
        error TEXT,
        outputs TEXT,
        seconds REAL,
        created REAL NOT NULL,
        started REAL,
        finished REAL
    );
    CREATE INDEX jobs_by_status ON jobs (status, priority DESC, n);
    CREATE INDEX jobs_by_batch ON jobs (batch) WHERE batch IS NOT NULL;
    CREATE INDEX jobs_by_result ON jobs (result) WHERE result IS NOT NULL;
    CREATE TABLE events (
        n INTEGER PRIMARY KEY AUTOINCREMENT,
        job TEXT NOT NULL,
        kind TEXT NOT NULL,
        data TEXT NOT NULL,
        at REAL NOT NULL
    );
    CREATE INDEX events_by_job ON events (job, n);
    CREATE TABLE batches (id TEXT PRIMARY KEY, name TEXT NOT NULL, created REAL NOT NULL);
    CREATE TABLE files (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        meta TEXT NOT NULL,
        created REAL NOT NULL,
        used REAL NOT NULL,
        PRIMARY KEY (kind, id)
    ) WITHOUT ROWID;
    CREATE TABLE idempotency (key TEXT PRIMARY KEY, digest TEXT NOT NULL, target TEXT NOT NULL, created REAL NOT NULL) WITHOUT ROWID;
    """,
)


class Database:
    """One connection for all threads. `read` and `write` hold its lock, so calls should be short. Raises StorageError where the file can't be used."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10.0)
            self._connection.row_factory = sqlite3.Row
            for setting in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
                self._connection.execute(f"PRAGMA {setting}")
            self._migrate()
        except (sqlite3.Error, StorageError) as problem:
            if hasattr(self, "_connection"):
                self._connection.close()
            if isinstance(problem, StorageError):
                raise
            raise StorageError(f"{path} can't be used: {problem}.", "Is it one of ours, and may this user write it?") from problem

    def _migrate(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise StorageError(
                "The data folder was written by a newer version of the server.", "Update the pack, or choose another folder."
            )
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            self._connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Row | None:
        found: sqlite3.Row | None
        with self._lock:
            found = self._connection.execute(sql, values).fetchone()
        return found

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or, where the block raises, nothing. Blocks may nest; the outermost one counts."""
        with self._lock:
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")  # a full disk is noticed here
            except BaseException:
                if self._connection.in_transaction:  # else SQLite has taken it back by itself
                    self._connection.execute("ROLLBACK")
                raise
