"""The node's memory: one SQLite file in which every film is until its results are in all archives.

A film is `received` (its file is here), then `made` (its results are here, the film is gone), then `done` (only its key
is left); or `ignored`, or `failed`, with the reason. What failed keeps its file, or the results that an archive
refused, until a person says what becomes of it. How a result stands with an archive is that archive's alone: it waits,
is stored (and, where that is asked for, not committed yet), or is refused. Every step is one transaction, synced to the
disk before anybody is told, so a kill at any moment loses nothing; keys of films that are done stay, so nothing is done
again.

The file holds patients' films while they wait and is readable by its owner only. Keys are keyed hashes: without the
file's own salt they say nothing about a film's UID. Deleted films are overwritten (`secure_delete`). What people may
read aloud of a film is `said`; a `reason` may quote it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
import sqlite3
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from agcxr.dicom.queue_file import REFUSED, STORED, TAKEN, WAITS, QueueFile

State = Literal["received", "made", "done", "ignored", "failed"]
STATES: tuple[State, ...] = ("received", "made", "done", "ignored", "failed")
OPEN: tuple[State, ...] = ("received", "made", "failed")
"""States of films that the queue still holds something of."""

DROPPED = "dropped by a person"

Outcome = Literal["read", "refused", "ignored", "failed"]
"""What came of reading a film: results; none, since the model may not speak of it, its header says it is no film for
the model, or it cannot be read."""

HEADROOM = 32 << 20
"""Bytes of the disk that the results of one film and SQLite's own files may need."""
FARTHEST = 24 * 3600.0
"""Seconds. Whatever is due later was noted by a clock that was set back since, and is due now."""
ANSWER = 600.0
"""Seconds that an archive has to say whether it committed itself to objects; then it is asked anew, and has twice as
long."""
AT_ONCE = 100
"""Objects that one request for commitment names at most."""


@dataclass(frozen=True)
class Waiting:
    """A film to be read."""

    number: int
    key: str
    attempts: int
    """How often reading it was begun before, and neither ended nor deferred: crashes and kills."""
    file: bytes
    model: str | None = None
    """Version of the model that the key was made with; None where an older agcxr kept the film."""
    troubles: int = 0
    """How often it was deferred."""


@dataclass(frozen=True)
class Outgoing:
    """A film whose results are to be sent to an archive: those that wait, and whose time has come."""

    number: int
    key: str
    received: float
    """Seconds since the epoch."""
    results: tuple[tuple[str, bytes], ...]
    """(role, file) of each."""


@dataclass(frozen=True)
class Entry:
    """A film as people may see it: nothing of a patient."""

    key: str
    state: State
    received: float
    due: float
    """Seconds since the epoch before which nothing is tried; 0: at once."""
    said: str | None
    """What last went wrong."""
    waiting: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    """Roles of its results: those to be sent, those that an archive refused, and those whose commitment is awaited.
    Where the queue has several archives: "sr to ARCHIVE@10.0.0.7:104"."""


@dataclass(frozen=True)
class Report:
    """What became of results by an archive's word on their commitment."""

    done: tuple[tuple[str, float], ...]
    """(key, seconds since the epoch when it was received) of films that have all their results in all archives now."""
    committed: int = 0
    refused: int = 0
    """Results; those that were refused wait to be sent again, or are set aside."""


@dataclass(frozen=True)
class Day:
    """What a model made of the films of one day."""

    day: str
    model: str
    outcome: Outcome
    films: int
    means: dict[str, float] = field(default_factory=dict)
    """Finding -> mean of its fusion scores."""


class Queue(QueueFile):
    """Open (or make) the queue in a file. Its methods may be called from any thread.

    beside: look into, or mend, a queue that a node may be working with; else this process is its node, the only one.

    Raises:
        ValueError: another node holds it, it was written by a newer agcxr, or the file is something else.
    """

    def __init__(self, path: str | os.PathLike[str], *, beside: bool = False) -> None:
        super().__init__(Path(path), beside=beside)
        self._salt = self.meta("salt")
        self._archives: tuple[str, ...] = ("",)

    def key(self, sop_instance_uid: str, model: str) -> str:
        """What a film is called here and in logs: 16 hex digits that only this queue can trace to the film."""
        return hmac.new(self._salt, f"{sop_instance_uid}\n{model}".encode(), hashlib.sha256).hexdigest()[:16]

    # --- the receiver -------------------------------------------------------------------------------------------------

    def add(self, key: str, file: bytes, model: str = "") -> bool:
        """Keep a film. False where it is known already (one that could not be read, or was dropped, is taken again).
        When this returns, it is on the disk; sqlite3.Error where it could not be written."""
        now = time.time()
        with self.transaction() as db:
            known = db.execute("SELECT number, state, said FROM film WHERE key = ?", (key,)).fetchone()
            if known is None:
                db.execute(
                    "INSERT INTO film (key, state, received, changed, file, model) VALUES (?, 'received', ?, ?, ?, ?)",
                    (key, now, now, file, model),
                )
            elif known[2] == DROPPED or (known[1] == "failed" and not self._has_results(db, known[0])):
                db.execute(
                    "UPDATE film SET state = 'received', attempts = 0, troubles = 0, due = 0, received = ?, "
                    "changed = ?, reason = NULL, said = NULL, file = ?, model = ? WHERE number = ?",
                    (now, now, file, model, known[0]),
                )
            else:
                return False
        return True

    def room(self) -> int:
        """Bytes that may be added so that what waits can still be worked on: replacing a film by its results takes as
        much of the disk again until that is committed."""
        with self.looked_into() as db:
            (largest,) = db.execute("SELECT max(length(file)) FROM film WHERE state = 'received'").fetchone()
        free = shutil.disk_usage(self.path.parent).free + self.pages()[1]
        return free - int(largest or 0) - HEADROOM

    # --- the reader ---------------------------------------------------------------------------------------------------

    def next_received(self) -> Waiting | None:
        """The oldest film to be read; those that made trouble come last, and not before they are due.

        That it is begun is noted first, so that a film which kills the process is known by its attempts.
        """
        with self.transaction() as db:
            row = db.execute(
                "SELECT number FROM film WHERE state = 'received' AND due NOT BETWEEN ? AND ? "
                "ORDER BY attempts + troubles, number LIMIT 1",
                _not_yet(),
            ).fetchone()
            if row is None:
                return None
            film = Waiting(
                *db.execute(
                    "SELECT number, key, attempts, file, model, troubles FROM film WHERE number = ?", row
                ).fetchone()
            )
            db.execute("UPDATE film SET attempts = attempts + 1 WHERE number = ?", row)
        return film

    def defer(self, number: int, said: str, longest: float) -> None:
        """Reading a film ended in trouble: it is due again after 1, 2, 4 ... `longest` seconds."""
        with self.transaction() as db:
            db.execute(
                "UPDATE film SET attempts = max(attempts - 1, 0), troubles = troubles + 1, said = ?, "
                "due = ? + min(1 << min(troubles, 30), ?) WHERE number = ?",
                (said, time.time(), longest, number),
            )

    def made(
        self,
        number: int,
        results: tuple[tuple[str, bytes], ...],
        *,
        model: str = "",
        outcome: Outcome = "read",
        scores: Mapping[str, float] | None = None,
    ) -> None:
        """Keep a film's results in place of the film. model, outcome, scores: for `days`."""
        with self.transaction() as db:
            if not self._waits(db, number):
                return
            self._tally(db, model, outcome, scores)
            self._move(db, number, "made")  # first, so that they may take its place in the file
            db.executemany(
                "INSERT INTO result (film, role, file) VALUES (?, ?, ?)",
                [(number, role, file) for role, file in results],
            )
            db.executemany(
                "INSERT INTO delivery (film, role, archive) VALUES (?, ?, ?)",
                [(number, role, archive) for archive in self._archives for role, _ in results],
            )

    def close_film(
        self,
        number: int,
        state: Literal["ignored", "failed"],
        reason: str,
        said: str | None = None,
        *,
        model: str = "",
        outcome: Outcome | None = None,
    ) -> None:
        """No results will be made of this film. One that failed keeps its file. `said`: the reason as people may read
        it aloud. model, outcome: for `days`; by default the state."""
        with self.transaction() as db:
            if self._waits(db, number):
                self._move(db, number, state, reason, said)
                self._tally(db, model, outcome or state)

    def note(self, model: str, scores: Mapping[str, float]) -> None:
        """That a model beside that of the node read a film; for `days`."""
        with self.transaction() as db:
            self._tally(db, model, "read", scores)

    def days(self, since: str = "") -> list[Day]:
        """What came of reading, day by day (UTC), oldest first; from the day `since`, as 2026-05-06."""
        with self.looked_into() as db:
            rows = db.execute(
                "SELECT day, model, outcome, finding, films, score FROM day WHERE day >= ? "
                "ORDER BY day, model, outcome, rowid",
                (since,),
            ).fetchall()
        days: dict[tuple[str, str, Outcome], Day] = {}
        for day, model, outcome, finding, films, score in rows:
            entry = days.setdefault((day, model, outcome), Day(day, model, outcome, films))
            if finding:
                entry.means[finding] = score / films
        return list(days.values())

    # --- the sender ---------------------------------------------------------------------------------------------------

    def next_made(self, without: Collection[str] = (), archive: str = "") -> Outgoing | None:
        """The oldest film with results for an archive, those that were refused last; none of the roles `without`."""
        marks, which = ", ".join("?" * len(without)), (archive, *without, *_not_yet())
        with self.looked_into() as db:
            due = (
                f"delivery.archive = ? AND delivery.sent = {WAITS} AND delivery.role NOT IN ({marks}) "
                "AND delivery.due NOT BETWEEN ? AND ?"
            )
            row = db.execute(f"SELECT film FROM delivery WHERE {due} ORDER BY attempts, film LIMIT 1", which).fetchone()
            if row is None:
                return None
            roles = db.execute(
                "SELECT role, result.file FROM delivery JOIN result USING (film, role) "
                f"WHERE film = ? AND {due} ORDER BY delivery.rowid",
                (*row, *which),
            ).fetchall()
            key, received = db.execute("SELECT key, received FROM film WHERE number = ?", row).fetchone()
        return Outgoing(row[0], key, received, tuple(roles))

    def sent(self, number: int, role: str, archive: str = "") -> bool:
        """An archive took one result. True where the film is done: all were taken by all, its files are gone."""
        with self.transaction() as db:
            return self._taken(db, number, role, archive)

    def refused(
        self, number: int, role: str, reason: str, *, limit: int | None, longest: float = 60, archive: str = ""
    ) -> bool:
        """An archive did not take a result; the others are none the worse. It is due again after 1, 2, 4 ... `longest`
        seconds. True where this was the `limit`th time: set aside, its file kept. limit: None for never."""
        with self.transaction() as db:
            return self._refuse(db, (number, role, archive), reason, limit, longest)

    def stored(self, number: int, role: str, archive: str, uid: str) -> None:
        """An archive stored one result, the SOP instance `uid`; its file stays until the archive is committed to it."""
        with self.transaction() as db:
            db.execute(
                f"UPDATE delivery SET sent = {STORED}, uid = ?, asked = NULL, asks = 0, due = 0, said = NULL "
                "WHERE film = ? AND role = ? AND archive = ?",
                (uid, number, role, archive),
            )

    def ask(self, archive: str, transaction: str) -> list[tuple[str, str]]:
        """Results to ask an archive's commitment for, as (role, SOP Instance UID): stored, and not asked for yet or
        without an answer for long. That they are asked for under this transaction is noted first: answers may come
        before the request is over."""
        with self.transaction() as db:
            rows = db.execute(
                f"SELECT rowid, role, uid FROM delivery WHERE archive = ? AND sent = {STORED} "
                "AND due NOT BETWEEN ? AND ? ORDER BY film, rowid LIMIT ?",
                (archive, *_not_yet(), AT_ONCE),
            ).fetchall()
            db.executemany(
                "UPDATE delivery SET asked = ?, due = ? + min(? * (1 << asks), ?), asks = min(asks + 1, 30) "
                "WHERE rowid = ?",
                [(transaction, time.time(), ANSWER, FARTHEST, row) for row, *_ in rows],
            )
        return [(role, uid) for _, role, uid in rows]

    def not_asked(self, transaction: str, said: str | None = None) -> None:
        """The request did not reach the archive; or, with what it said, was refused, and is made anew later."""
        with self.transaction() as db:
            if said is None:
                db.execute("UPDATE delivery SET asked = NULL, asks = 0, due = 0 WHERE asked = ?", (transaction,))
            else:
                db.execute("UPDATE delivery SET said = ? WHERE asked = ?", (said, transaction))

    def report(
        self,
        transaction: str,
        committed: Collection[str],
        failed: Mapping[str, str],
        *,
        limit: int | None,
        longest: float = 60,
    ) -> Report:
        """An archive's answer. committed: SOP Instance UIDs; failed: UID -> why not: those are sent again, as `refused`
        has it. What was not asked for under this transaction is left alone."""
        done, counts = [], [0, 0]
        with self.transaction() as db:
            rows = db.execute(
                f"SELECT film, role, archive, uid FROM delivery WHERE asked = ? AND sent = {STORED}", (transaction,)
            ).fetchall()
            for number, role, archive, uid in rows:
                which = (number, role, archive)
                if uid in failed:
                    db.execute(f"UPDATE delivery SET sent = {WAITS} WHERE film = ? AND role = ? AND archive = ?", which)
                    self._refuse(db, which, failed[uid], limit, longest)
                    counts[1] += 1
                elif uid in committed:
                    counts[0] += 1
                    if self._taken(db, *which):
                        done.append(db.execute("SELECT key, received FROM film WHERE number = ?", (number,)).fetchone())
        return Report(tuple(done), *counts)

    def standing(self) -> dict[str, tuple[int, int, int]]:
        """Archive -> how many results wait for it, are stored but not committed, and were refused by it."""
        with self.looked_into() as db:
            rows = db.execute("SELECT archive, sent, count(*) FROM delivery GROUP BY archive, sent").fetchall()
        counts = {(archive, sent): count for archive, sent, count in rows}
        return {
            archive: (
                counts.get((archive, WAITS), 0), counts.get((archive, STORED), 0), counts.get((archive, REFUSED), 0)
            )
            for archive, _ in sorted(counts)
        }  # fmt: skip

    # --- people -------------------------------------------------------------------------------------------------------

    def retry_refused(self) -> int:
        """Put results that the archive refused back in line; called when a node starts. Returns of how many films."""
        with self.transaction() as db:
            db.execute("UPDATE film SET due = 0 WHERE state = 'received' AND due > 0")
            return self._retry(db, None)

    def retry(self, keys: Collection[str] = ()) -> int:
        """Try again now what failed and what waits for its time; default: all of it. Returns how many films.

        Raises ValueError for a key that is not here, or of a film that is done or ignored.
        """
        with self.transaction() as db:
            numbers: list[int | None] = [self._number(db, key) for key in keys]
            return sum(self._retry(db, number) + self._read_again(db, number) for number in numbers or [None])

    def drop(self, keys: Collection[str]) -> int:
        """Let go of films that wait or failed: files and results are deleted, the film counts as ignored until it is
        sent again.

        Raises ValueError as `retry`.
        """
        with self.transaction() as db:
            for key in keys:
                number = self._number(db, key)
                self._forget(db, number)
                self._move(db, number, "ignored", DROPPED, DROPPED)
        return len(keys)

    def keep_roles(self, roles: Collection[str]) -> int:
        """Let go of results of other roles: nobody wants them any more. Returns how many."""
        with self.transaction() as db:
            unwanted, which = f"role NOT IN ({', '.join('?' * len(roles))})", tuple(roles)
            films = db.execute(
                f"SELECT DISTINCT film, role FROM delivery WHERE sent <> {TAKEN} AND {unwanted}", which
            ).fetchall()
            for table in ("delivery", "result"):
                db.execute(f"DELETE FROM {table} WHERE {unwanted}", which)
            for number in {film for film, _ in films}:
                self._settle(db, number)
        return len(films)

    def owe_to(self, archives: Collection[str], *, commitment: bool = False) -> None:
        """Name the archives that results go to from now on. Those that are still here are owed to every one of them
        that has not had them; what waited for another archive waits for it no more. commitment: whether results that
        are stored stay until the archive is committed to them."""
        with self.transaction() as db:
            self._archives = tuple(archives)
            for archive in self._archives:
                db.execute(
                    "INSERT OR IGNORE INTO delivery (film, role, archive) "
                    "SELECT film, role, ? FROM result WHERE file IS NOT NULL ORDER BY rowid",
                    (archive,),
                )
            others = f"archive NOT IN ({', '.join('?' * len(self._archives))})"
            films = db.execute(f"SELECT DISTINCT film FROM delivery WHERE {others}", self._archives).fetchall()
            db.execute(f"DELETE FROM delivery WHERE {others}", self._archives)
            if not commitment:
                films += db.execute(f"SELECT DISTINCT film FROM delivery WHERE sent = {STORED}").fetchall()
                db.execute(f"UPDATE delivery SET sent = {TAKEN} WHERE sent = {STORED}")
            db.execute(
                "UPDATE film SET state = 'made', reason = NULL, said = NULL WHERE state = 'failed' "
                f"AND number IN (SELECT film FROM delivery WHERE sent = {WAITS})"
            )
            for (number,) in set(films):
                self._settle(db, number)

    def entries(self, states: Collection[State] = OPEN) -> list[Entry]:
        """Films in some states, oldest first, as people may see them."""
        with self.looked_into() as db:
            films = db.execute(
                f"SELECT number, key, state, received, due, said FROM film "
                f"WHERE state IN ({', '.join('?' * len(states))}) ORDER BY number",
                tuple(states),
            ).fetchall()
            names = self._names(db)
            results: dict[int, list[tuple[int, str, float, str | None]]] = {}
            for number, sent, role, archive, due, said in db.execute(
                "SELECT film, sent, role, archive, due, said FROM delivery ORDER BY film, role, archive"
            ):
                results.setdefault(number, []).append((sent, role + names[archive], due, said))
        entries = []
        for number, key, state, received, due, said in films:
            of_film = results.get(number, [])
            waits, refused, stored = (
                [result for result in of_film if result[0] == kind] for kind in (WAITS, REFUSED, STORED)
            )
            told = "; ".join(f"{role}: {why}" for _, role, _, why in (*refused, *waits, *stored) if why)
            entries.append(
                Entry(
                    key, state, received, min((result[2] for result in waits), default=due), told or said,
                    *(tuple(result[1] for result in kind) for kind in (waits, refused, stored)),
                )
            )  # fmt: skip
        return entries

    def counts(self) -> dict[State, int]:
        """Films in each state."""
        with self.looked_into() as db:
            found = dict(db.execute("SELECT state, count(*) FROM film GROUP BY state").fetchall())
        return {state: int(found.get(state, 0)) for state in STATES}

    def bytes_used(self) -> int:
        """What waits takes so much of the disk. (The file keeps its largest size; its room is used again.)"""
        return self.pages()[0]

    def reasons(self) -> tuple[str, ...]:
        """Why films were ignored or failed, oldest first. They may quote the films."""
        with self.looked_into() as db:
            rows = db.execute("SELECT reason FROM film WHERE reason IS NOT NULL ORDER BY number").fetchall()
        return tuple(row[0] for row in rows)

    @staticmethod
    def _tally(db: sqlite3.Connection, model: str, outcome: Outcome, scores: Mapping[str, float] | None = None) -> None:
        day = datetime.now(UTC).date().isoformat()
        rows = [("", 0.0), *(scores or {}).items()]
        db.executemany(
            "INSERT INTO day (day, model, outcome, finding, films, score) VALUES (?, ?, ?, ?, 1, ?) "
            "ON CONFLICT DO UPDATE SET films = films + 1, score = score + excluded.score",
            [(day, model, outcome, finding, score) for finding, score in rows],
        )

    # --- within -------------------------------------------------------------------------------------------------------

    def _retry(self, db: sqlite3.Connection, number: int | None) -> int:
        """Refused results go back in line, behind those that never were; and those that wait are due."""
        which, values = ("", ()) if number is None else (" AND film = ?", (number,))
        put_off = f"(sent = {REFUSED} OR sent = {WAITS} AND due > 0){which}"
        films = db.execute(f"SELECT DISTINCT film FROM delivery WHERE {put_off}", values).fetchall()
        db.executemany("UPDATE film SET state = 'made', reason = NULL WHERE number = ?", films)
        db.execute(f"UPDATE delivery SET sent = {WAITS}, attempts = 1, due = 0 WHERE {put_off}", values)
        db.execute(f"UPDATE delivery SET due = 0, asks = 0 WHERE sent = {STORED}{which}", values)
        return len(films)

    def _read_again(self, db: sqlite3.Connection, number: int | None) -> int:
        which, values = ("", ()) if number is None else (" AND number = ?", (number,))
        return db.execute(
            "UPDATE film SET state = 'received', attempts = 0, troubles = 0, due = 0, reason = NULL WHERE "
            f"(state = 'failed' AND file IS NOT NULL OR state = 'received' AND due > 0){which}",
            values,
        ).rowcount

    def _number(self, db: sqlite3.Connection, key: str) -> int:
        row = db.execute("SELECT number, state FROM film WHERE key = ?", (key,)).fetchone()
        if row is None or row[1] not in OPEN:
            state = "not in the queue" if row is None else row[1]
            raise ValueError(f"the film {key} is {state}; expected the key of one that waits or failed")
        return int(row[0])

    @staticmethod
    def _waits(db: sqlite3.Connection, number: int) -> bool:
        """Whether a film still waits to be read: a person may have dropped it meanwhile."""
        return db.execute("SELECT state FROM film WHERE number = ?", (number,)).fetchone() == ("received",)

    @staticmethod
    def _has_results(db: sqlite3.Connection, number: int) -> bool:
        return db.execute("SELECT 1 FROM result WHERE film = ?", (number,)).fetchone() is not None

    def _taken(self, db: sqlite3.Connection, number: int, role: str, archive: str) -> bool:
        """True where the film is done."""
        which = (number, role, archive)
        if not db.execute(
            f"UPDATE delivery SET sent = {TAKEN}, uid = NULL, asked = NULL WHERE film = ? AND role = ? AND archive = ?",
            which,
        ).rowcount:
            return False  # a person dropped the film meanwhile
        self._free(db, number)
        return self._settle(db, number) == "done"

    @staticmethod
    def _free(db: sqlite3.Connection, number: int) -> None:
        """Delete the files of a film's results that every archive took."""
        db.execute(
            "UPDATE result SET file = NULL WHERE film = ? AND file IS NOT NULL AND role NOT IN "
            f"(SELECT role FROM delivery WHERE film = ? AND sent <> {TAKEN})",
            (number, number),
        )

    def _refuse(
        self, db: sqlite3.Connection, which: tuple[int, str, str], reason: str, limit: int | None, longest: float
    ) -> bool:
        """As `refused`. which: film, role, archive."""
        where = "WHERE film = ? AND role = ? AND archive = ?"
        db.execute(
            f"UPDATE delivery SET due = ? + min(1 << min(attempts, 30), ?), attempts = attempts + 1, said = ? {where}",
            (time.time(), longest, reason, *which),
        )
        row = db.execute(f"SELECT attempts FROM delivery {where}", which).fetchone()
        if row is None or limit is None or row[0] < limit:
            return False
        db.execute(f"UPDATE delivery SET sent = {REFUSED} {where}", which)
        self._settle(db, which[0])
        return True

    def _settle(self, db: sqlite3.Connection, number: int) -> State:
        """Where a film stands, after what became of its results."""
        rows = db.execute(
            "SELECT sent, role, archive, said FROM delivery WHERE film = ? ORDER BY rowid", (number,)
        ).fetchall()
        if any(sent in (WAITS, STORED) for sent, *_ in rows):
            return "made"
        names = self._names(db)
        refused = "; ".join(f"{role}{names[archive]}: {said}" for sent, role, archive, said in rows if sent == REFUSED)
        if refused:
            self._move(db, number, "failed", refused, refused)
            return "failed"
        self._forget(db, number)
        self._move(db, number, "done")
        return "done"

    @staticmethod
    def _names(db: sqlite3.Connection) -> dict[str, str]:
        """Archive -> how it stands behind a role: named where there are several."""
        archives = [row[0] for row in db.execute("SELECT DISTINCT archive FROM delivery")]
        return {archive: f" to {archive}" if len(archives) > 1 else "" for archive in archives}

    @staticmethod
    def _forget(db: sqlite3.Connection, number: int) -> None:
        """Delete a film's results."""
        for table in ("delivery", "result"):
            db.execute(f"DELETE FROM {table} WHERE film = ?", (number,))

    @staticmethod
    def _move(
        db: sqlite3.Connection, number: int, state: State, reason: str | None = None, said: str | None = None
    ) -> None:
        file = "" if state == "failed" else ", file = NULL"
        db.execute(
            f"UPDATE film SET state = ?, reason = ?, said = ?, attempts = 0, troubles = 0, due = 0, changed = ?{file} "
            "WHERE number = ?",
            (state, reason, said, time.time(), number),
        )


def _not_yet() -> tuple[float, float]:
    """Times between which something is not due yet."""
    now = time.time()
    return now, now + FARTHEST
