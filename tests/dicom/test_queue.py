from __future__ import annotations

import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from datetime import datetime

import pytest

from agcxr.dicom import queue as queue_module
from agcxr.dicom.queue import Queue


@pytest.fixture
def queue(tmp_path):
    made = Queue(tmp_path / "q.sqlite")
    yield made
    made.close()


def reopened_after_a_kill(queue: Queue, folder) -> Queue:
    """The file as it lies on the disk at this moment, as a killed process leaves it, opened by the next one."""
    copy = folder / "copy" / "q.sqlite"
    copy.parent.mkdir(exist_ok=True)
    for path in queue.path.parent.glob("q.sqlite*"):
        shutil.copy(path, copy.parent / path.name)
    return Queue(copy)


def test_a_film_goes_through(queue):
    key = queue.key("1.2.3", "m")
    assert queue.add(key, b"film")
    film = queue.next_received()
    assert (film.key, film.attempts, film.file) == (key, 0, b"film")
    queue.made(film.number, (("sr", b"S"), ("sc", b"C")))
    assert queue.next_received() is None
    out = queue.next_made()
    assert (out.key, out.results) == (key, (("sr", b"S"), ("sc", b"C")))
    assert not queue.sent(out.number, "sr")
    assert queue.next_made().results == (("sc", b"C"),)
    assert queue.sent(out.number, "sc")
    assert queue.next_made() is None
    assert queue.counts() == {"received": 0, "made": 0, "done": 1, "ignored": 0, "failed": 0}


def test_nothing_is_done_twice(queue):
    key = queue.key("1.2.3", "m")
    assert queue.add(key, b"film")
    assert not queue.add(key, b"film")
    film = queue.next_received()
    queue.made(film.number, (("sr", b"S"),))
    assert not queue.add(key, b"film")
    queue.sent(film.number, "sr")
    assert not queue.add(key, b"film")
    assert queue.add(queue.key("1.2.3", "another model"), b"film")


def test_a_kill_between_any_two_steps_loses_nothing(queue, tmp_path):
    key = queue.key("1.2.3", "m")
    queue.add(key, b"film")
    after = reopened_after_a_kill(queue, tmp_path)
    assert after.key("1.2.3", "m") == key
    assert after.next_received().file == b"film"
    after.close()
    film = queue.next_received()
    after = reopened_after_a_kill(queue, tmp_path)
    assert after.next_received().attempts == 1
    after.close()
    queue.made(film.number, (("sr", b"S"), ("sc", b"C")))
    queue.sent(film.number, "sr")
    after = reopened_after_a_kill(queue, tmp_path)
    assert after.next_received() is None
    assert after.next_made().results == (("sc", b"C"),)
    after.close()


def test_trouble_goes_to_the_end_of_the_line(queue):
    for name in "ab":
        queue.add(name, name.encode())
    assert [queue.next_received().key for _ in range(4)] == ["a", "b", "a", "b"]


def test_failed_films_may_come_again_and_ignored_ones_not(queue):
    for key, state in (("a", "failed"), ("b", "ignored")):
        queue.add(key, b"film")
        queue.close_film(queue.next_received().number, state, f"reason {key}")
    assert queue.reasons() == ("reason a", "reason b")
    assert queue.add("a", b"again")
    assert not queue.add("b", b"again")
    assert queue.next_received().file == b"again"


def test_refused_results_are_set_aside_and_tried_by_the_next_node(queue):
    queue.add("a", b"film")
    number = queue.next_received().number
    queue.made(number, (("sr", b"S"),))
    assert not queue.refused(number, "sr", "status C000", limit=2)
    assert queue.refused(number, "sr", "status C000", limit=2)
    assert queue.next_made() is None
    assert queue.reasons() == ("sr: status C000",)
    assert not queue.add("a", b"film")
    assert queue.retry_refused() == 1
    assert queue.next_made().results == (("sr", b"S"),)


def test_films_leave_the_disk_when_they_are_done(queue):
    secret = b"Secretname^Anna" * 4000
    queue.add("a", secret)
    assert queue.bytes_used() > len(secret)
    number = queue.next_received().number
    queue.made(number, (("sr", secret),))
    queue.sent(number, "sr")
    assert queue.bytes_used() < len(secret)
    assert b"Secretname" not in b"".join(path.read_bytes() for path in queue.path.parent.glob("q.sqlite*"))


def test_only_the_owner_reads_it_and_keys_tell_nothing(queue, tmp_path):
    assert stat.S_IMODE(queue.path.stat().st_mode) == 0o600
    other = Queue(tmp_path / "other.sqlite")
    assert other.key("1.2.3", "m") != queue.key("1.2.3", "m")
    assert len(queue.key("1.2.3", "m")) == 16
    other.close()


def test_one_process_at_a_time(queue):
    with pytest.raises(ValueError, match="another node may hold it"):
        Queue(queue.path)


def test_other_files_are_told(tmp_path):
    (tmp_path / "x").write_bytes(b"no database at all" * 100)
    with pytest.raises(ValueError, match="is no queue of agcxr"):
        Queue(tmp_path / "x")
    newer = Queue(tmp_path / "y")
    newer.close()
    with sqlite3.connect(tmp_path / "y") as db:
        db.execute("UPDATE meta SET value = x'39' WHERE name = 'format'")
    db.close()
    with pytest.raises(ValueError, match="written by a newer agcxr"):
        Queue(tmp_path / "y")


def with_results(queue: Queue, key: str = "a", roles: tuple[str, ...] = ("sr", "sc", "seg")) -> int:
    """A film whose results wait."""
    queue.add(key, b"film")
    number = queue.next_received().number
    queue.made(number, tuple((role, role.encode()) for role in roles))
    return number


def test_each_result_is_judged_by_itself(queue):
    first, second = with_results(queue, "a"), with_results(queue, "b")
    assert not queue.refused(first, "sr", "status A700", limit=None)
    assert [role for role, _ in queue.next_made().results] == ["sc", "seg"]  # at once; the report in a second
    assert queue.refused(first, "seg", "status A900", limit=1)
    assert not queue.sent(first, "sc")
    assert queue.next_made().number == second
    assert not queue.sent(first, "sr")
    assert queue.counts()["failed"] == 1
    assert queue.reasons() == ("seg: status A900",)
    (entry,) = queue.entries(("failed",))
    assert (entry.key, entry.said, entry.waiting, entry.refused) == ("a", "seg: status A900", (), ("seg",))


def test_roles_that_are_held_back_hold_back_no_other(queue):
    with_results(queue, "a", ("seg",))
    with_results(queue, "b", ("sr", "seg"))
    assert queue.next_made(("seg",)).results == (("sr", b"sr"),)
    assert queue.next_made().key == "a"
    assert queue.next_made(("sr", "seg")) is None


def test_what_the_archive_refused_is_tried_again_when_a_person_says_so(queue):
    number = with_results(queue)
    queue.refused(number, "seg", "status 0122", limit=1)
    queue.sent(number, "sr")
    queue.sent(number, "sc")
    assert queue.next_made() is None
    assert queue.retry(("a",)) == 1
    assert queue.next_made().results == (("seg", b"seg"),)
    assert queue.sent(number, "seg")
    assert queue.counts()["done"] == 1


def test_results_that_nobody_wants_any_more_are_let_go(queue):
    number = with_results(queue)
    queue.refused(number, "seg", "status 0122", limit=1)
    queue.sent(number, "sr")
    queue.sent(number, "sc")
    with_results(queue, "b")
    assert queue.keep_roles(("sr", "sc")) == 2
    assert queue.counts() == {"received": 0, "made": 1, "done": 1, "ignored": 0, "failed": 0}
    assert [role for role, _ in queue.next_made().results] == ["sr", "sc"]


def test_a_film_that_made_trouble_is_put_off_and_no_other(queue, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("agcxr.dicom.queue.time.time", lambda: now)
    for key in "ab":
        queue.add(key, key.encode())
    dues = []
    for _ in range(4):
        film = queue.next_received()
        assert film.key == "a"
        assert film.attempts == 0  # trouble is no crash
        queue.defer(film.number, "OSError", 5)
        dues.append(queue.entries()[0].due - now)
        other = queue.next_received()
        assert other.key == "b"
        queue.defer(other.number, "OSError", 0)
        now += 6
    assert dues == [1, 2, 4, 5]
    now -= 10**9  # a clock that is set back puts nothing off for years
    assert queue.next_received() is not None


def test_what_failed_keeps_its_film_until_a_person_lets_it_go(queue):
    secret = b"Secretname^Anna" * 1000
    queue.add("a", secret)
    queue.close_film(queue.next_received().number, "failed", "Secretname cannot be read", "it cannot be read")
    assert queue.next_received() is None
    (entry,) = queue.entries()
    assert entry.said == "it cannot be read"
    assert queue.retry() == 1
    assert queue.next_received().file == secret
    assert queue.drop(("a",)) == 1
    assert queue.entries() == []
    assert queue.counts()["ignored"] == 1
    assert b"Secretname^Anna" not in b"".join(path.read_bytes() for path in queue.path.parent.glob("q.sqlite*"))
    with pytest.raises(ValueError, match=r"^the film a is ignored; expected the key of one that waits or failed$"):
        queue.retry(("a",))
    with pytest.raises(ValueError, match=r"^the film b is not in the queue; expected the key"):
        queue.drop(("b",))


def limit_pages(queue: Queue, more: int) -> None:
    """The file may grow by so many pages of 4 KiB."""
    pages = queue._db.execute("PRAGMA page_count").fetchone()[0]
    queue._db.execute(f"PRAGMA max_page_count = {pages + more}")


def test_a_film_that_does_not_fit_is_not_kept_and_the_queue_goes_on(queue):
    assert queue.add("a", b"small")
    limit_pages(queue, 20)
    with pytest.raises(sqlite3.OperationalError, match="database or disk is full"):
        queue.add("b", b"x" * 200_000)
    assert queue.counts()["received"] == 1
    assert queue.add("c", b"fits")
    assert queue.next_received().file == b"small"


def test_results_take_the_place_of_their_film(queue):
    queue.add("a", b"x" * 400_000)
    limit_pages(queue, 8)
    queue.made(queue.next_received().number, (("sr", b"s" * 200_000), ("sc", b"c" * 180_000)))
    assert [len(file) for _, file in queue.next_made().results] == [200_000, 180_000]


def test_a_film_whose_results_do_not_fit_stays(queue):
    queue.add("a", b"film")
    limit_pages(queue, 20)
    for _ in range(7):
        film = queue.next_received()
        with pytest.raises(sqlite3.OperationalError, match="full"):
            queue.made(film.number, (("sr", b"x" * 200_000),))
        queue.defer(film.number, "database or disk is full", 0)
    assert queue.next_received().file == b"film"
    limit_pages(queue, 10_000)
    queue.made(film.number, (("sr", b"x" * 200_000),))
    assert queue.next_made().key == "a"


FULL_DISK = """
import os, resource, signal, sys
from agcxr.dicom.queue import Queue

queue = Queue(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
kept = []
for i in range(30):
    try:
        queue.add(f"film {i}", b"%03d" % i * 33_000)
        kept.append(i)
    except Exception as error:
        print(type(error).__module__, file=sys.stderr)
print(*kept, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits the size of files")
def test_all_that_was_acknowledged_is_there_after_the_disk_was_full_and_a_kill(tmp_path):
    path = tmp_path / "q.sqlite"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, timeout=120)
    kept = [int(number) for number in done.stdout.split()]
    assert 0 < len(kept) < 30
    assert set(done.stderr.split()) == {"sqlite3"}
    again = Queue(path)
    files = {film.key: film.file for film in [again.next_received() for _ in kept]}
    assert again.counts()["received"] == len(kept)
    again.close()
    assert files == {f"film {i}": b"%03d" % i * 33_000 for i in kept}


FORMAT_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE film (
    number INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    received REAL NOT NULL, changed REAL NOT NULL, reason TEXT, file BLOB);
CREATE TABLE result (
    film INTEGER NOT NULL REFERENCES film(number), role TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0, file BLOB,
    PRIMARY KEY (film, role));
CREATE INDEX film_state ON film (state, number);
INSERT INTO meta VALUES ('salt', x'aa'), ('format', x'31');
INSERT INTO film VALUES (1, 'waits', 'received', 2, 10.5, 10.5, NULL, x'0102');
INSERT INTO film VALUES (2, 'half', 'made', 3, 11.5, 11.5, NULL, NULL);
INSERT INTO result VALUES (2, 'sr', 1, NULL), (2, 'sc', 0, x'03'), (2, 'seg', 0, x'04');
INSERT INTO film VALUES (3, 'refused', 'failed', 0, 12.5, 12.5, 'sr: status C000', NULL);
INSERT INTO result VALUES (3, 'sr', 0, x'05');
INSERT INTO film VALUES (4, 'unread', 'failed', 0, 13.5, 13.5, 'Secret', NULL);
INSERT INTO film VALUES (5, 'left', 'ignored', 0, 14.5, 14.5, 'not a frontal view', NULL);
INSERT INTO film VALUES (6, 'done', 'done', 0, 15.5, 15.5, NULL, NULL);
"""
"""A queue as the version before wrote it."""


FORMAT_2 = f"""{FORMAT_1}
ALTER TABLE film ADD COLUMN model TEXT;
ALTER TABLE film ADD COLUMN troubles INTEGER NOT NULL DEFAULT 0;
ALTER TABLE film ADD COLUMN due REAL NOT NULL DEFAULT 0;
ALTER TABLE film ADD COLUMN said TEXT;
ALTER TABLE result ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE result ADD COLUMN due REAL NOT NULL DEFAULT 0;
ALTER TABLE result ADD COLUMN said TEXT;
CREATE INDEX film_next ON film (state, attempts, troubles, number, due, key, received, said);
CREATE INDEX result_next ON result (sent, attempts, film, role, due, said);
UPDATE result SET sent = 2 WHERE film = 3;
UPDATE film SET said = reason WHERE number = 3;
UPDATE meta SET value = x'32' WHERE name = 'format';
"""
"""A queue as the version after that wrote it."""

FORMAT_3 = f"""{FORMAT_2}
CREATE TABLE day (
    day TEXT NOT NULL, model TEXT NOT NULL, outcome TEXT NOT NULL, finding TEXT NOT NULL DEFAULT '',
    films INTEGER NOT NULL DEFAULT 0, score REAL NOT NULL DEFAULT 0, PRIMARY KEY (day, model, outcome, finding));
UPDATE meta SET value = x'33' WHERE name = 'format';
"""
"""A queue as the last version with one archive wrote it."""


@pytest.mark.parametrize("written", [FORMAT_1, FORMAT_2, FORMAT_3], ids=["format 1", "format 2", "format 3"])
def test_a_queue_of_a_version_before_goes_on(tmp_path, written):
    path = tmp_path / "q.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(written)
    db.close()
    for _ in range(2):  # opened again it stays as it is
        queue = Queue(path)
        assert queue.counts() == {"received": 1, "made": 1, "done": 1, "ignored": 1, "failed": 2}
        assert [entry.said for entry in queue.entries()] == [None, None, "sr: status C000", None]
        queue.close()
    queue = Queue(path)
    film = queue.next_received()
    assert (film.key, film.attempts, film.file, film.model, film.troubles) == ("waits", 2, b"\1\2", None, 0)
    out = queue.next_made()
    assert (out.key, out.received, out.results) == ("half", 11.5, (("sc", b"\3"), ("seg", b"\4")))
    assert not queue.sent(2, "sc")
    assert queue.sent(2, "seg")
    assert queue.next_made() is None
    assert queue.retry_refused() == 1
    assert queue.next_made().results == (("sr", b"\5"),)
    assert not queue.add("done", b"again")
    assert queue.add("unread", b"again")
    queue.close()


@pytest.mark.parametrize("written", [FORMAT_1, FORMAT_2, FORMAT_3], ids=["format 1", "format 2", "format 3"])
def test_what_a_version_before_left_goes_to_every_archive_that_is_named(tmp_path, written):
    path = tmp_path / "q.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(written)
    db.close()
    queue = Queue(path)
    queue.owe_to(("A", "B"))
    assert queue.standing() == {"A": (3, 0, 0), "B": (3, 0, 0)}  # sc and seg of one film, sr of the other
    assert queue.counts() == {"received": 1, "made": 2, "done": 1, "ignored": 1, "failed": 1}
    assert queue.next_made() is None
    for archive in "AB":
        assert queue.next_made(archive=archive).results == (("sc", b"\3"), ("seg", b"\4"))
        assert not queue.sent(2, "sc", archive)
    assert not queue.sent(2, "seg", "A")
    assert queue.sent(2, "seg", "B")
    queue.close()


def test_each_archive_is_judged_by_itself(queue):
    queue.owe_to(("A", "B"))
    first, second = with_results(queue, "a"), with_results(queue, "b")
    for number in (first, second):
        for role in ("sr", "sc", "seg"):
            assert not queue.sent(number, role, "A")
    assert queue.next_made(archive="A") is None
    assert queue.refused(first, "seg", "status A900", limit=1, archive="B")
    assert not queue.refused(first, "sr", "status A700", limit=None, archive="B")
    entry = queue.entries()[0]
    assert (entry.refused, entry.waiting) == (("seg to B",), ("sc to B", "sr to B"))
    assert entry.said == "seg to B: status A900; sr to B: status A700"
    assert queue.standing() == {"A": (0, 0, 0), "B": (5, 0, 1)}
    assert not queue.sent(first, "sc", "B")
    assert not queue.sent(first, "sr", "B")
    assert queue.counts()["failed"] == 1
    assert queue.reasons() == ("seg to B: status A900",)
    kept = queue._db.execute("SELECT role FROM result WHERE film = ? AND file IS NOT NULL", (first,)).fetchall()
    assert kept == [("seg",)]
    assert queue.retry() == 1
    assert queue.sent(first, "seg", "B")


def test_an_archive_that_is_named_no_more_holds_up_nothing_and_a_new_one_gets_what_is_here(queue):
    queue.owe_to(("A", "B"))
    number = with_results(queue)
    for role in ("sr", "sc"):
        queue.sent(number, role, "A")
    queue.refused(number, "seg", "status A900", limit=1, archive="A")
    queue.sent(number, "sr", "B")
    queue.owe_to(("A", "C"))  # the report's file is gone: all that were named had it
    assert [role for role, _ in queue.next_made(archive="C").results] == ["sc", "seg"]
    assert queue.next_made(archive="B") is None
    queue.sent(number, "sc", "C")
    queue.sent(number, "seg", "C")
    assert queue.counts()["failed"] == 1
    queue.owe_to(("C",))
    assert queue.counts()["done"] == 1


def test_results_stay_until_the_archive_is_committed_to_them(queue, monkeypatch):
    queue.owe_to(("A",), commitment=True)
    number = with_results(queue, roles=("sr", "sc"))
    for role in ("sr", "sc"):
        queue.stored(number, role, "A", f"1.2.{role}")
    assert (queue.next_made(archive="A"), queue.standing()) == (None, {"A": (0, 2, 0)})
    assert queue.entries()[0].stored == ("sc", "sr")
    assert queue.ask("A", "t1") == [("sr", "1.2.sr"), ("sc", "1.2.sc")]
    assert queue.ask("A", "t2") == []  # its answer is awaited
    strangers = queue.report("t0", {"1.2.sr", "1.2.sc"}, {}, limit=2)
    assert (strangers.committed, strangers.refused, strangers.done) == (0, 0, ())
    answer = queue.report("t1", {"1.2.sr", "1.2.other"}, {"1.2.sc": "not committed: reason 0112"}, limit=2)
    assert (answer.committed, answer.refused, answer.done) == (1, 1, ())
    assert queue.entries()[0].said == "sc: not committed: reason 0112"
    queue.retry()
    assert queue.next_made(archive="A").results == (("sc", b"sc"),)  # it is sent again
    queue.stored(number, "sc", "A", "1.2.sc")
    assert queue.ask("A", "t3") == [("sc", "1.2.sc")]
    queue.not_asked("t3")  # the archive was away
    assert queue.ask("A", "t4") == [("sc", "1.2.sc")]
    now = time.time()
    monkeypatch.setattr(queue_module.time, "time", lambda: now + queue_module.ANSWER + 1)
    assert queue.ask("A", "t5") == [("sc", "1.2.sc")]  # it never answered
    assert queue.report("t4", {"1.2.sc"}, {}, limit=2).done == ()
    ((key, _),) = queue.report("t5", {"1.2.sc"}, {}, limit=2).done
    assert (key, queue.counts()["done"]) == ("a", 1)


def test_without_commitment_what_is_stored_is_done(queue):
    queue.owe_to(("A",), commitment=True)
    number = with_results(queue, roles=("sr",))
    queue.stored(number, "sr", "A", "1.2.3")
    queue.owe_to(("A",), commitment=True)
    assert queue.counts()["made"] == 1
    queue.owe_to(("A",))
    assert queue.counts()["done"] == 1


def test_people_look_and_mend_while_a_node_holds_it(queue):
    number = with_results(queue)
    queue.refused(number, "sr", "status 0122", limit=1)
    people = Queue(queue.path, beside=True)
    assert people.entries()[0].refused == ("sr",)
    assert people.retry() == 1
    people.close()
    assert [role for role, _ in queue.next_made().results] == ["sr", "sc", "seg"]
    with pytest.raises(ValueError, match="another node may hold it"):
        Queue(queue.path)


def test_only_a_queue_that_is_there_is_looked_into(tmp_path):
    with pytest.raises(ValueError, match=r"q.sqlite is not there; name the queue of a node \(--queue\)$"):
        Queue(tmp_path / "q.sqlite", beside=True)
    assert list(tmp_path.iterdir()) == []


def test_room_leaves_what_the_work_needs(queue, monkeypatch):
    class Disk:
        free = 100 << 20

    monkeypatch.setattr("agcxr.dicom.queue.shutil.disk_usage", lambda _: Disk)
    free = queue.room()
    assert 60 << 20 < free < 72 << 20
    queue.add("a", b"x" * (1 << 20))
    assert queue.room() == pytest.approx(free - (1 << 20), abs=1 << 16)  # as much again while results replace it


def test_what_a_person_drops_while_it_is_worked_on_stays_dropped_until_it_is_sent_again(queue):
    queue.add("a", b"film")
    film = queue.next_received()
    queue.drop(("a",))
    queue.made(film.number, (("sr", b"S"),))
    queue.close_film(film.number, "failed", "reason")
    assert queue.next_made() is None
    number = with_results(queue, "b")
    queue.drop(("b",))
    assert not queue.sent(number, "sr")
    assert not queue.refused(number, "sc", "status A900", limit=1)
    assert queue.counts() == {"received": 0, "made": 0, "done": 0, "ignored": 2, "failed": 0}
    assert queue.add("a", b"again")
    assert queue.next_received().file == b"again"


def test_reading_is_counted_by_day_model_and_outcome(queue, monkeypatch):
    day = 6

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 5, day, 23, 59, tzinfo=tz)

    monkeypatch.setattr(queue_module, "datetime", Clock)
    for number, score in enumerate([0.25, 0.75, 1.0]):
        day = 6 + number // 2
        queue.add(f"film {number}", b"film")
        film = queue.next_received()
        for _ in range(2):  # the second time it is made already, and does not count
            queue.made(film.number, (("sr", b"report"),), model="ours", scores={"Mass": score})
        queue.note("shadow", {"Mass": 0.5})
    for state, outcome in (("ignored", "refused"), ("ignored", None), ("failed", None)):
        queue.add(f"{state} {outcome}", b"film")
        queue.close_film(queue.next_received().number, state, "reason", model="ours", outcome=outcome)
    days = [(one.day, one.model, one.outcome, one.films, one.means) for one in queue.days()]
    assert days == [
        ("2026-05-06", "ours", "read", 2, {"Mass": 0.5}),
        ("2026-05-06", "shadow", "read", 2, {"Mass": 0.5}),
        ("2026-05-07", "ours", "failed", 1, {}),
        ("2026-05-07", "ours", "ignored", 1, {}),
        ("2026-05-07", "ours", "read", 1, {"Mass": 1.0}),
        ("2026-05-07", "ours", "refused", 1, {}),
        ("2026-05-07", "shadow", "read", 1, {"Mass": 0.5}),
    ]
    assert {one.day for one in queue.days("2026-05-07")} == {"2026-05-07"}
