"""The node's memory: one SQLite file in which every film is until its results are in the archive.

A film is `received` (its file is here), then `made` (its results are here, the film is gone), then `done` (only its key
is left); or `ignored` or `failed`, with the reason. Every step is one transaction, synced to the disk before anybody is
told, so a kill at any moment loses nothing; keys of films that are done stay, so nothing is done again.

The file holds patients' films while they wait and is readable by its owner only. Keys are keyed hashes: without the
file's own salt they say nothing about a film's UID. Deleted films are overwritten (`secure_delete`).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["received", "made", "done", "ignored", "failed"]
STATES: tuple[State, ...] = ("received", "made", "done", "ignored", "failed")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS film (
    number INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    received REAL NOT NULL, changed REAL NOT NULL, reason TEXT, file BLOB);
CREATE TABLE IF NOT EXISTS result (
    film INTEGER NOT NULL REFERENCES film(number), role TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0, file BLOB,
    PRIMARY KEY (film, role));
CREATE INDEX IF NOT EXISTS film_state ON film (state, number);
"""
_FORMAT = b"1"


@dataclass(frozen=True)
class Waiting:
    """A film to be read."""

    number: int
    key: str
    attempts: int
    """How often reading it was begun before."""
    file: bytes


@dataclass(frozen=True)
class Outgoing:
    """A film whose results are to be sent: those that the archive has not taken yet."""

    number: int
    key: str
    attempts: int
    received: float
    """Seconds since the epoch."""
    results: tuple[tuple[str, bytes], ...]
    """(role, file) of each."""


class Queue:
    """Open (or make) the queue in a file; one process at a time. Its methods may be called from any thread.

    Raises:
        ValueError: another process holds it, or the file is something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        self._lock = threading.RLock()
        self._db = sqlite3.connect(self.path, timeout=2, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=TRUNCATE", "synchronous=FULL", "secure_delete=ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute("BEGIN EXCLUSIVE")
            self._db.execute("COMMIT")
            self._db.executescript(_SCHEMA)
            self._salt = self._meta("salt", secrets.token_bytes(32))
            if self._meta("format", _FORMAT) != _FORMAT:
                self._db.close()
                raise ValueError(f"{self.path} was written by a newer agcxr; upgrade, or name another file")
        except sqlite3.OperationalError as error:
            self._db.close()
            raise ValueError(
                f"{self.path} cannot be opened ({error}): another node may hold it; stop that one, or name another file"
            ) from error
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ValueError(f"{self.path} is no queue of agcxr ({error}); name another file") from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    def key(self, sop_instance_uid: str, model: str) -> str:
        """What a film is called here and in logs: 16 hex digits that only this queue can trace to the film."""
        return hmac.new(self._salt, f"{sop_instance_uid}\n{model}".encode(), hashlib.sha256).hexdigest()[:16]

    def add(self, key: str, file: bytes) -> bool:
        """Keep a film. False where it is known already (a film that failed is taken again)."""
        now = time.time()
        with self._transaction() as db:
            known = db.execute("SELECT number, state FROM film WHERE key = ?", (key,)).fetchone()
            if known is None:
                db.execute(
                    "INSERT INTO film (key, state, received, changed, file) VALUES (?, 'received', ?, ?, ?)",
                    (key, now, now, file),
                )
            elif known[1] == "failed" and not db.execute("SELECT 1 FROM result WHERE film = ?", (known[0],)).fetchone():
                db.execute(
                    "UPDATE film SET state = 'received', attempts = 0, received = ?, changed = ?, reason = NULL, "
                    "file = ? WHERE number = ?",
                    (now, now, file, known[0]),
                )
            else:
                return False
        return True

    def next_received(self) -> Waiting | None:
        """The oldest film to be read; those that made trouble come last.

        That it is begun is noted first, so that a film which kills the process is known by its attempts.
        """
        with self._transaction() as db:
            row = db.execute(
                "SELECT number, key, attempts, file FROM film WHERE state = 'received' "
                "ORDER BY attempts, number LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            db.execute("UPDATE film SET attempts = attempts + 1 WHERE number = ?", (row[0],))
        return Waiting(*row)

    def made(self, number: int, results: tuple[tuple[str, bytes], ...]) -> None:
        """Keep a film's results in place of the film."""
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO result (film, role, file) VALUES (?, ?, ?)",
                [(number, role, file) for role, file in results],
            )
            self._move(db, number, "made")

    def close_film(self, number: int, state: Literal["ignored", "failed"], reason: str) -> None:
        """No results will be made of this film."""
        with self._transaction() as db:
            self._move(db, number, state, reason)

    def next_made(self) -> Outgoing | None:
        """The oldest film with results to be sent, those that were refused last."""
        with self._lock:
            row = self._db.execute(
                "SELECT number, key, attempts, received FROM film WHERE state = 'made' "
                "ORDER BY attempts, number LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            results = self._db.execute(
                "SELECT role, file FROM result WHERE film = ? AND sent = 0 ORDER BY rowid", (row[0],)
            ).fetchall()
        number, key, attempts, received = row
        return Outgoing(number, key, attempts, received, tuple(results))

    def sent(self, number: int, role: str) -> bool:
        """The archive took one result. True where it was the film's last: the film is done, its files are gone."""
        with self._transaction() as db:
            db.execute("UPDATE result SET sent = 1, file = NULL WHERE film = ? AND role = ?", (number, role))
            if db.execute("SELECT 1 FROM result WHERE film = ? AND sent = 0", (number,)).fetchone():
                return False
            db.execute("DELETE FROM result WHERE film = ?", (number,))
            self._move(db, number, "done")
        return True

    def refused(self, number: int, reason: str, limit: int) -> bool:
        """The archive refused a result. True where it did so `limit` times: set aside, its results kept."""
        with self._transaction() as db:
            db.execute("UPDATE film SET attempts = attempts + 1 WHERE number = ?", (number,))
            (attempts,) = db.execute("SELECT attempts FROM film WHERE number = ?", (number,)).fetchone()
            if attempts < limit:
                return False
            db.execute(
                "UPDATE film SET state = 'failed', reason = ?, changed = ? WHERE number = ?",
                (reason, time.time(), number),
            )
        return True

    def retry_refused(self) -> int:
        """Put films that the archive refused back in line; called when a node starts. Returns how many."""
        with self._transaction() as db:
            return db.execute(
                "UPDATE film SET state = 'made', attempts = 0, reason = NULL WHERE state = 'failed' "
                "AND number IN (SELECT film FROM result)"
            ).rowcount

    def counts(self) -> dict[State, int]:
        """Films in each state."""
        with self._lock:
            found = dict(self._db.execute("SELECT state, count(*) FROM film GROUP BY state").fetchall())
        return {state: int(found.get(state, 0)) for state in STATES}

    def bytes_used(self) -> int:
        """What waits takes so much of the disk. (The file keeps its largest size; its room is used again.)"""
        with self._lock:
            pages, free, size = (
                int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count", "page_size")
            )
        return (pages - free) * size

    def reasons(self) -> tuple[str, ...]:
        """Why films were ignored or failed, oldest first."""
        with self._lock:
            rows = self._db.execute("SELECT reason FROM film WHERE reason IS NOT NULL ORDER BY number").fetchall()
        return tuple(row[0] for row in rows)

    @staticmethod
    def _move(db: sqlite3.Connection, number: int, state: State, reason: str | None = None) -> None:
        db.execute(
            "UPDATE film SET state = ?, reason = ?, attempts = 0, changed = ?, file = NULL WHERE number = ?",
            (state, reason, time.time(), number),
        )

    def _meta(self, name: str, first: bytes) -> bytes:
        self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, first))
        return bytes(self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
