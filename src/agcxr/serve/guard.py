"""The outermost layer: who may ask, what every answer carries, and that no error shows its inside."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agcxr.notices import RESEARCH_ONLY
from agcxr.serve.held import LEASE, Held, Lease
from agcxr.serve.limits import LOCAL_NAMES, PORTS, Authority, Origin, PublicUrl
from agcxr.serve.measures import Measures
from agcxr.serve.problem import Problem
from agcxr.serve.upload import Upload
from agcxr.tokens import Tokens

FILMS = "agcxr.films"
"""Where a request keeps what it uploaded, for the audit."""
LOG = logging.getLogger("agcxr.serve")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
SECURITY = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
    (b"x-research-only", RESEARCH_ONLY.encode()),
)
PIECE = 256 * 1024
"""Answers are sent in pieces, so that a slow reader holds one of them in the socket's buffer and not the whole."""
OPEN_PATHS = frozenset({"/", "/health"})
"""What a token does not guard: the page itself (it asks for the token) and whether the server lives."""


INTERNAL = Problem(500, "internal", "the server failed; nothing of your film was kept")


@dataclass(frozen=True)
class Access:
    """Who may ask.

    local_only: only under this machine's own names and that of `public` (a foreign name means DNS rebinding).
    public: the address of the proxy before the server, where there is one.
    token, token_file: see `Tokens`.
    """

    token: str | None = None
    local_only: bool = True
    public: PublicUrl | None = None
    token_file: Path | None = None

    def tokens(self) -> Tokens:
        return Tokens(self.token, self.token_file, LOG.warning)


class Guard:
    """ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        measures: Measures,
        held: Held,
        routes: Callable[[str], str],
        audit: Callable[[str, str, int, Sequence[Upload]], None] | None = None,
    ) -> None:
        """`routes`: path -> one of a few fixed names, for logs and counters. audit: told of films; see `Audit`."""
        self._app, self._access, self._measures, self._held, self._routes = app, access, measures, held, routes
        self._tokens, self._audit = access.tokens(), audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        answer, lease = _Sender(send), Lease(self._held)
        scope[LEASE] = lease
        films: list[Upload] = []
        scope[FILMS] = films
        client = "-"
        scope = self._inner(scope)
        route, start = self._routes(scope["path"]), time.perf_counter()
        try:
            client = self._check(scope)
            await self._app({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, answer)
        except Problem as problem:
            await answer.problem(problem)
        except Exception as error:  # the last line of defence: the client learns nothing, the log no data
            self._measures.failures.inc()
            LOG.error("%s failed: %s", route, _where(error))
            if not answer.status:
                await answer.problem(INTERNAL)
        finally:
            lease.release()
        seconds = time.perf_counter() - start
        if self._audit is not None and films:
            self._audit(client, route, answer.status, films)
        self._measures.requests.labels(route, answer.status).inc()
        self._measures.request_seconds.labels(route).observe(seconds)
        LOG.info("%s %s %.3f s", route, answer.status, seconds)

    def _inner(self, scope: Scope) -> Scope:
        """The request as the routes know it: without the public path, which some proxies pass on and others cut off."""
        prefix = "" if self._access.public is None else self._access.public.path
        if not prefix or not scope["path"].startswith(f"{prefix}/"):
            return scope
        return {**scope, "path": scope["path"][len(prefix) :], "raw_path": None}

    def _check(self, scope: Scope) -> str:
        """The name of the token that was shown; "-" where none was needed."""
        headers, public = Headers(scope=scope), self._access.public
        host = Authority.parse(headers.get("host", ""))
        if self._access.local_only and not _known(host, public):
            names = "localhost, 127.0.0.1 and [::1]"
            cure = "a proxy's name is given with --public-url" if public is None else f"and as {public.url}"
            raise Problem(421, "wrong_host", f"this server answers only to {names}; {cure}")
        if scope["method"] not in ("GET", "HEAD") and not _same_site(headers, host, public):
            raise Problem(403, "cross_site", "requests from other web sites are not answered")
        if not self._tokens.needed or scope["path"] in OPEN_PATHS or scope["path"].startswith("/static/"):
            return "-"
        address = (scope.get("client") or ("",))[0]
        name, wait = self._tokens.judge_header(headers.get("authorization", ""), address)
        if name is not None:
            return name
        if wait:
            self._measures.throttled.inc()
            raise Problem(429, "too_many_tokens", "too many wrong tokens came from there", retry_after=wait)
        raise Problem(401, "token", "send the server's token in the header `Authorization: Bearer ...`")


def _known(host: Authority | None, public: PublicUrl | None) -> bool:
    """Whether a request names this machine, or the proxy before it."""
    return host is not None and (
        host.name in LOCAL_NAMES or (public is not None and host.name == public.authority.name)
    )


def _same_site(headers: Headers, host: Authority | None, public: PublicUrl | None) -> bool:
    """Whether a request comes from our own page or from a program, not from a page of somebody else."""
    if any(value not in ("same-origin", "none") for value in headers.getlist("sec-fetch-site")):
        return False
    return all(_ours(Origin.parse(text), host, public) for text in headers.getlist("origin"))


def _ours(origin: Origin | None, host: Authority | None, public: PublicUrl | None) -> bool:
    """Whether a page is this server's own: of the public address, or of the one asked for (with either scheme: before a
    proxy it may be another)."""
    if origin is None:
        return False
    if public is not None and origin == public.origin:
        return True
    return host is not None and (origin.name, origin.port) == (host.name, host.port or PORTS[origin.scheme])


class _Sender:
    """Adds the security headers, cuts long bodies, and knows whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [pair for pair in message.get("headers", []) if pair[0] != b"server"]
            if not any(name == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*headers, *SECURITY]}
        body = message.get("body", b"")
        if message["type"] == "http.response.body" and len(body) > PIECE:
            view = memoryview(body)
            for at in range(0, len(view), PIECE):
                more = message.get("more_body", False) or at + PIECE < len(view)
                await self._send(
                    {"type": "http.response.body", "body": bytes(view[at : at + PIECE]), "more_body": more}
                )
            return
        await self._send(message)

    async def problem(self, problem: Problem) -> None:
        error = {"code": problem.code, "message": problem.message}
        body = json.dumps({"error": error, "research_only": RESEARCH_ONLY}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if problem.retry_after is not None:
            headers.append((b"retry-after", str(problem.retry_after).encode()))
        if problem.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await self({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _where(error: BaseException) -> str:
    """Kind and place of an error, without its message: that may quote what was uploaded."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in frames[-3:]]
    return f"{type(error).__name__} at {' > '.join(places) or 'unknown'}"
