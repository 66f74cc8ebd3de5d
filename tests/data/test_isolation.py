"""Decoding apart from the process that holds the work: whatever a decoder does, one film is lost and no more."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from coded_films import around, coded, film
from made_films import encode, picture

from agcxr.data import codecs, isolation
from agcxr.data.isolation import Child, ChildError, Children
from agcxr.data.radiograph import RadiographError, read_radiograph
from agcxr.data.workers import Files, Target, run_jobs
from agcxr.inference import readers, reading
from agcxr.inference.stream import read_or_failure

gray = picture(48, 64)
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="fork and resource limits are POSIX")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's memory")


@pytest.fixture
def child():
    odd = Child("odd_child")
    yield odd
    odd.stop()


@pytest.fixture
def idle(monkeypatch):
    """No decoding process runs yet; those of the test are stopped after it."""
    codecs._children.stop()
    yield codecs._children.idle
    codecs._children.stop()


def compressed(kind: str = "JPEG-LS") -> bytes:
    return around(coded(gray, kind), kind, film(gray))


@pytest.mark.parametrize("how", [b"abort", b"segfault", pytest.param(b"garbage", marks=POSIX)])
def test_a_child_that_crashes_is_replaced(child, how):
    (first, _) = child.ask([b"fine"], 60)
    with pytest.raises(ChildError, match=r"^it made the decoder crash, so the file is damaged$"):
        child.ask([how], 60)
    (second, question) = child.ask([b"fine"], 60)
    assert first != second
    assert question == b"fine"


def test_a_child_that_hangs_is_killed(child):
    child.start()
    before = time.monotonic()
    with pytest.raises(ChildError, match=r"^decoding it took longer than 0.5 seconds$"):
        child.ask([b"hang"], 0.5)
    assert time.monotonic() - before < 30
    assert child.ask([b"fine"], 60)[1] == b"fine"


def test_deadlines_end_what_is_late_and_nothing_else():
    deadlines, ended = isolation._Deadlines(), []
    with deadlines.until(60, lambda: ended.append("in time")):
        with deadlines.until(0.05, lambda: ended.append("late")):  # sooner than the one that is waited for
            time.sleep(0.5)
        with deadlines.until(60, lambda: ended.append("in time")):
            pass
    assert ended == ["late"]
    with deadlines.until(0.05, lambda: ended.append("late again")):
        time.sleep(0.5)
    time.sleep(0.1)
    assert ended == ["late", "late again"]


@POSIX
def test_deadlines_hold_in_a_fork():
    deadlines = isolation._Deadlines()
    with deadlines.until(60, lambda: None):
        if (pid := os.fork()) == 0:
            ended = []
            with deadlines.until(0.05, lambda: ended.append("late")):
                time.sleep(0.5)
            os._exit(len(ended))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_an_interrupted_question_leaves_no_answer_for_the_next(child, monkeypatch):
    (first, _) = child.ask([b"fine"], 60)
    with monkeypatch.context() as patch:

        def interrupted(stream):
            raise KeyboardInterrupt

        patch.setattr("agcxr.data.isolation.read_message", interrupted)
        with pytest.raises(KeyboardInterrupt):
            child.ask([b"first film"], 60)
    (second, answer) = child.ask([b"second film"], 60)
    assert answer == b"second film"
    assert first != second


@LINUX
def test_a_child_has_bounded_memory_and_writes_no_files(child, tmp_path):
    assert child.ask([b"memory"], 60) == [b"no memory"]
    with pytest.raises(ChildError, match="crash"):
        child.ask([b"write", os.fsencode(tmp_path / "x")], 60)
    assert not (tmp_path / "x").exists() or not (tmp_path / "x").stat().st_size


def test_a_child_that_cannot_start_says_why(monkeypatch):
    with pytest.raises(ChildError, match=r"could not start: ModuleNotFoundError: No module named 'decoder'"):
        Child("odd_child", "cannot start").ask([b"fine"], 60)
    with pytest.raises(ChildError, match=r"could not start: .*No module named no_such_module"):
        Child("no_such_module").ask([b"fine"], 60)
    monkeypatch.setattr(sys, "executable", "/no/python")
    with pytest.raises(ChildError, match="could not start: .*No such file"):
        Child("odd_child").ask([b"fine"], 60)
    monkeypatch.setattr(sys, "executable", None)
    with pytest.raises(ChildError, match="could not start"):
        Child("odd_child").ask([b"fine"], 60)


def test_large_messages_pass_both_ways(child):
    data = np.random.default_rng(0).bytes(5_000_000)
    assert child.ask([b"fine", data, b""], 60)[1:] == [b"fine", data, b""]


@POSIX
def test_a_fork_gets_a_child_of_its_own(child):
    (first, _) = child.ask([b"fine"], 60)
    ours, theirs = os.pipe()
    fork = os.fork()
    if not fork:
        try:
            os.write(theirs, child.ask([b"fine"], 60)[0])
            child.stop()
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        assert pipe.read() not in (b"", first)
    os.waitpid(fork, 0)
    assert child.ask([b"fine"], 60)[0] == first


def test_one_process_serves_film_after_film_and_none_serves_plain_ones(idle):
    read_radiograph(encode(gray))
    read_radiograph(encode(gray, ".jpg"))
    assert not idle
    assert np.array_equal(read_radiograph(compressed()).pixels_HW, gray)
    (only,) = idle
    process = only._process
    for kind in ("RLE", "JPEG 2000", "JPEG lossless"):
        assert np.array_equal(read_radiograph(compressed(kind)).pixels_HW, gray)
    assert list(idle) == [only]
    assert only._process is process


def test_threads_have_a_process_each(idle):
    with ThreadPoolExecutor(3) as pool:
        films = list(pool.map(read_radiograph, [compressed()] * 12))
    assert all(np.array_equal(one.pixels_HW, gray) for one in films)
    assert 1 <= len(idle) <= 3


@pytest.mark.parametrize("how", ["abort", "hang"])
def test_prepare_and_predict_go_on_after_a_decoders_end(idle, monkeypatch, tmp_path, how):
    """The second of three films ends its decoder; the others are read."""
    monkeypatch.setattr(codecs, "SECONDS", 5.0)
    monkeypatch.setattr(reading, "SECONDS", 5.0)
    reason = {"abort": "it made the decoder crash", "hang": "decoding it took longer than"}[how]
    paths = [tmp_path / f"{name}.dcm" for name in "abc"]
    for path in paths:
        path.write_bytes(compressed())

    def fail_second(where: str, work, children: Children):
        asked = []

        def failing(*args):
            asked.append(1)
            if len(asked) != 2:
                return work(*args)
            children.idle.append(Child("odd_child", how))
            try:
                return work(*args)
            finally:
                children.idle.pop().stop()

        monkeypatch.setattr(where, failing)

    fail_second("agcxr.data.compressed.decode_isolated", codecs.decode_isolated, codecs._children)
    images = tmp_path / "images.npy"
    images.write_bytes(bytes(3 * 64))
    jobs = [Files(tuple(enumerate(map(str, paths))))]
    done = [one for batch in run_jobs(jobs, Target(str(images), 0, 8), 1) for one in batch]
    assert [(one.row, one.width) for one in done] == [(0, 64), (1, 0), (2, 64)]
    assert reason in done[1].reason

    fail_second("agcxr.inference.stream.read_apart", reading.read_apart, readers.DICOM)
    read = [read_or_failure(path, 8, 0) for path in paths]
    assert [hasattr(one, "reason") for one in read] == [False, True, False]
    assert reason in read[1].reason


def test_a_process_that_cannot_start_refuses_the_film_and_no_more(idle, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/python")
    with pytest.raises(RadiographError, match="a process for decoding could not start"):
        read_radiograph(compressed())
    assert np.array_equal(read_radiograph(encode(gray)).pixels_HW, gray)


def test_without_main_and_without_a_trace(tmp_path):
    """`python -c`, modules found by a changed sys.path, a clean end: no word, no process left."""
    path = tmp_path / "film.dcm"
    path.write_bytes(compressed())
    source = Path(codecs.__file__).parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(source)!r})\n"
        "from agcxr.data.radiograph import read_radiograph\n"
        f"read_radiograph({str(path)!r})\n"
        "from agcxr.data import codecs\n"
        "print(codecs._children.idle[0]._process.pid)\n"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    if sys.platform != "win32":
        with pytest.raises(ProcessLookupError):
            os.kill(int(done.stdout), 0)
    assert time.monotonic() - begun < 100
