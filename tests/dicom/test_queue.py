from __future__ import annotations

import shutil
import sqlite3
import stat

import pytest

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
