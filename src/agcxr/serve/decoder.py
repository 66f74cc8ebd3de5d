"""Uploaded bytes -> pixels, in processes of their own.

Everything that looks at an upload's bytes runs in such a child (agcxr/inference/reading.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from agcxr.data.isolation import Child, ChildError
from agcxr.data.radiograph import RadiographError
from agcxr.inference.readers import MODULE, Start
from agcxr.inference.reading import Judge, ReadFilm, Wish, question, received
from agcxr.serve.limits import Limits

READ_HEADER = "agcxr.dicom.source:read_header"
NO_STUDY = "not a DICOM film, so there is no study to put DICOM results in"


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
        start = asdict(Start(memory=limits.decoder_bytes, judge=name, read_header=READ_HEADER))
        self._wish = Wish(size, limits.pixels, header="beside", seconds=limits.decode)
        self._seconds, self._on_restart, self._closed = limits.decode, on_restart, False
        self._workers = [Child(MODULE, start) for _ in range(limits.decoders)]
        self._threads = ThreadPoolExecutor(limits.decoders, "agcxr-decode")
        self._idle: asyncio.Queue[Child] = asyncio.Queue()
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def start(self) -> None:
        """Start the processes now rather than with the first films."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._threads, worker.start) for worker in self._workers))

    async def read(self, data: bytes, *, shown: int = 0, png: bool = False) -> ReadFilm | Unreadable:
        """Decode a film as soon as a process is free. Never raises for what the bytes hold. shown, png: see `Wish`."""
        wish = replace(self._wish, shown=shown, png=png)
        worker = await self._idle.get()
        answer = asyncio.get_running_loop().run_in_executor(self._threads, self._ask, worker, data, wish)
        # Whoever asked may leave; the process is free again only when it has answered.
        answer.add_done_callback(lambda _: self._idle.put_nowait(worker))
        return await asyncio.shield(answer)

    def _ask(self, worker: Child, data: bytes, wish: Wish) -> ReadFilm | Unreadable:
        if self._closed:
            return Unreadable("the server is closing")
        try:
            film = received(worker.ask(question(data, wish), self._seconds))
        except RadiographError as error:
            return Unreadable(str(error))
        except ChildError as error:
            self._on_restart()
            return Unreadable(str(error))
        return film if film.format == "dicom" else replace(film, no_results=NO_STUDY)

    def close(self) -> None:
        """End the processes."""
        self._closed = True
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.stop()
