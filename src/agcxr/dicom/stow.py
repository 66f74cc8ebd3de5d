"""Films by STOW-RS: an HTTP service beside the node's DICOM port, which keeps them in the same queue.

POST /studies takes application/dicom in multipart/related (PS3.18 10.5) and answers in DICOM JSON, each film by itself.
Of a file only its meta information (PS3.10 7.1) is looked at here; the rest is read in a process apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from agcxr.data.dicom_header import FILM_CLASSES
from agcxr.data.dicomweb import DICOM, JSON
from agcxr.data.multipart import Malformed, parts, related_boundary
from agcxr.dicom.source import is_uid
from agcxr.extras import needs
from agcxr.tokens import Tokens, is_local

SUCCESS, OUT_OF_RESOURCES, CLASS_UNSUPPORTED, NOT_UNDERSTOOD = 0x0000, 0xA700, 0x0122, 0xC000
LARGEST_BODY = 513 << 20
"""Bytes of a request: the largest film, and what stands around it."""
AT_ONCE = 2
"""Requests; a body is in memory until its films are on the disk. Further ones are told to come back."""
META = 64 << 10
"""Bytes that meta information may take."""
LONG = frozenset({b"OB", b"OW", b"UN", b"SQ", b"UT", b"OF", b"OD", b"OL", b"UC", b"UR"})

Keep = Callable[[str, int, Callable[[], bytes]], int]
"""(SOP Instance UID, bytes, the file) -> a status of C-STORE; see `Node.keep`."""


def meta_uids(file: bytes) -> tuple[str, str] | None:
    """SOP class and instance UID that the meta information of a DICOM file states; None where it states none."""
    if file[128:132] != b"DICM":
        return None
    uids: dict[int, str] = {}
    place = 132
    while place + 8 <= min(len(file), META) and file[place : place + 2] == b"\2\0":
        element, kind = struct.unpack_from("<H", file, place + 2)[0], file[place + 4 : place + 6]
        if kind in LONG:
            if place + 12 > len(file):
                return None
            (length,), place = struct.unpack_from("<I", file, place + 8), place + 12
        else:
            (length,), place = struct.unpack_from("<H", file, place + 6), place + 8
        if element in (2, 3) and length <= 64 and place + length <= len(file):
            uids[element] = file[place : place + length].decode("latin-1").rstrip("\0 ")
        place += length
    if is_uid(uids.get(2, "")) and is_uid(uids.get(3, "")):
        return uids[2], uids[3]
    return None


class StowService:
    """The service, in a thread of its own, from `start` to `stop`.

    Args:
        keep: what becomes of a film.
        tokens: what senders must show as a bearer token; without any nothing, on this machine's own addresses only.
        certificate, key: files (PEM) for TLS; None: plain HTTP.

    Raises:
        ValueError: an address that others reach, without a token.
    """

    def __init__(
        self,
        keep: Keep,
        host: str,
        port: int,
        *,
        tokens: Tokens | None = None,
        certificate: str | None = None,
        key: str | None = None,
    ) -> None:
        try:
            import uvicorn
            from starlette.applications import Starlette
            from starlette.routing import Route
        except ImportError as error:
            raise ValueError(needs("taking films by STOW-RS", "serve")) from error
        self._keep, self._tokens = keep, tokens or Tokens()
        if not self._tokens.needed and not is_local(host):
            raise ValueError(f"STOW-RS on {host} needs a token that senders show: set AGCXR_TOKEN")
        self._busy = asyncio.Semaphore(AT_ONCE)
        app = Starlette(routes=[Route("/studies", self._store, methods=["POST"])])
        self._server = uvicorn.Server(
            uvicorn.Config(
                app, host=host, port=port, log_config=None, access_log=False, server_header=False, lifespan="off",
                timeout_keep_alive=30, ssl_certfile=certificate, ssl_keyfile=key,
            )
        )  # fmt: skip
        self._thread = threading.Thread(target=self._run, name="agcxr-stow", daemon=True)
        self._failed = False

    def start(self) -> None:
        """Listen. Raises OSError where the port is taken."""
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.02)
            if not self._thread.is_alive():
                raise OSError(f"nothing can listen on {self._server.config.host}:{self._server.config.port}")

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Answer what is under way, and end."""
        self._server.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(SystemExit):  # where the port is taken
            self._server.run()

    async def _store(self, request: Any) -> Any:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse, PlainTextResponse

        if self._tokens.needed:
            address = "" if request.client is None else request.client.host
            name, wait = self._tokens.judge_header(request.headers.get("authorization", ""), address)
            if wait:
                return PlainTextResponse("too many wrong tokens came from there", 429, {"Retry-After": str(wait)})
            if name is None:
                return PlainTextResponse("a bearer token is needed", 401, {"WWW-Authenticate": "Bearer"})
        try:
            boundary = related_boundary(request.headers.get("content-type", ""))
        except Malformed:
            return PlainTextResponse(f'expected multipart/related; type="{DICOM}"; boundary=...', 415)
        if self._busy.locked():
            return PlainTextResponse("busy", 503, {"Retry-After": "5"})
        async with self._busy:
            body = await _received(request.stream())
            if body is None:
                return PlainTextResponse(f"more than {LARGEST_BODY >> 20} MiB", 413)
            try:
                kept = await run_in_threadpool(self._keep_all, body, boundary)
            except Malformed as error:
                return PlainTextResponse(f"a body of multipart/related was expected, but {error}", 400)
        status, answer = response(kept)
        headers = {"Retry-After": "30"} if status == 503 else {}
        return JSONResponse(answer, status, headers, media_type=JSON)

    def _keep_all(self, body: bytes, boundary: bytes) -> list[tuple[str, str, int]]:
        """SOP class, instance and status of each part."""
        kept = []
        for part in parts(body, boundary):
            sop_class, uid = meta_uids(part.body) or ("", "")
            status = NOT_UNDERSTOOD
            if uid and part.kind in ("", DICOM):
                status = CLASS_UNSUPPORTED
                if sop_class in FILM_CLASSES:
                    status = self._keep(uid, len(part.body), partial(bytes, part.body))
            kept.append((sop_class, uid, status))
        return kept


def response(kept: list[tuple[str, str, int]]) -> tuple[int, dict[str, Any]]:
    """HTTP status and DICOM JSON of what became of each instance (PS3.18 10.5.3)."""
    stored = [_item(*instance) for instance in kept if instance[2] == SUCCESS]
    failed = [_item(*instance) for instance in kept if instance[2] != SUCCESS]
    answer: dict[str, Any] = {"00081190": {"vr": "UR"}}
    if stored:
        answer["00081199"] = {"vr": "SQ", "Value": stored}
    if failed:
        answer["00081198"] = {"vr": "SQ", "Value": failed}
    if stored:
        return (202 if failed else 200), answer
    return (503 if any(status == OUT_OF_RESOURCES for *_, status in kept) else 409 if kept else 400), answer


def _item(sop_class: str, uid: str, status: int) -> dict[str, Any]:
    item: dict[str, Any] = {
        "00081150": {"vr": "UI", **({"Value": [sop_class]} if sop_class else {})},
        "00081155": {"vr": "UI", **({"Value": [uid]} if uid else {})},
    }
    return item if status == SUCCESS else {**item, "00081197": {"vr": "US", "Value": [status]}}


async def _received(stream: AsyncIterator[bytes]) -> bytes | None:
    """A request's body; None where it is too long."""
    body = bytearray()
    async for piece in stream:
        body += piece
        if len(body) > LARGEST_BODY:
            return None
    return bytes(body)
