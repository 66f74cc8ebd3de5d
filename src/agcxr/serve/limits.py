"""What the server accepts and how long it waits; who may reach it."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, fields

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
    """Address space of one of them."""

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


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token: str | None, open_to_all: bool) -> None:
    """Refuse to listen where others could reach the server, unless it asks for a token or that is wanted.

    Raises:
        ValueError: with the three ways out; or a token that is too short to protect anything.
    """
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise ValueError(
            "the token must have at least 16 printable ASCII characters and no spaces; "
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    if not is_local(host) and token is None and not open_to_all:
        raise ValueError(
            f"listening on {host} would let everyone on the network use this server. Leave --host out (127.0.0.1), "
            "or set the environment variable AGCXR_TOKEN, or say --open-to-all"
        )


def host_of(header: str) -> str:
    """The name in a Host header, without its port and brackets, in small letters."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if header.count(":") == 1 else header.lower()
