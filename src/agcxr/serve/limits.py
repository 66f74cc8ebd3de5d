"""What the server accepts and how long it waits; who may reach it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from agcxr.tokens import check_token, is_local

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds that hold for every client. Times are in seconds.

    Raises:
        ValueError: a bound that is not above 0, or a queue smaller than one request may fill.
    """

    file_bytes: int = 64 * MIB
    """Of one film as uploaded; the largest detectors make files of about 40 MiB."""
    request_bytes: int = 256 * MIB
    """Of all films of one request together."""
    files: int = 16
    """Films in one request."""
    pixels: int = 40_000_000
    """Of one film, as its header states them, known before anything is decoded."""
    held_bytes: int = 1024 * MIB
    """Of bodies being received and answers being sent, all clients together; above that new uploads get 503."""
    queue: int = 64
    """Films received and not yet answered, all clients together; above that requests get 503."""
    batch: int = 16
    """Films in one pass of the network."""
    wait: float = 0.02
    """Longest that an idle network waits for more films to fill a batch."""
    header: float = 10
    """For the head of a request to arrive."""
    receive: float = 30
    """For the body of a request to arrive."""
    decode: float = 10
    """For one film to be decoded; then its decoder is killed."""
    work: float = 60
    """From a received request to its answer."""
    send: float = 120
    """For the answer to be taken."""
    connections: int = 512
    """Open at a time."""
    decoders: int = 2
    """Processes that decode films."""
    decoder_bytes: int = 4096 * MIB
    """Memory that one of them may take for a film."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"the limit {field.name} is {value}; expected a number above 0")
        if self.files > self.queue:
            raise ValueError(f"a request may hold {self.files} films and the queue {self.queue}: make the queue longer")

    @property
    def exchange(self) -> float:
        """For one request from its head to the last byte of its answer."""
        return self.receive + self.work + self.send


LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def check_exposure(
    host: str, token: str | None, open_to_all: bool, public: PublicUrl | None = None, token_file: Path | None = None
) -> None:
    """Refuse to listen where others could reach the server, unless it asks for a token or that is wanted.

    Raises:
        ValueError: with the three ways out; or a token that is too short to protect anything.
    """
    if token is not None:
        check_token(token)
    if token is not None or token_file is not None or open_to_all:
        return
    if not is_local(host):
        raise ValueError(
            f"listening on {host} would let everyone on the network use this server. Leave --host out (127.0.0.1), "
            "or set the environment variable AGCXR_TOKEN, or say --open-to-all"
        )
    if public is not None and not is_local(public.authority.name):
        raise ValueError(
            f"behind {public.url} everyone who reaches the proxy could use this server. Set the environment variable "
            "AGCXR_TOKEN, or say --open-to-all where the proxy itself asks who may"
        )


class Authority(NamedTuple):
    """Host and port as a Host header or an origin names them: small letters, no brackets, None for no port."""

    name: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for anything but a name or an address with or without a port: no user, no path, nothing beside."""
        match = _AUTHORITY.fullmatch(text)
        if match is None:
            return None
        port = int(match["port"]) if match["port"] else None
        name = (match["name"] or match["bare"]).strip("[]").lower()
        return None if port is not None and port > 65535 else cls(name, port)


_AUTHORITY = re.compile(
    r"(?P<name>\[[0-9a-fA-F:.]+\]|[0-9a-zA-Z._-]+)(?::(?P<port>[0-9]{0,5}))?"
    r"|(?P<bare>[0-9a-fA-F]*:[0-9a-fA-F]*:[0-9a-fA-F:.]*)"  # an IPv6 address without brackets, as some programs send
)
PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Scheme, name and port of a page's address (RFC 6454): two pages are of one site where all three are the same."""

    scheme: str
    name: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what no page of this server can have: `null`, other schemes, anything broken."""
        scheme, _, rest = text.partition("://")
        authority = Authority.parse(rest) if scheme in PORTS else None
        return None if authority is None else cls(scheme, authority.name, authority.port or PORTS[scheme])


@dataclass(frozen=True)
class PublicUrl:
    """Where readers find the server: the address of the proxy before it."""

    scheme: str
    authority: Authority
    path: str
    """"" or "/reading-room": no slash at its end."""

    @classmethod
    def parse(cls, text: str) -> PublicUrl:
        """Raises ValueError, with the form expected."""
        try:
            parts = urlsplit(text.strip())
        except ValueError:
            parts = urlsplit("")
        authority, path = Authority.parse(parts.netloc), parts.path.rstrip("/")
        plain = re.fullmatch(r"(/[0-9a-zA-Z._~-]+)*", path) and not {".", ".."} & set(path.split("/"))
        if parts.scheme not in PORTS or authority is None or not plain or parts.query or parts.fragment:
            raise ValueError(
                f"the public URL is {text!r}; expected the address that readers type, such as "
                "https://xray.example.org or https://hospital.example.org/reading-room"
            )
        return cls(parts.scheme, authority, path)

    @property
    def origin(self) -> Origin:
        return Origin(self.scheme, self.authority.name, self.authority.port or PORTS[self.scheme])

    @property
    def url(self) -> str:
        """As it is told to people: no slash at its end."""
        port = "" if self.authority.port in (None, PORTS[self.scheme]) else f":{self.authority.port}"
        name = f"[{self.authority.name}]" if ":" in self.authority.name else self.authority.name
        return f"{self.scheme}://{name}{port}{self.path}"
