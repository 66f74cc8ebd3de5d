"""The work behind the routes: uploads in, answers out, never more at a time than the limits allow."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

from agcxr.data.radiograph import RadiographError
from agcxr.inference.engine import Engine
from agcxr.inference.explain import to_png
from agcxr.inference.prediction import Branch, Prediction
from agcxr.inference.reading import Judge, ReadFilm
from agcxr.intake import Intake
from agcxr.serve.answers import FilmAnswer, MapAnswer, film_answer, map_answer
from agcxr.serve.batcher import Batcher
from agcxr.serve.decoder import Decoders, Unreadable
from agcxr.serve.examples import EXAMPLES
from agcxr.serve.held import Held
from agcxr.serve.limits import Limits
from agcxr.serve.measures import Measures
from agcxr.serve.problem import Problem
from agcxr.serve.upload import Upload

PICTURE_FILM = 1024
NO_EXTRA = "this server makes no DICOM results: it lacks the extra `dicom` (pip install 'agcxr[dicom]')"


class Room:
    """How many films are in the house; the bounded queue."""

    def __init__(self, limits: Limits, measures: Measures) -> None:
        self._limits, self._measures = limits, measures
        self._films = 0
        self._per_film = 0.1
        """Seconds a film takes when the house is busy, as seen lately."""

    @contextmanager
    def take(self, films: int) -> Iterator[None]:
        """Places for `films` films. Raises Problem 503 where there are not enough."""
        if self._films + films > self._limits.queue:
            raise Problem(503, "busy", "the queue is full; try again shortly", retry_after=self.retry_after())
        self._change(films)
        try:
            yield
        finally:
            self._change(-films)

    def retry_after(self) -> int:
        """Seconds until the films that are here now should be answered."""
        return max(1, min(60, math.ceil(self._films * self._per_film)))

    def observe(self, films: int, seconds: float) -> None:
        """Told of each pass of the network."""
        self._per_film += 0.2 * (seconds / films - self._per_film)
        self._measures.batch_films.observe(films)
        self._measures.batch_seconds.observe(seconds)

    def _change(self, films: int) -> None:
        self._films += films
        self._measures.queue_films.set(self._films)


class Service:
    """One model, its decoders and its queue. Lives in one event loop; see `running`."""

    def __init__(self, engine: Engine, limits: Limits, measures: Measures, judge: Judge | None = None) -> None:
        self.engine, self.limits, self.measures, self.has_intake = engine, limits, measures, judge is not None
        self.room, self.held = Room(limits, measures), Held(limits, measures)
        self.has_dicom = all(find_spec(name) is not None for name in ("pydicom", "highdicom"))
        self._judge = judge
        self._examples: dict[str, bytes] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Processes and threads are up inside, and gone after."""
        # Hashes the weights now, so that no client waits for it.
        self.measures.model.info({"version": self.engine.algorithm.version})
        self.decoders = Decoders(
            self.engine.prepared_size, self.limits, self._judge, self.measures.decoder_restarts.inc
        )
        self.batcher: Batcher[ReadFilm, Prediction] = Batcher(
            self.engine.answer, size=self.limits.batch, wait=self.limits.wait, observe=self.room.observe
        )
        self._drawing = ThreadPoolExecutor(1, "agcxr-draw")
        try:
            await self.decoders.start()
            self.batcher.start()
            yield
        finally:
            self.decoders.close()
            await self.batcher.close()
            self._drawing.shutdown(wait=True, cancel_futures=True)

    async def predict(self, uploads: list[Upload], *, pictures: bool, identity: bool = False) -> list[FilmAnswer]:
        """Answers in the order of the uploads."""
        with self.room.take(len(uploads)):
            async with self._in_time():
                return list(
                    await asyncio.gather(*(self._predict(i, one, pictures, identity) for i, one in enumerate(uploads)))
                )

    async def film(self, upload: Upload) -> bytes:
        """The film at its full depth as a PNG."""
        with self.room.take(1):
            async with self._in_time():
                read = self._readable(await self.decoders.read(upload.data, png=True))
                assert read.png is not None
                return read.png

    async def map(self, upload: Upload, finding: str, branch: Branch) -> MapAnswer:
        """Where one finding is read."""
        if finding not in self.engine.labels:
            known = ", ".join(self.engine.labels)
            raise Problem(422, "unknown_finding", f"this model does not know that finding; it knows {known}")
        if not self.engine.has_maps:
            raise Problem(501, "no_maps", "an exported file has no maps of single findings; serve the run itself")
        with self.room.take(1):
            async with self._in_time():
                read = self._accepted(await self.decoders.read(upload.data))
                await self._told(read)  # a film that the network finds strange gets no map either
                return await self.batcher.alone(partial(map_answer, self.engine, read, finding, branch))

    async def picture(self, upload: Upload) -> bytes:
        """The explained film as a PNG, as `agcxr predict --explain` writes it."""
        with self.room.take(1):
            async with self._in_time():
                read = self._accepted(await self.decoders.read(upload.data, shown=PICTURE_FILM))
                return await self._draw(partial(_drawn, await self._told(read), upload.name))

    async def dicom(self, upload: Upload) -> bytes:
        """Report, picture and segmentation of a DICOM film, as `agcxr predict --dicom` writes them: a .zip."""
        if not self.has_dicom:
            raise Problem(501, "no_extra", NO_EXTRA)
        with self.room.take(1):
            async with self._in_time():
                read = self._accepted(await self.decoders.read(upload.data, shown=PICTURE_FILM))
                if read.no_results is not None:
                    raise Problem(422, "no_study", read.no_results)
                return await self._draw(partial(_as_dicom, self.engine, read, await self._told(read)))

    async def example(self, name: str) -> bytes:
        """A synthetic film to try. Drawn once."""
        found = next((one for one in EXAMPLES if one.id == name), None)
        if found is None:
            raise Problem(404, "not_found", "there is no such example")
        if name not in self._examples:
            self._examples[name] = await self._draw(found.png)
        return self._examples[name]

    async def _draw(self, call: partial[bytes] | object) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._drawing, call)  # type: ignore[arg-type]

    async def _predict(self, index: int, upload: Upload, pictures: bool, identity: bool) -> FilmAnswer:
        read = await self.decoders.read(upload.data)
        wanted = isinstance(read, ReadFilm) and not (read.intake is not None and read.intake.decision == "refuse")
        prediction = await self.batcher.submit(read) if wanted and isinstance(read, ReadFilm) else None
        no_dicom = None if self.has_dicom else NO_EXTRA
        answer = film_answer(
            index, upload.name, read, prediction, self.engine, pictures=pictures, identity=identity, no_dicom=no_dicom
        )
        self.measures.films.labels(answer.status).inc()
        if prediction is not None and not prediction.refused:
            for finding, score in zip(prediction.labels, prediction.fusion_K, strict=True):
                self.measures.scores.labels(finding).inc(float(score))
        return answer

    def _readable(self, read: ReadFilm | Unreadable) -> ReadFilm:
        if isinstance(read, Unreadable):
            raise Problem(422, "unreadable", read.reason)
        return read

    async def _told(self, read: ReadFilm) -> Prediction:
        """What the model says of a film. Raises Problem where it may not: now its features are known too."""
        prediction = await self.batcher.submit(read)
        _check(prediction.intake)
        return prediction

    def _accepted(self, read: ReadFilm | Unreadable) -> ReadFilm:
        film = self._readable(read)
        _check(film.intake)
        return film

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        start = time.monotonic()
        try:
            async with asyncio.timeout(self.limits.work):
                yield
        except TimeoutError as error:
            if time.monotonic() - start < self.limits.work:
                raise
            raise Problem(
                503, "too_slow", f"no answer within {self.limits.work:g} seconds", retry_after=self.room.retry_after()
            ) from error


def _check(intake: Intake | None) -> None:
    if intake is not None and intake.decision == "refuse":
        raise Problem(422, "refused", "; ".join(intake.reasons))


def _drawn(prediction: Prediction, name: str) -> bytes:
    return to_png(replace(prediction, name=name))


def _as_dicom(engine: Engine, read: ReadFilm, prediction: Prediction) -> bytes:
    from agcxr.dicom.results import make_results, to_zip
    from agcxr.dicom.source import Source

    assert read.header is not None
    try:
        return to_zip(make_results(Source.from_json(read.header), prediction, engine.algorithm))
    except RadiographError as error:
        raise Problem(422, "no_study", str(error)) from error
    except ValueError as error:  # a header may be hostile, and its values must not reach the message
        words = f"its header holds values that no result can take over ({type(error).__name__})"
        raise Problem(422, "no_study", words) from error
