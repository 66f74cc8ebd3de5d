"""The body of a request -> films in memory. Nothing is spooled to disk, and nothing grows beyond its limit.

Two forms are understood: multipart/form-data (browsers, `curl -F`), and one film as the whole body
(`curl --data-binary`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from agcxr.serve.limits import MIB, Limits
from agcxr.serve.problem import Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

LONGEST_NAME = 200
FORM_FIELDS = 64
"""Parts that a form may have beside its films: each costs the parser far more than its bytes."""
FORM_TEXT = 64 * 1024
"""Bytes that form fields which are no files may have together; they are read and forgotten."""


@dataclass(frozen=True)
class Upload:
    """One file as it came. `name` is for the answer only."""

    name: str
    data: bytes


async def receive_films(request: Request, limits: Limits, hold: Callable[[int], None]) -> list[Upload]:
    """Read the whole body.

    Args:
        hold: told the bytes of every piece, before it is kept; it may raise.

    Raises:
        Problem: too much, too slow, not in a form we understand, or nothing in it.
    """
    stated = request.headers.get("content-length", "0")
    if not stated.isascii() or not stated.isdigit() or len(stated) > 18 or int(stated) > limits.request_bytes:
        raise _too_large("the request", limits.request_bytes)
    kind, options = parse_options_header(request.headers.get("content-type"))
    try:
        async with asyncio.timeout(limits.receive):
            if kind == b"multipart/form-data":
                films = await _form(_pieces(request, limits, hold), options.get(b"boundary", b""), limits)
            else:
                films = await _whole(_pieces(request, limits, hold), limits)
    except TimeoutError as error:
        raise Problem(408, "too_slow", f"the upload did not arrive within {limits.receive:g} seconds") from error
    if not films:
        raise Problem(400, "no_film", "the request holds no file; send films as form fields named `file`")
    return films


async def _pieces(request: Request, limits: Limits, hold: Callable[[int], None]) -> AsyncIterator[bytes]:
    total = 0
    async for piece in request.stream():
        total += len(piece)
        if total > limits.request_bytes:
            raise _too_large("the request", limits.request_bytes)
        hold(len(piece))
        yield piece


async def _whole(pieces: AsyncIterator[bytes], limits: Limits) -> list[Upload]:
    data = bytearray()
    async for piece in pieces:
        data += piece
        if len(data) > limits.file_bytes:
            raise _too_large("the film", limits.file_bytes)
    return [Upload("film", bytes(data))] if data else []


async def _form(pieces: AsyncIterator[bytes], boundary: bytes, limits: Limits) -> list[Upload]:
    if not 1 <= len(boundary) <= 200:
        raise Problem(400, "bad_form", "the multipart form states no usable boundary")
    form = _Form(limits)
    try:
        parser = MultipartParser(boundary, form.callbacks(), max_header_count=8, max_header_size=4096)
        async for piece in pieces:
            parser.write(piece)
            await asyncio.sleep(0)  # a body that is here already must not keep other clients waiting
        parser.finalize()
    except FormParserError as error:
        raise Problem(400, "bad_form", "the multipart form is broken or was cut off") from error
    if not form.ended:
        raise Problem(400, "bad_form", "the multipart form was cut off before its end")
    return form.films


class _Form:
    """Collects the files of a form as the parser meets them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.films: list[Upload] = []
        self.ended = False
        self._text = self._parts = 0
        self._field, self._value = b"", b""
        self._name: str | None = None
        self._data = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_begin": self._header_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._piece,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > self._limits.files + FORM_FIELDS:
            raise Problem(413, "too_many", f"a form may have at most {self._limits.files + FORM_FIELDS} parts")
        self._name, self._data = None, bytearray()

    def _header_begin(self) -> None:
        self._field, self._value = b"", b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._field.lower() != b"content-disposition":
            return
        _, options = parse_options_header(self._value)
        if b"filename" in options:
            self._name = shown_name(options[b"filename"].decode("utf-8", "replace"))
            if len(self.films) >= self._limits.files:
                raise Problem(413, "too_many", f"a request may hold at most {self._limits.files} films")

    def _piece(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            self._text += end - start
            if self._text > FORM_TEXT:
                raise Problem(400, "bad_form", "the form holds long fields that are no files; films need a filename")
            return
        self._data += data[start:end]
        if len(self._data) > self._limits.file_bytes:
            raise _too_large("a film", self._limits.file_bytes)

    def _part_end(self) -> None:
        # Browsers send an empty part for a file field that was left empty.
        if self._name is not None and (self._data or self._name != "film"):
            self.films.append(Upload(self._name, bytes(self._data)))
        self._name, self._data = None, bytearray()

    def _end(self) -> None:
        self.ended = True


def shown_name(name: str) -> str:
    """The last part of a path, printable, of a bounded length; "film" for none."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1].strip()
    return "".join(letter if letter.isprintable() else "?" for letter in last)[:LONGEST_NAME] or "film"


def _too_large(what: str, limit: int) -> Problem:
    size = f"{limit / MIB:g} MiB" if limit >= MIB else f"{limit:,} bytes"
    return Problem(413, "too_large", f"{what} is larger than the {size} allowed")
