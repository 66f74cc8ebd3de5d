"""Who talks to whom: application entities as the command line writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")


@dataclass(frozen=True)
class Peer:
    """An application entity that is called: TITLE@host:port."""

    title: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


@dataclass(frozen=True)
class Caller:
    """An application entity that may call: its title, and its address where that is checked too."""

    title: str
    host: str | None = None


def parse_peer(text: str) -> Peer:
    """ "ORTHANC@127.0.0.1:4242" -> Peer; IPv6 addresses in brackets. Raises ValueError for anything else."""
    title, at, address = text.partition("@")
    host, colon, port = address.rpartition(":")
    if not (at and colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is no address of an archive; expected TITLE@host:port, e.g. ORTHANC@127.0.0.1:4242")
    return Peer(check_title(title), host.strip("[]"), int(port))


def parse_caller(text: str) -> Caller:
    """ "XRAY1" or "XRAY1@10.0.0.5" -> Caller. Raises ValueError for a title that cannot be one."""
    title, at, host = text.partition("@")
    if at and not host:
        raise ValueError(f"{text!r} names no host; expected TITLE or TITLE@address, e.g. XRAY1@10.0.0.5")
    return Caller(check_title(title), host or None)


def check_title(title: str) -> str:
    """An AE title: 1 to 16 printable ASCII characters, no backslash, no space at the ends. Returned as given."""
    if not _TITLE.fullmatch(title):
        raise ValueError(f"{title!r} is no AE title; expected 1 to 16 printable ASCII characters without backslash")
    return title
