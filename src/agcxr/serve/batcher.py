"""Films that arrive one by one -> batches for the network.

One thread runs the network. While it computes, films gather; when it is idle, the first film waits a few milliseconds
for company. So batches grow with the load and a lone film is hardly delayed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Collects items for `run`, which answers a list of them in their order.

    Args:
        run: called in the network's thread.
        size: most items in a call.
        wait: seconds that the oldest item waits for company at most.
        observe: told the size and the seconds of each call.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], list[Answer]],
        *,
        size: int,
        wait: float,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run, self._size, self._wait, self._observe = run, size, wait, observe
        self._waiting: deque[tuple[Item, asyncio.Future[Answer], float]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "agcxr-network")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; inside a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="agcxr-batcher")

    @property
    def alive(self) -> bool:
        """Whether items are being answered."""
        return self._task is not None and not self._task.done()

    async def close(self) -> None:
        """Stop; items that still wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, future, _ in self._waiting:
            future.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def submit(self, item: Item) -> Answer:
        """The answer for one item. Cancelling the caller takes the item out of the queue."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future, time.monotonic()))
        self._arrived.set()
        return await future

    async def alone(self, call: Callable[[], Any]) -> Any:
        """Run something else in the network's thread, between batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _serve(self) -> None:
        while True:
            batch = await self._gather()
            if not batch:
                continue
            start = time.perf_counter()
            try:
                answers = await self.alone(partial(self._run, [item for item, _ in batch]))
            except Exception as error:  # whatever went wrong belongs to those who wait; the next batch starts afresh
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            self._observe(len(batch), time.perf_counter() - start)
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _gather(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        deadline = self._waiting[0][2] + self._wait
        while len(self._waiting) < self._size and (left := deadline - time.monotonic()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                break
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        while self._waiting and len(batch) < self._size:
            item, future, _ = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch
