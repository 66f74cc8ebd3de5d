"""The SQLite file of a node's queue: its tables, how it is opened and by whom, and what a transaction promises."""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAITS, TAKEN, REFUSED, STORED = 0, 1, 2, 3
"""delivery.sent. An archive that stored a result and has not committed itself to keep it: stored; else it took it."""

_TABLES = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    """CREATE TABLE IF NOT EXISTS film (
    number INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    received REAL NOT NULL, changed REAL NOT NULL, reason TEXT, file BLOB)""",
    """CREATE TABLE IF NOT EXISTS result (
    film INTEGER NOT NULL REFERENCES film(number), role TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0, file BLOB,
    PRIMARY KEY (film, role))""",
    "CREATE INDEX IF NOT EXISTS film_state ON film (state, number)",
)
"""As format 1 has them; `_SINCE_1` follows, in new files too, so that there is one history."""
_SINCE_1 = (
    "ALTER TABLE film ADD COLUMN model TEXT",
    "ALTER TABLE film ADD COLUMN troubles INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE film ADD COLUMN due REAL NOT NULL DEFAULT 0",
    "ALTER TABLE film ADD COLUMN said TEXT",
    "ALTER TABLE result ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE result ADD COLUMN due REAL NOT NULL DEFAULT 0",
    "ALTER TABLE result ADD COLUMN said TEXT",
    # What a film or a result waits for is looked up in these alone: the rows hold files of megabytes.
    "CREATE INDEX film_next ON film (state, attempts, troubles, number, due, key, received, said)",
    "CREATE INDEX result_next ON result (sent, attempts, film, role, due, said)",
    "UPDATE result SET sent = 2 WHERE sent = 0 AND film IN (SELECT number FROM film WHERE state = 'failed')",
    "UPDATE film SET said = reason WHERE state = 'failed' AND number IN (SELECT film FROM result)",
    "UPDATE meta SET value = x'32' WHERE name = 'format'",
)


_SINCE_2 = (
    # What came of reading, day by day: numbers of films, sums of scores. Nothing of a film or a patient.
    """CREATE TABLE day (
    day TEXT NOT NULL, model TEXT NOT NULL, outcome TEXT NOT NULL, finding TEXT NOT NULL DEFAULT '',
    films INTEGER NOT NULL DEFAULT 0, score REAL NOT NULL DEFAULT 0, PRIMARY KEY (day, model, outcome, finding))""",
    "UPDATE meta SET value = x'33' WHERE name = 'format'",
)


_SINCE_3 = (
    # How a result stands with one archive; '' is that of queues which did not name it. The columns of `result` which
    # said so for the only archive stay, unused: dropping them would write all files anew, and the disk may be full.
    """CREATE TABLE delivery (
    film INTEGER NOT NULL REFERENCES film(number), role TEXT NOT NULL, archive TEXT NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0, said TEXT,
    uid TEXT, asked TEXT, asks INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (film, role, archive))""",
    "INSERT INTO delivery (film, role, archive, sent, attempts, due, said) "
    "SELECT film, role, '', sent, attempts, due, said FROM result ORDER BY rowid",
    "DROP INDEX result_next",
    "CREATE INDEX delivery_next ON delivery (archive, sent, attempts, film, role, due)",
    "UPDATE meta SET value = x'34' WHERE name = 'format'",
)


class QueueFile:
    """The file opened (or made), and brought up to this version. Any thread may use it.

    beside: look into, or mend, what a node may be working with; else this process is its node, the only one.

    Raises:
        ValueError: another node holds it, it was written by a newer agcxr, or the file is something else.
    """

    def __init__(self, path: Path, *, beside: bool = False) -> None:
        if beside and not path.is_file():
            raise ValueError(f"{path} is not there; name the queue of a node (--queue)")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.RLock()
        self._open: list[sqlite3.Connection] = []
        try:
            if not beside:
                self._open.append(_held(path.with_name(path.name + ".lock")))
            _touch(path)
            self._db = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
            self._open.append(self._db)
            for pragma in ("journal_mode=TRUNCATE", "synchronous=FULL", "secure_delete=ON"):
                self._db.execute(f"PRAGMA {pragma}")
            with self.transaction():
                self._upgrade()
        except sqlite3.OperationalError as error:
            self.close()
            hint = "another node may hold it; stop that one" if "locked" in str(error) else "mend that"
            raise ValueError(f"{path} cannot be opened ({error}): {hint}, or name another file") from error
        except sqlite3.DatabaseError as error:
            self.close()
            raise ValueError(f"{path} is no queue of agcxr ({error}); name another file") from error
        except ValueError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            while self._open:
                self._open.pop().close()

    def meta(self, name: str) -> bytes:
        """What the file says of itself: "salt", "format"."""
        with self.looked_into() as db:
            return bytes(db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])

    def pages(self) -> tuple[int, int]:
        """Bytes of the file in use, and those in it that are free."""
        with self.looked_into() as db:
            every, free, size = (
                int(db.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count", "page_size")
            )
        return (every - free) * size, free * size

    @contextmanager
    def looked_into(self) -> Iterator[sqlite3.Connection]:
        """For reading."""
        with self._lock:
            yield self._db

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is done within is on the disk afterwards, or, with the exception that says so, nothing of it."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself rolls back after some errors, such as a full disk
                    self._db.execute("ROLLBACK")
                raise

    def _upgrade(self) -> None:
        for statement in _TABLES:
            self._db.execute(statement)
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('salt', ?), ('format', x'31')", (secrets.token_bytes(32),))
        for version, changes in ((b"1", _SINCE_1), (b"2", _SINCE_2), (b"3", _SINCE_3)):
            if self.meta("format") == version:
                for statement in changes:
                    self._db.execute(statement)
        if self.meta("format") != b"4":
            raise ValueError(f"{self.path} was written by a newer agcxr; upgrade, or name another file")


def _held(path: Path) -> sqlite3.Connection:
    """A lock for as long as the connection is open and the process lives, on every system."""
    _touch(path)
    db = sqlite3.connect(path, timeout=2, isolation_level=None, check_same_thread=False)
    try:
        db.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _touch(path: Path) -> None:
    """Make a file that only its owner reads."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
