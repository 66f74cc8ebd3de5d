"""Work on hostile bytes in processes of their own: a crash, a hang or hunger for memory takes one film with it.

Decoders of pictures are large programs in C. A `Child` runs them where they open no file or socket and start no process
(sandbox.py), find an empty environment, may not take more memory than they are given, say nothing on any terminal, and
are killed when they take too long. Both sides speak in messages: a number of frames, each 8 bytes of length and that
many bytes. Nothing is pickled.

`Child` is the side that asks (`Children` many at a time), `serve` the side that answers. A child is a plain
`python -m module`, so that it needs no `__main__` of the caller's and no fork.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from agcxr.data.sandbox import limit, lock_down

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
MOST_FRAMES = 16
LONGEST_FRAME = 1 << 33
"""Bounds of a message, so that a damaged child's numbers are not believed."""

PIPE = 1 << 20
"""Bytes that a pipe holds, where the system lets us choose (Linux): most films go through it in one piece."""
INHERITED = ("PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TEMP")
"""Variables without which Python, or a library of its, may not start."""

STARTING = 120.0
"""Seconds for a process to start and import what it needs."""


class ChildError(RuntimeError):
    """A process that gave no answer, in words for people."""


class NotStarted(ChildError):
    """The process cannot even start: no fault of what was asked."""


class Child:
    """One process. All but `kill` is called from one thread at a time.

    module: run as `python -m module`; its main calls `serve`. start: what `serve` reads first, as JSON.
    """

    def __init__(self, module: str, start: object = None) -> None:
        self._command = (sys.executable, "-P", "-m", module)
        self._start = json.dumps(start).encode()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._ready = False
        self._said: IO[bytes] | None = None
        self._inherited: list[object] = []

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process unless it runs, and do not wait for what it imports. Raises NotStarted where it cannot."""
        if self._process is not None and self._owner != os.getpid():
            self._inherited.append(self._process)  # a fork's copy: the process answers the parent and nobody else
            self._process = None
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._said = tempfile.TemporaryFile()  # noqa: SIM115  # until it is ready, or says there why it is not
            try:
                self._process, self._owner, self._ready = _started(self._command, self._said), os.getpid(), False
            except NotStarted:
                self._said.close()
                raise
            with contextlib.suppress(OSError):  # one that is dead already says so when it is waited for
                write_message(_pipe(self._process.stdin), (self._start,))
        return self._process

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process unless it runs, and wait until it is ready. Raises NotStarted where it cannot."""
        process = self.launch()
        if not self._ready:
            assert self._said is not None
            with self._said as said:
                try:
                    self._exchange(None, STARTING)
                except ChildError as error:
                    said.seek(0)
                    lines = said.read().decode(errors="replace").strip().splitlines() or [str(error)]
                    raise NotStarted(f"a process for decoding could not start: {lines[-1][:300]}") from error
            self._ready = True
        return process

    def ask(self, frames: Sequence[bytes], seconds: float) -> list[bytes]:
        """One question, one answer. Raises ChildError where the process cannot start, dies, or takes longer than
        `seconds`; the next question gets a new one."""
        self.start()
        return self._exchange(frames, seconds)

    def _exchange(self, frames: Sequence[bytes] | None, seconds: float) -> list[bytes]:
        """frames: None where the question was sent before."""
        process, late = self._process, threading.Event()
        assert process is not None

        def end() -> None:
            late.set()
            process.kill()

        try:
            with _deadlines.until(seconds, end):
                if frames is not None:
                    write_message(_pipe(process.stdin), frames)
                answer = read_message(_pipe(process.stdout))
        except (EOFError, OSError, ValueError) as error:
            self._end()
            if late.is_set():
                raise ChildError(f"decoding it took longer than {seconds:g} seconds") from error
            raise ChildError("it made the decoder crash, so the file is damaged") from error
        except BaseException:  # Ctrl+C: the answer to come would be taken for that to the next question
            self._end()
            raise
        if late.is_set():  # killed just after it had answered
            self._end()
        return answer

    def kill(self) -> None:
        """From any thread: what is being worked on is lost."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()

    def stop(self) -> None:
        """End the process and release its pipes."""
        self._end()
        if self._said is not None:
            self._said.close()
            self._said = None

    def _end(self) -> None:
        if self._process is None or self._owner != os.getpid():
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was not yet sent is lost with the process
                _pipe(pipe).close()
        self._process = None


class _Deadlines:
    """Ends what takes too long. One thread for all: starting one a question takes a third of what a question does."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._owner, self._changed = os.getpid(), threading.Condition()
        self._due: dict[object, tuple[float, Callable[[], None]]] = {}
        self._wakes: float | None = None
        """When the thread looks again by itself; None before it runs."""

    @contextlib.contextmanager
    def until(self, seconds: float, end: Callable[[], None]) -> Iterator[None]:
        """Call `end` where what is within takes longer. It has returned, or is never called, once this is left."""
        if self._owner != os.getpid():
            self._begin()  # a fork has no thread, and perhaps a lock that nobody opens
        key, due = object(), time.monotonic() + seconds
        with self._changed:
            self._due[key] = due, end
            if self._wakes is None:
                self._wakes = due
                threading.Thread(target=self._watch, name="agcxr-deadlines", daemon=True).start()
            elif due < self._wakes:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._due.pop(key, None)

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for key, (due, end) in list(self._due.items()):
                    if due <= now:
                        del self._due[key]
                        end()
                self._wakes = min((due for due, _ in self._due.values()), default=math.inf)
                self._changed.wait(None if self._wakes == math.inf else self._wakes - now)


_deadlines = _Deadlines()


class Children:
    """As many processes of a module as are asked at the same time, each started with its first question; they end with
    this one. Any thread may ask."""

    def __init__(self, module: str, start: object = None) -> None:
        self._module, self._start = module, start
        self.idle: deque[Child] = deque()
        atexit.register(self.stop)

    def ask(self, frames: Sequence[bytes], seconds: float) -> list[bytes]:
        """As `Child.ask`, of one that is free."""
        try:
            child = self.idle.pop()
        except IndexError:
            child = Child(self._module, self._start)
        try:
            return child.ask(frames, seconds)
        finally:
            self.idle.append(child)

    def launch(self) -> None:
        """Start a process for a question to come, without waiting for it; nothing is done where one is free."""
        if not self.idle:
            child = Child(self._module, self._start)
            with contextlib.suppress(NotStarted):  # the question says why
                child.launch()
            self.idle.append(child)

    def stop(self) -> None:
        """End those that are free."""
        while self.idle:
            self.idle.pop().stop()


def _started(command: Sequence[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """One thread a process is enough, and its libraries are found where this process found them. Nothing else of the
    environment goes along: it may hold tokens and passwords, and a process can read what it was started with."""
    path = os.pathsep.join([*(str(entry) for entry in sys.path if entry), str(PACKAGE_ROOT)])
    bounds = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**inherited, **bounds, "PYTHONPATH": path},
            pipesize=PIPE,
        )
    except (OSError, TypeError, ValueError) as error:
        raise NotStarted(f"a process for decoding could not start: {error}") from error


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def write_message(stream: IO[bytes], frames: Sequence[bytes]) -> None:
    stream.write(struct.pack("<Q", len(frames)))
    for frame in frames:
        stream.write(struct.pack("<Q", len(frame)))
        stream.write(frame)
    stream.flush()


def read_message(stream: IO[bytes]) -> list[bytes]:
    """Raises EOFError where the other side has gone, ValueError where it does not keep to the form."""
    count = _number(stream, MOST_FRAMES)
    return [_exactly(stream, _number(stream, LONGEST_FRAME)) for _ in range(count)]


def _number(stream: IO[bytes], most: int) -> int:
    (number,) = struct.unpack("<Q", _exactly(stream, 8))
    if number > most:
        raise ValueError(f"a message states {number:,}; expected at most {most:,}")
    return int(number)


def _exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


Answer = Callable[[list[bytes]], Sequence[bytes]]

_isolated = False


def is_isolated() -> bool:
    """Whether this process is such a child, so that it needs no other."""
    return _isolated


def serve(prepare: Callable[[Any], Answer]) -> None:
    """In the child: answer until stdin ends. `prepare` takes what the Child was given as `start`, imports what it needs
    and calls `confine`."""
    global _isolated
    _isolated = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's to handle
    inward, outward = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with contextlib.suppress(EOFError, BrokenPipeError):
        answer = prepare(json.loads(read_message(inward)[0]))
        write_message(outward, ())  # ready: its imports do not count as decoding
        while True:
            write_message(outward, answer(read_message(inward)))


def confine(memory: int | None = None) -> tuple[str, ...]:
    """Silence, an empty environment, no files, sockets or processes (see sandbox.py), and at most `memory` bytes of
    address space. Imports come first: they need files and memory. Returns the layers that hold."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    os.environ.clear()
    if memory is not None:
        limit("RLIMIT_AS", memory)
    return lock_down()


def limit_memory(memory: int) -> None:
    """At most `memory` bytes of address space from now on; a later call may raise it again."""
    limit("RLIMIT_AS", memory, soft_only=True)


@contextlib.contextmanager
def limit_time(seconds: int) -> Iterator[None]:
    """In the child: end it where what is within takes longer, for when nobody is left to kill it. Not on Windows."""
    alarm: Callable[[int], object] = getattr(signal, "alarm", lambda _: None)
    alarm(seconds)
    try:
        yield
    finally:
        alarm(0)


def address_space() -> int:
    """Bytes that this process has mapped; 0 where the system does not say (only Linux does)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0
