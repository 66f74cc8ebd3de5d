"""Bodies of multipart/related (RFC 2387), as DICOMweb sends files: taken apart and put together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from email.message import Message
from typing import NamedTuple

HEAD = 16 << 10
"""Most bytes of a part's header."""
BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


class Malformed(ValueError):
    """It is no body of that kind."""


class Part(NamedTuple):
    """Its content type, in lower case without parameters ("" where it states none), and its bytes."""

    kind: str
    body: bytes


def related_boundary(content_type: str) -> bytes:
    """The boundary that a Content-Type of multipart/related states. Raises Malformed where it is none."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/related" or not isinstance(boundary, str):
        raise Malformed("not multipart/related with a boundary")
    if not BOUNDARY.fullmatch(boundary):
        raise Malformed("not a boundary that RFC 2046 allows")
    return boundary.encode()


def parts(body: bytes, boundary: bytes) -> Iterator[Part]:
    """The parts of a body. Raises Malformed where it breaks off."""
    line = b"--" + boundary
    begin = 0 if body.startswith(line) else body.find(b"\r\n" + line) + 2
    if begin == 1:
        raise Malformed("no part in it")
    while True:
        begin += len(line)
        if body[begin : begin + 2] == b"--":
            return
        head = body.find(b"\r\n\r\n", begin, begin + HEAD)
        end = body.find(b"\r\n" + line, max(head + 2, 0))
        if head < 0 or end < 0:
            raise Malformed("it breaks off")
        yield Part(_kind(body[begin:head]), body[head + 4 : end])
        begin = end + 2


def join_parts(pieces: Sequence[tuple[str, bytes]], boundary: str) -> bytes:
    """(content type, bytes) of parts -> the body."""
    body = [
        piece
        for kind, data in pieces
        for piece in (f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode(), data, b"\r\n")
    ]
    return b"".join([*body, f"--{boundary}--\r\n".encode()])


def _kind(head: bytes) -> str:
    for row in head.decode("latin-1").split("\r\n"):
        name, _, value = row.partition(":")
        if name.strip().lower() == "content-type":
            return value.partition(";")[0].strip().lower()
    return ""
