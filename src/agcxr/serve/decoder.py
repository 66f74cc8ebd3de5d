"""Uploaded bytes -> pixels, in processes of their own.

Decoders of pictures are large programs in C that meet hostile files. Here each runs in a child that may not write
files, may not take more memory than it is given, says nothing on any terminal, and is killed when it takes too long.
A child that dies takes one film with it, not the server. What it answers travels as JSON and plain arrays, never as a
pickle.

Shapes: S side of the prepared film, H, W of the original.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import IO

import numpy as np

from agcxr.inference.prediction import Bytes
from agcxr.intake import Intake
from agcxr.serve.decode_child import Judge, Start, Wish, read_frame, write_frame
from agcxr.serve.limits import Limits

CHILD = (sys.executable, "-P", "-m", "agcxr.serve.decode_child")


@dataclass(frozen=True, eq=False)
class Read:
    """A film ready for the network, and what its file said."""

    small_SS: Bytes
    width: int
    height: int
    bits: int
    """8 or 16: the depth of the pixels."""
    format: str
    notes: tuple[str, ...]
    view_position: str | None
    intake: Intake | None
    no_results: str | None
    """Why there are no DICOM results of this film; None where there can be."""
    png: bytes | None = None
    shown_HW: Bytes | None = None
    header: bytes | None = None
    """Of a DICOM film, where it was asked for: `agcxr.dicom.source.Source` as JSON."""


@dataclass(frozen=True)
class Unreadable:
    """Why there is no film, in words for people."""

    reason: str


class Decoders:
    """A few decoding processes, used in turn."""

    def __init__(
        self, size: int, limits: Limits, judge: Judge | None = None, on_restart: Callable[[], None] = lambda: None
    ) -> None:
        """`size`: side S that films are resized to."""
        name = "" if judge is None else f"{judge.__module__}:{judge.__qualname__}"
        start = Start(size, limits.pixels, limits.decoder_bytes, name)
        self._workers = [_Worker(start, limits.decode, on_restart) for _ in range(limits.decoders)]
        self._threads = ThreadPoolExecutor(limits.decoders, "agcxr-decode")
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def start(self) -> None:
        """Start the processes now rather than with the first films."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._threads, worker.start) for worker in self._workers))

    async def read(self, data: bytes, wish: Wish) -> Read | Unreadable:
        """Decode a film as soon as a process is free. Never raises for what the bytes hold."""
        worker = await self._idle.get()
        answer = asyncio.get_running_loop().run_in_executor(self._threads, worker.ask, data, wish)
        # Whoever asked may leave; the process is free again only when it has answered.
        answer.add_done_callback(lambda _: self._idle.put_nowait(worker))
        return await asyncio.shield(answer)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.stop()


class _Worker:
    """One process. `ask` is called from one thread at a time."""

    def __init__(self, start: Start, seconds: float, on_restart: Callable[[], None]) -> None:
        self._start, self._seconds, self._on_restart = start, seconds, on_restart
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process unless it runs. Raises EOFError where it cannot."""
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._process = subprocess.Popen(CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=-1)
            write_frame(_pipe(self._process.stdin), json.dumps(asdict(self._start)).encode())
            read_frame(_pipe(self._process.stdout))  # its imports are done, so that they do not count as decoding
        return self._process

    def kill(self) -> None:
        """From any thread: what is being decoded is lost."""
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                _pipe(pipe).close()
            except BrokenPipeError:
                continue  # what was not yet sent is lost with the process
        self._process = None

    def ask(self, data: bytes, wish: Wish) -> Read | Unreadable:
        """Decode one film; a process that dies or takes too long is replaced with the next film."""
        if self._closed:
            return Unreadable("the server is closing")
        late = threading.Event()
        try:
            process = self.start()

            def end() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(self._seconds, end)
            timer.start()
            try:
                write_frame(_pipe(process.stdin), json.dumps(asdict(wish)).encode())
                write_frame(_pipe(process.stdin), data)
                return _received(_pipe(process.stdout))
            finally:
                timer.cancel()
        except (EOFError, OSError):
            self.stop()
            self._on_restart()
        if late.is_set():
            return Unreadable(f"decoding it took longer than {self._seconds:g} seconds")
        return Unreadable("it made the decoder crash, so the file is damaged")


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _received(pipe: IO[bytes]) -> Read | Unreadable:
    head = json.loads(read_frame(pipe))
    if "reason" in head:
        return Unreadable(str(head["reason"]))
    small, png, shown, header = (read_frame(pipe) for _ in range(4))
    intake = head["intake"]
    return Read(
        small_SS=np.frombuffer(small, np.uint8).reshape(head["small"]).copy(),
        width=int(head["width"]),
        height=int(head["height"]),
        bits=int(head["bits"]),
        format=str(head["format"]),
        notes=tuple(head["notes"]),
        view_position=head["view_position"],
        intake=None if intake is None else Intake(intake["decision"], tuple(intake["reasons"])),
        no_results=head["no_results"],
        png=png or None,
        shown_HW=np.frombuffer(shown, np.uint8).reshape(head["shown"]) if shown else None,
        header=header or None,
    )
