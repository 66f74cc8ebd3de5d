"""The node against a fake archive in the same process: always run. test_orthanc.py does the same with a real one."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading

import pydicom
import pytest
from dicom_made import CR, SC, film, fresh, pixels, written
from node_made import free_port, send, wait_for
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from agcxr.dicom import node as node_module
from agcxr.dicom import sender
from agcxr.dicom.node import NodeSettings
from agcxr.dicom.peers import Caller, Peer
from agcxr.dicom.queue import Queue

NO_TORCH = """
from pathlib import Path

Path(__file__).with_name("was_imported").touch()
raise ImportError("torch was to stay out")
"""
SECRETS = ("Secret", "SECRET", "1.2.826", "2.25.", "19500102", "20240506")


def test_a_film_becomes_three_results(running, bench, archive, algorithm):
    one = film()
    assert send(running.port, one) == [0]
    wait_for(lambda: len(archive.taken) == 3)
    assert archive.results_of(one.SOPInstanceUID, algorithm) == ["sr", "sc", "seg"]
    assert {ds.StudyInstanceUID for ds in archive.taken} == {one.StudyInstanceUID}
    assert {str(ds.PatientName) for ds in archive.taken} == {"Secretname^Anna"}
    wait_for(lambda: bench.names()["done"] == 1)


def test_the_same_film_again_is_known(running, bench, archive):
    one = film()
    assert send(running.port, one, one) == [0, 0]
    wait_for(lambda: bench.names()["done"] == 1)
    assert send(running.port, one) == [0]
    assert bench.names()["known already"] == 2
    assert len(archive.taken) == 3


def test_echo(running):
    ae = AE(ae_title="XRAY")
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", running.port, ae_title="AGCXR")
    assert association.send_c_echo().Status == 0
    association.release()


@pytest.mark.parametrize(("calling", "called"), [("STRANGER", "AGCXR"), ("XRAY", "OTHER")])
def test_strangers_are_turned_away(running, bench, calling, called):
    with pytest.raises(AssertionError, match="turned the association away"):
        send(running.port, film(), calling=calling, called=called)
    assert bench.names()["turned away"] == 1
    assert bench.queue.counts()["received"] == 0
    assert send(running.port) == []


def test_a_known_title_from_another_address_is_a_stranger(bench):
    with bench.node(callers=(Caller("XRAY", "10.9.8.7"),)) as node, pytest.raises(AssertionError, match="turned"):
        send(node.port, film())
    bench.queue.close()


def test_it_listens_on_this_machine_only_unless_told():
    settings = NodeSettings("A", (Peer("B", "h", 1),), ())
    assert settings.host == "127.0.0.1"


def test_the_journal_holds_nothing_of_patients(running, bench):
    broken = fresh(7, Rows=10_000, Columns=10_000)
    send(running.port, film(), fresh(1, BodyPartExamined="SECRETKNEE"), broken)
    with pytest.raises(AssertionError):
        send(running.port, calling="SECRETCALLER")
    wait_for(lambda: bench.names()["done"] + bench.names()["ignored"] + bench.names()["failed"] == 3)
    said = bench.journal.getvalue()
    assert not [secret for secret in SECRETS if secret in said]
    for event in bench.events():
        assert {"time", "event"} <= set(event)
    films = {event["film"] for event in bench.events() if "film" in event}
    assert len(films) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in films)


def test_what_is_no_frontal_chest_film_is_left_alone(running, bench, archive):
    others = [
        fresh(1, BodyPartExamined="KNEE"),
        fresh(2, ViewPosition="LL"),
        fresh(3, sop_class=SC, Manufacturer="agcxr"),
        fresh(4, sop_class=SC, Modality="US"),
    ]
    upside_down = fresh(8)
    upside_down.PixelData = pixels()[::-1].tobytes()
    others.append(upside_down)
    good = [fresh(5, sop_class=CR), fresh(6, sop_class=SC)]
    assert send(running.port, *others, *good) == [0] * 7
    wait_for(lambda: bench.names()["done"] == 2)
    assert bench.names()["ignored"] == 5
    assert any(reason.startswith("refused: ") for reason in bench.queue.reasons())
    assert "refused: " not in bench.journal.getvalue()
    assert {ds.StudyInstanceUID for ds in archive.taken} == {ds.StudyInstanceUID for ds in good}


def test_its_own_results_are_not_read_again(running, bench, archive):
    send(running.port, film())
    wait_for(lambda: len(archive.taken) == 3)
    picture = next(ds for ds in archive.taken if ds.SOPClassUID == SC)
    picture.file_meta = pydicom.dataset.FileMetaDataset()
    picture.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    picture.file_meta.MediaStorageSOPClassUID = SC
    picture.file_meta.MediaStorageSOPInstanceUID = picture.SOPInstanceUID
    assert send(running.port, picture) == [0]
    wait_for(lambda: bench.names()["ignored"] == 1)
    assert "a result of agcxr itself" in bench.queue.reasons()


def test_unreadable_films_fail_and_the_next_is_read(running, bench, archive):
    truncated = fresh(1)
    truncated.PixelData = truncated.PixelData[:1000]
    headless = fresh(2, SeriesInstanceUID=None)
    good = fresh(3)
    assert send(running.port, truncated, headless, good) == [0, 0, 0]
    wait_for(lambda: bench.names()["done"] == 1 and bench.names()["failed"] == 2)
    assert any("without a usable SeriesInstanceUID" in reason for reason in bench.queue.reasons())
    assert len(archive.taken) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom drops refused sockets
def test_an_archive_that_is_down_loses_nothing(bench, archive, algorithm):
    archive.down()
    films = [fresh(seed) for seed in range(2)]
    with bench.node() as node:
        send(node.port, *films)
        wait_for(lambda: bench.queue.counts()["made"] == 2 and bench.names()["archive down"])
    bench.queue.close()
    archive.up()
    with bench.node():  # the next node goes on with what the first left
        wait_for(lambda: bench.queue.counts()["done"] == 2)
    bench.queue.close()
    for one in films:
        assert archive.results_of(one.SOPInstanceUID, algorithm) == ["sr", "sc", "seg"]


def test_refusals_warnings_and_a_full_archive(running, bench, archive, algorithm):
    archive.answers = [0xA700, 0xB000, 0xC000]
    one = film()
    send(running.port, one)
    wait_for(lambda: bench.names()["done"] == 1)
    assert sorted(archive.results_of(one.SOPInstanceUID, algorithm)) == ["sc", "seg", "sr"]  # each by itself
    assert bench.names()["refused by the archive"] == bench.names()["put off by the archive"] == 1


def test_a_result_that_is_always_refused_is_set_aside(running, bench, archive, monkeypatch):
    monkeypatch.setattr(sender, "REFUSALS", 1)
    archive.answers = [0xC000, 0xC000, 0xC000]
    send(running.port, film())
    wait_for(lambda: bench.queue.counts()["failed"] == 1)
    assert bench.queue.reasons() == ("sr: status C000; sc: status C000; seg: status C000",)
    other = fresh(3)
    send(running.port, other)
    wait_for(lambda: bench.names()["done"] == 1)
    assert {ds.StudyInstanceUID for ds in archive.taken} == {other.StudyInstanceUID}


def test_a_film_that_kills_the_process_is_given_up(bench):
    queue = Queue(bench.path)
    queue.add("0" * 16, written(film()))
    for _ in range(node_module.ATTEMPTS):
        queue.next_received()
    queue.close()
    with bench.node():
        wait_for(lambda: bench.queue.counts()["failed"] == 1)
        assert bench.queue.reasons() == ("reading it ended 5 times in a crash or a kill",)
    end = bench.events()[-1]
    assert end.pop("time")
    assert end == {"event": "stopped", "to_read": 0, "to_send": 0, "done": 0, "ignored": 0, "failed": 1}
    bench.queue.close()


def test_trouble_in_reading_is_tried_again(bench, archive, monkeypatch):
    calls = []

    def sometimes(*given):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("Secretname out of memory")
        return made(*given)

    made = node_module.make_results
    monkeypatch.setattr(node_module, "make_results", sometimes)
    with bench.node() as node:
        send(node.port, film())
        wait_for(lambda: bench.names()["done"] == 1)
    bench.queue.close()
    assert bench.names()["trouble"] == 1
    assert "Secretname" not in bench.journal.getvalue()


def test_a_full_queue_tells_the_sender_to_keep_the_film(bench):
    with bench.node(largest_queue=1) as node:
        assert send(node.port, film()) == [0xA700]
    bench.queue.close()


def test_two_associations_at_once(running, bench, archive, algorithm):
    films = [[fresh(10 * line + seed) for seed in range(2)] for line in range(2)]
    statuses: list[list] = [[], []]
    threads = [
        threading.Thread(target=lambda line=line: statuses[line].extend(send(running.port, *films[line])))
        for line in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [[0] * 2, [0] * 2]
    wait_for(lambda: bench.names()["done"] == 4)
    for one in films[0] + films[1]:
        assert archive.results_of(one.SOPInstanceUID, algorithm) == ["sr", "sc", "seg"]
    assert len(archive.taken) == 12


def test_garbage_on_the_port(running, bench):
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 64,
        b"\x01\x00\xff\xff\xff\xff" + b"A" * 200,
        b"\x16\x03\x01\x02\x00",
        b"",
    ):
        with socket.create_connection(("127.0.0.1", running.port)) as line:
            line.sendall(garbage)
    assert send(running.port, film()) == [0]
    wait_for(lambda: bench.names()["done"] == 1)


def test_a_film_under_another_uid_than_announced_fails(bench):
    queue = Queue(bench.path)
    queue.add("0" * 16, written(film()))
    queue.close()
    with bench.node():
        wait_for(lambda: bench.names()["failed"] == 1)
        assert bench.queue.reasons() == ("its UID is not the one it was sent under",)
    bench.queue.close()


def texts(dataset: pydicom.Dataset) -> set[str]:
    """All that a report says in words."""
    return {element.value for element in dataset.iterall() if element.keyword == "TextValue"}


def scores(dataset: pydicom.Dataset) -> list[float]:
    """All that a report says in numbers."""
    return [float(element.value) for element in dataset.iterall() if element.keyword == "NumericValue"]


def test_an_exported_file_answers_as_its_run_under_uids_of_its_own(bench, archive, algorithm, onnx_file):
    from agcxr.inference.onnx_engine import OnnxPredictor

    exported = OnnxPredictor(onnx_file, threads=1)
    named, one = exported.algorithm, film()
    for done, predictor in enumerate((bench.predictor, exported), start=1):
        bench.predictor = predictor
        with bench.node() as node:  # of one queue: what was read under the run is not known under the file
            assert send(node.port, one) == [0]
            wait_for(lambda done=done: bench.names()["done"] == done)
        bench.queue.close()
    assert bench.names()["known already"] == 0
    assert len({ds.SOPInstanceUID for ds in archive.taken}) == 6
    for of_whom in (algorithm, named):
        assert archive.results_of(one.SOPInstanceUID, of_whom) == ["sr", "sc", "seg"]
    listening = [event["model"] for event in bench.events() if event["event"] == "listening"]
    assert listening == [algorithm.version, named.version]
    run, file = (next(ds for ds in taken if ds.Modality == "SR") for taken in (archive.taken[:3], archive.taken[3:]))
    assert "precision fp32, exported file on onnxruntime" in texts(file) - texts(run)
    assert scores(file) == pytest.approx(scores(run), abs=1e-4)


def test_the_command_reads_with_an_exported_file_without_torch(onnx_file, archive, tmp_path):
    from agcxr.inference.onnx_engine import OnnxPredictor

    (tmp_path / "torch.py").write_text(NO_TORCH)  # found before the real one
    paths = (str(tmp_path), os.environ.get("PYTHONPATH"))
    port, one = free_port(), film()
    flags = ["--send-to", f"ARCHIVE@127.0.0.1:{archive.port}", "--caller", "XRAY", "--port", str(port)]
    command = [sys.executable, "-m", "agcxr", "dicom-node", str(onnx_file), *flags]
    with open(tmp_path / "log", "w") as log:
        node = subprocess.Popen(
            [*command, "--queue", str(tmp_path / "queue.sqlite")],
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        )
    try:
        wait_for(lambda: "listening" in (tmp_path / "log").read_text() or node.poll() is not None)
        assert node.poll() is None, (tmp_path / "log").read_text()
        assert send(port, one) == [0]
        wait_for(lambda: len(archive.taken) == 3)
        node.terminate()
        assert node.wait(60) == 0
    finally:
        node.kill()
        node.wait()
    named = OnnxPredictor(onnx_file).algorithm
    assert archive.results_of(one.SOPInstanceUID, named) == ["sr", "sc", "seg"]
    assert not (tmp_path / "was_imported").exists()
