"""Asking for a file over TLS: the failures worth another attempt are told from those that are not."""

from __future__ import annotations

import http.client
import re
import ssl
import urllib.error
import urllib.request
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

CHUNK = 1 << 20
"""Most bytes read at once."""
LOCAL = ("localhost", "127.0.0.1", "::1")
WORTH_RETRYING = (408, 425, 429, 500, 502, 503, 504)


class FetchError(RuntimeError):
    """The file cannot be had; the message says why and what to do."""


class Broken(Exception):
    """This attempt failed, another may work. `after`: seconds the server asked to wait."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


def check_url(url: str) -> str:
    """The URL, if it is https (or http to this machine). Raises ValueError otherwise."""
    parts = urlsplit(url)
    if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)):
        return url
    raise ValueError(f"{url!r} is not an https:// address; files are fetched over TLS only (http only from localhost)")


def open_url(url: str, headers: dict[str, str], timeout: float) -> HTTPResponse:
    """The answer to a GET. HTTPError passes through; any other failure of the network is Broken."""
    handlers: list[urllib.request.BaseHandler] = [_TlsOnly()]
    if urlsplit(check_url(url)).hostname in LOCAL:
        handlers.append(urllib.request.ProxyHandler({}))
    plain = {"User-Agent": "agcxr", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=plain | headers)
    try:
        return urllib.request.build_opener(*handlers).open(request, timeout=timeout)
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise FetchError(
                f"the certificate of {urlsplit(url).hostname} cannot be verified ({reason.verify_message}); behind an "
                "inspecting proxy, point SSL_CERT_FILE at its certificate"
            ) from error
        raise Broken(f"{urlsplit(url).hostname}: {reason or type(error).__name__}") from error


def read_some(response: HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise Broken(f"the connection broke: {error or type(error).__name__}") from error


def whole_length(response: HTTPResponse) -> int | None:
    """Length of the whole file by Content-Range (206) or Content-Length (200)."""
    if response.status == 206:
        return number_in(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range"))
    return number_in(r"(\d+)", response.headers.get("Content-Length"))


def number_in(pattern: str, header: str | None) -> int | None:
    found = re.match(pattern, header or "")
    return int(found[1]) if found else None


class _TlsOnly(urllib.request.HTTPRedirectHandler):
    """Redirects must not leave TLS."""

    def redirect_request(self, req: urllib.request.Request, *rest: Any) -> urllib.request.Request | None:
        body, target = rest[0], rest[-1]
        if urlsplit(target).scheme != "https" and (req.type == "https" or urlsplit(target).hostname not in LOCAL):
            body.close()
            raise FetchError(f"{urlsplit(req.full_url).hostname} redirects to {target!r}, which is not https: refused")
        return super().redirect_request(req, *rest)
