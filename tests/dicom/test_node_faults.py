"""What goes wrong around a node: an archive that refuses some objects, a full disk, odd films, films that are slow."""

from __future__ import annotations

import sqlite3
import time

import pytest
from dicom_made import DX, SC, film, fresh, written
from node_made import FakeArchive, send, wait_for

from agcxr.data.isolation import NotStarted
from agcxr.dicom import node as node_module
from agcxr.dicom import reading
from agcxr.dicom.archive import CLASSES, Archive, ArchiveDown, ArchiveRefused, ArchiveSilent, Timeouts
from agcxr.dicom.peers import Peer
from agcxr.dicom.queue import Queue
from agcxr.dicom.results import make_results, to_bytes
from agcxr.dicom.source import read_source

SR, _, SEG = CLASSES
FAILS = 0xA900


@pytest.mark.parametrize("how", ["status", "context", "hangs up"])
def test_an_archive_that_refuses_segmentations_gets_the_rest_at_once(bench, archive, algorithm, how):
    if how == "status":
        archive.judge = lambda ds: FAILS if ds.SOPClassUID == SEG else 0
    elif how == "context":
        archive.down()
        archive = bench.archive = FakeArchive([uid for uid in CLASSES if uid != SEG]).up()
    else:
        archive.hangs_up_on = SEG
    films = [fresh(seed) for seed in range(6)]
    with bench.node() as node:
        send(node.port, *films)
        start = time.monotonic()
        wait_for(lambda: bench.queue.counts()["received"] == 0)
        read = time.monotonic() - start
        wait_for(lambda: len(archive.taken) == 12)
        assert time.monotonic() - start - read < 6
        for one in films:
            assert sorted(archive.results_of(one.SOPInstanceUID, algorithm)) == ["sc", "sr"]
        if how != "hangs up":
            wait_for(lambda: bench.queue.counts()["failed"] == 6)
            reason = "status A900" if how == "status" else "it does not accept this kind of object"
            assert set(bench.queue.reasons()) == {f"seg: {reason}"}
            assert bench.names()["archive down"] == 0
    bench.queue.close()
    archive.down()


def test_an_archive_that_refuses_reports_gets_pictures_and_segmentations(running, bench, archive):
    archive.judge = lambda ds: 0x0122 if ds.SOPClassUID == SR else 0
    send(running.port, fresh(0), fresh(1))
    wait_for(lambda: len(archive.taken) == 4)
    assert {ds.SOPClassUID for ds in archive.taken} == {SC, SEG}
    wait_for(lambda: bench.queue.counts()["failed"] == 2)
    assert {entry.said for entry in bench.queue.entries()} == {"sr: status 0122"}


def test_what_was_refused_for_good_is_sent_when_the_archive_was_mended(bench, archive, algorithm):
    archive.judge = lambda ds: FAILS if ds.SOPClassUID == SEG else 0
    one = fresh()
    with bench.node() as node:
        send(node.port, one)
        wait_for(lambda: bench.queue.counts()["failed"] == 1)
        archive.judge = None
        people = Queue(bench.path, beside=True)  # `agcxr dicom-node retry`, while the node works
        assert people.retry() == 1
        people.close()
        wait_for(lambda: bench.queue.counts()["done"] == 1)
    bench.queue.close()
    assert archive.results_of(one.SOPInstanceUID, algorithm) == ["sr", "sc", "seg"]


@pytest.mark.parametrize("status", [0x0111, 0xB000, 0xB006, 0xB007, 0x0107, 0x0116, 0x0001])
def test_duplicates_and_warnings_are_stored(running, bench, archive, status):
    archive.judge = lambda _: status
    send(running.port, fresh())
    wait_for(lambda: bench.names()["done"] == 1)
    notes = [event["note"] for event in bench.events() if event["event"] == "stored with a note"]
    assert notes == [f"status {status:04X}" + (", it had it already" if status == 0x0111 else "")] * 3


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(0xA700, "later"), (0xA7FF, "later"), (0x0110, "later"), (0x0213, "later"), (0xA900, "never"), (0xA9FF, "never"),
     (0x0122, "never"), (0xC000, "again"), (0xC123, "again"), (0x0124, "again"), (0x5678, "again")],
)  # fmt: skip
def test_what_a_status_says(archive, predictor, algorithm, status, verdict):
    data = written(film())
    (_, report), *_ = make_results(read_source(data), predictor(data), algorithm, ("sr",))
    archive.judge = lambda _: status
    peer = Archive(Peer("ARCHIVE", "127.0.0.1", archive.port), "AGCXR")
    with pytest.raises(ArchiveRefused, match=f"^status {status:04X}$") as refused:
        peer.store(to_bytes(report))
    assert refused.value.verdict == verdict
    peer.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom drops refused sockets
def test_only_a_missing_association_is_an_archive_that_is_down(archive, predictor, algorithm):
    data = written(film())
    (_, report), *_ = make_results(read_source(data), predictor(data), algorithm, ("sr",))
    peer = Archive(Peer("ARCHIVE", "127.0.0.1", archive.port), "AGCXR", Timeouts(answer=1), [SR])
    archive.hangs_up_on = SR
    with pytest.raises(ArchiveSilent, match="^no answer while it was being sent$"):
        peer.store(to_bytes(report))
    archive.hangs_up_on, archive.judge = None, lambda _: time.sleep(3) or 0
    with pytest.raises(ArchiveSilent):
        peer.store(to_bytes(report))
    archive.down()
    with pytest.raises(ArchiveDown, match="^no connection$"):
        peer.store(to_bytes(report))
    other = FakeArchive([SEG]).up()
    with pytest.raises(ArchiveDown, match="^it accepts none of these kinds of object$"):
        Archive(Peer("ARCHIVE", "127.0.0.1", other.port), "AGCXR", classes=[SR]).store(to_bytes(report))
    other.down()


def test_only_the_chosen_objects_are_made_and_sent(bench, archive, algorithm):
    archive.judge = lambda ds: FAILS if ds.SOPClassUID == SEG else 0
    first, second = fresh(0), fresh(1)
    with bench.node() as node:
        send(node.port, first)
        wait_for(lambda: bench.queue.counts()["failed"] == 1)
    bench.queue.close()
    archive.judge = None
    with bench.node(objects=("sr", "sc")) as node:  # what was refused before is not wanted any more
        assert bench.queue.counts()["done"] == 1
        send(node.port, second)
        wait_for(lambda: bench.queue.counts()["done"] == 2)
    bench.queue.close()
    for one in (first, second):
        assert sorted(archive.results_of(one.SOPInstanceUID, algorithm)) == ["sc", "sr"]


def limit_pages(queue: Queue, more: int) -> None:
    """The file may grow by so many pages of 4 KiB."""
    pages = queue._db.execute("PRAGMA page_count").fetchone()[0]
    queue._db.execute(f"PRAGMA max_page_count = {pages + more}")


def test_nothing_is_acknowledged_that_does_not_fit_and_what_was_is_not_lost(bench, archive, algorithm):
    archive.down()
    films = [fresh(seed) for seed in range(4)]  # of 96 KB; the results of one need several MB
    with bench.node() as node:
        limit_pages(bench.queue, 60)
        statuses = send(node.port, *films)
        assert statuses[0] == 0
        assert statuses[-1] == 0xA700
        wait_for(lambda: bench.names()["trouble"] >= 6, 120)  # more than ever ended a film
        kept = statuses.count(0)
        assert bench.queue.counts() == {"received": kept, "made": 0, "done": 0, "ignored": 0, "failed": 0}
        errors = {event["error"] for event in bench.events() if event["event"] in ("trouble", "not kept")}
        assert errors == {"database or disk is full"}
        archive.up()
        limit_pages(bench.queue, 100_000)
        wait_for(lambda: bench.queue.counts()["done"] == kept)
    bench.queue.close()
    acknowledged = [one for one, status in zip(films, statuses, strict=True) if status == 0]
    for one in acknowledged:
        assert archive.results_of(one.SOPInstanceUID, algorithm) == ["sr", "sc", "seg"]
    assert len(archive.taken) == 3 * kept


def test_a_disk_that_is_nearly_full_is_said_before_it_is_full(running, bench, monkeypatch):
    monkeypatch.setattr(Queue, "room", lambda _: 50_000)
    assert send(running.port, fresh()) == [0xA700]
    assert bench.queue.counts()["received"] == 0


def test_an_error_of_the_disk_is_no_success(running, bench, monkeypatch):
    def fails(*_):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(bench.queue, "add", fails)
    assert send(running.port, fresh()) == [0xA700]


def test_a_film_that_cannot_be_worked_on_holds_up_no_other(running, bench, archive, monkeypatch):
    bad = fresh(1)
    made = node_module.make_results

    def fails(source, *given):
        if source.sop_instance_uid == bad.SOPInstanceUID:
            raise RuntimeError("Secretname")
        return made(source, *given)

    monkeypatch.setattr(node_module, "make_results", fails)
    good = [fresh(seed) for seed in range(4)]
    send(running.port, bad, *good)
    start = time.monotonic()
    wait_for(lambda: bench.queue.counts()["done"] == 4)
    assert time.monotonic() - start < 15
    wait_for(lambda: bench.names()["trouble"] >= 3)
    assert bench.queue.counts()["received"] == 1
    assert bench.queue.entries()[0].said == "RuntimeError"
    monkeypatch.undo()
    wait_for(lambda: bench.queue.counts()["done"] == 5)  # the fault was not the film's


ODD = {
    "two referring physicians": {"ReferringPhysicianName": ["A^B", "C^D"]},
    "30 February": {"StudyDate": "20240230", "PatientBirthDate": "19500230"},
    "a range of dates": {"StudyDate": "20240101-20240131"},
    "two names of a patient": {"PatientName": ["A^B", "C^D"]},
}


@pytest.mark.filterwarnings("ignore")  # of pydicom, which writes such values under protest
@pytest.mark.parametrize("odd", ODD)
def test_odd_headers_come_through(running, bench, archive, odd):
    one = fresh(**ODD[odd])
    assert send(running.port, one) == [0]
    wait_for(lambda: bench.queue.counts()["done"] + bench.queue.counts()["failed"] == 1)
    assert {ds.StudyInstanceUID for ds in archive.taken} == {one.StudyInstanceUID}
    assert len(archive.taken) == 3
    assert bench.names()["trouble"] == 0
    report = next(ds for ds in archive.taken if ds.SOPClassUID == SR)
    told = [element.value for element in report.iterall() if element.keyword == "TextValue"]
    emptied = [name for name in ODD[odd] if name != "PatientName"]
    note = f"Left empty or out, since the film's header holds no valid value: {', '.join(sorted(emptied))}"
    assert (note in told) == bool(emptied)
    for ds in archive.taken:
        assert all(ds[name].is_empty for name in emptied)
        assert ds.PatientName == one.PatientName


@pytest.fixture
def no_time(monkeypatch):
    """A film of any size has a microsecond to be read."""
    monkeypatch.setattr(reading, "SECONDS", 1e-6)
    monkeypatch.setattr(reading, "BYTES_A_SECOND", float("inf"))
    return monkeypatch


def test_a_film_that_takes_too_long_is_read_last_and_with_more_time(running, bench, archive, no_time):
    no_time.setattr(node_module, "PATIENCE", 100e6)
    one = fresh()
    send(running.port, one)
    wait_for(lambda: bench.queue.counts()["done"] == 1)
    assert bench.names()["put off"] == 1
    assert {ds.StudyInstanceUID for ds in archive.taken} == {one.StudyInstanceUID}


def test_a_film_that_always_takes_too_long_is_set_aside(running, bench, no_time):
    no_time.setattr(node_module, "PATIENCE", 1)
    send(running.port, fresh())
    wait_for(lambda: bench.queue.counts()["failed"] == 1)
    assert bench.queue.entries()[0].said.startswith("decoding it took longer than 1e-06 seconds")
    no_time.undo()
    assert bench.queue.retry() == 1
    wait_for(lambda: bench.queue.counts()["done"] == 1)


def test_a_film_that_was_received_under_another_model_is_read_under_this_one(bench, archive, algorithm):
    films = [film(0), film(1), film(2)]
    queue = Queue(bench.path)
    uids = [one.SOPInstanceUID for one in films]
    queue.add(queue.key(uids[0], "the model before"), written(films[0]), "the model before")
    queue.add(queue.key(uids[1], "unknown"), written(films[1]), "the model before")
    queue.add(queue.key(uids[2], "unknown"), written(films[2]))
    queue._db.execute("UPDATE film SET model = NULL WHERE number = 3")  # as the version before kept it
    queue.close()
    with bench.node():
        wait_for(lambda: bench.queue.counts()["done"] == 2 and bench.queue.counts()["failed"] == 1)
        assert bench.queue.reasons() == ("its UID is not the one it was sent under",)
    bench.queue.close()
    assert archive.results_of(uids[0], algorithm) == archive.results_of(uids[2], algorithm) == ["sr", "sc", "seg"]


def test_a_message_that_never_ends_is_not_kept_in_memory(running, bench, monkeypatch):
    monkeypatch.setattr(node_module, "LARGEST_FILM", 1 << 20)
    large = fresh(shape=(2000, 2000))
    assert send(running.port, large) == [None]
    assert bench.names()["no room"] == 1
    assert send(running.port, fresh(shape=(600, 600))) == [0]
    wait_for(lambda: bench.names()["done"] == 1)


def test_nothing_of_a_films_bytes_is_read_in_the_nodes_own_process(running, bench, archive, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the node's own process looked into a film")

    for name in ("agcxr.data.radiograph._read", "agcxr.data.dicomfile.decode_dicom", "agcxr.dicom.source._source"):
        monkeypatch.setattr(name, never)
    send(running.port, fresh(), fresh(1, sop_class=DX, BodyPartExamined="KNEE"))
    wait_for(lambda: bench.queue.counts()["done"] == 1 and bench.queue.counts()["ignored"] == 1)
    assert len(archive.taken) == 3


def test_a_process_that_cannot_start_is_no_films_fault(running, bench, archive, monkeypatch):
    def fails(*_):
        raise NotStarted("/nowhere/python: no such file")

    reading._children.stop()
    with monkeypatch.context() as patch:
        patch.setattr("agcxr.data.isolation._started", fails)
        send(running.port, fresh())
        wait_for(lambda: bench.names()["trouble"] >= 2)
        assert bench.queue.counts()["received"] == 1
        assert {event["error"] for event in bench.events() if event["event"] == "trouble"} == {
            "a process for reading films could not start"
        }
    wait_for(lambda: bench.queue.counts()["done"] == 1)
