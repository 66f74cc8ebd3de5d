"""Uploaded bytes -> pixels, in processes of their own.

Everything that looks at an upload's bytes runs in such a child (agcxr/data/isolation.py): one that dies takes one film
with it, not the server. What it answers travels as JSON and plain arrays, never as a pickle.

Shapes: S side of the prepared film, H, W of the original.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from agcxr.data.isolation import Child, ChildError
from agcxr.inference.stream import PreparedFilm
from agcxr.intake import Intake
from agcxr.serve.decode_child import Judge, Start, Wish
from agcxr.serve.limits import Limits

CHILD = "agcxr.serve.decode_child"


@dataclass(frozen=True, eq=False)
class UploadedFilm(PreparedFilm):
    """A film ready for the network, and what its file said."""

    bits: int
    """8 or 16: the depth of the pixels."""
    format: str
    view_position: str | None
    no_results: str | None
    """Why there are no DICOM results of this film; None where there can be."""
    png: bytes | None
    header: bytes | None
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
        start = asdict(Start(size, limits.pixels, limits.decoder_bytes, name))
        self._seconds, self._on_restart, self._closed = limits.decode, on_restart, False
        self._workers = [Child(CHILD, start) for _ in range(limits.decoders)]
        self._threads = ThreadPoolExecutor(limits.decoders, "agcxr-decode")
        self._idle: asyncio.Queue[Child] = asyncio.Queue()
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def start(self) -> None:
        """Start the processes now rather than with the first films."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._threads, worker.start) for worker in self._workers))

    async def read(self, data: bytes, wish: Wish) -> UploadedFilm | Unreadable:
        """Decode a film as soon as a process is free. Never raises for what the bytes hold."""
        worker = await self._idle.get()
        answer = asyncio.get_running_loop().run_in_executor(self._threads, self._ask, worker, data, wish)
        # Whoever asked may leave; the process is free again only when it has answered.
        answer.add_done_callback(lambda _: self._idle.put_nowait(worker))
        return await asyncio.shield(answer)

    def _ask(self, worker: Child, data: bytes, wish: Wish) -> UploadedFilm | Unreadable:
        if self._closed:
            return Unreadable("the server is closing")
        try:
            return _received(worker.ask([json.dumps(asdict(wish)).encode(), data], self._seconds))
        except ChildError as error:
            self._on_restart()
            return Unreadable(str(error))

    def close(self) -> None:
        """End the processes."""
        self._closed = True
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.stop()


def _received(frames: list[bytes]) -> UploadedFilm | Unreadable:
    head = json.loads(frames[0])
    if "reason" in head:
        return Unreadable(str(head["reason"]))
    small, png, shown, header = frames[1:]
    intake = head["intake"]
    return UploadedFilm(
        name="",
        image_SS=np.frombuffer(small, np.uint8).reshape(head["small"]).copy(),
        width=int(head["width"]),
        height=int(head["height"]),
        bits=int(head["bits"]),
        format=str(head["format"]),
        notes=tuple(head["notes"]),
        view_position=head["view_position"],
        intake=None if intake is None else Intake(intake["decision"], tuple(intake["reasons"])),
        no_results=head["no_results"],
        png=png or None,
        film_HW=np.frombuffer(shown, np.uint8).reshape(head["shown"]) if shown else None,
        header=header or None,
    )
