"""`agcxr dicom-node status`, `list`, `retry` and `drop`: what people see of a queue, and what they do about it."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("pydicom")

from agcxr.cli import main
from agcxr.dicom.queue import Queue

A, B, C = "a" * 16, "b" * 16, "c" * 16


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """One film that cannot be read, one whose segmentation is refused, one that is put off; a node holds it."""
    monkeypatch.chdir(tmp_path)
    made = Queue("agcxr-queue.sqlite")
    made.add(A, b"Secret film A")
    made.close_film(made.next_received().number, "failed", "Secret reason", "it cannot be read")
    made.add(B, b"Secret film B")
    number = made.next_received().number
    made.made(number, (("sr", b"Secret S"), ("seg", b"Secret G")))
    made.refused(number, "seg", "status A900", limit=1)
    made.sent(number, "sr")
    made.add(C, b"Secret film C")
    number = made.next_received().number
    for _ in range(8):  # 1, 2, 4, ... seconds: the last wait outlives the test
        made.defer(number, "database or disk is full", 60)
    yield made
    made.close()


def said(capsys) -> str:
    text = capsys.readouterr().out
    assert "Secret" not in text
    return text


def test_status_counts(queue, capsys):
    assert main(["dicom-node", "status"]) == 0
    lines = said(capsys).splitlines()
    assert re.fullmatch(r"agcxr-queue.sqlite: 0\.\d MiB in use, room for -?[\d,]+ MiB", lines[0])
    counted = [re.split(r"  +", line)[:2] for line in lines[1:]]
    assert counted == [
        ["waiting to be read", "1"],
        ["waiting to be sent", "0"],
        ["failed (kept: list, retry or drop)", "2"],
        ["ignored", "0"],
        ["done", "0"],
    ]
    assert re.search(r"oldest since \d+ s$", lines[1])


def test_list_names_films_by_key_and_what_went_wrong(queue, capsys):
    assert main(["dicom-node", "list", "--queue", str(queue.path)]) == 0
    first, second, third = said(capsys).splitlines()
    assert re.fullmatch(rf"{A}  failed  since \S+\+00:00  it cannot be read", first)
    assert re.fullmatch(rf"{B}  failed  since \S+  results seg \(refused\)  seg: status A900", second)
    assert re.fullmatch(rf"{C}  received  since \S+  tried again in (5\d|60) s  database or disk is full", third)


def test_retry_and_drop(queue, capsys):
    assert main(["dicom-node", "retry", B]) == 0
    assert said(capsys) == "1 films are tried again\n"
    assert queue.next_made().results == (("seg", b"Secret G"),)
    assert main(["dicom-node", "drop", B, C]) == 0
    assert said(capsys) == "2 films were dropped\n"
    assert main(["dicom-node", "retry"]) == 0
    assert said(capsys) == "1 films are tried again\n"
    assert queue.next_received().file == b"Secret film A"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["drop"], "no key was given; `agcxr dicom-node list` shows them"),
        (["retry", "dddd"], "the film dddd is not in the queue; expected the key of one that waits or failed"),
        (["status", "--queue", "other"], "other is not there; name the queue of a node (--queue)"),
        (["RUN", "--send-to", "A@h:1", "--objects", "sr,kos"], "'sr,kos' names no results (kos); expected sr,sc,seg"),
        (["RUN", "--send-to", "A@h:1", "--objects", ""], "'' names no results (empty); expected sr,sc,seg"),
    ],
)
def test_mistakes_are_said_in_words(queue, capsys, words, error):
    assert main(["dicom-node", *words]) == 2
    assert error in capsys.readouterr().err
