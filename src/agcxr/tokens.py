"""Who may ask: tokens by name, exchanged while the server runs, and guessing made slow."""

from __future__ import annotations

import hmac
import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

SHORTEST = 16
TRIES, WINDOW = 10, 60.0
"""Wrong tokens from one address in so many seconds, after which only tokens that were right before are looked at."""
ADDRESSES = 4096


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(token: str) -> str:
    """A token as it was given. Raises ValueError for one that is too short to protect anything, or cannot be sent."""
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"the token must have at least {SHORTEST} printable ASCII characters and no spaces; "
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return token


class Tokens:
    """Those that are valid now.

    token: one that is valid as long as the server runs, called "token". file: more, a line each: NAME TOKEN; read anew
    when it changes. Without either everybody may ask. note: told, in words, of changes of the file.

    Raises ValueError, OSError for a file without usable tokens.
    """

    def __init__(
        self, token: str | None = None, file: Path | None = None, note: Callable[[str], None] = lambda _: None
    ) -> None:
        self._note, self._lock = note, threading.Lock()
        self._own = {} if token is None else {"token": token}
        self._file, self._seen = file, (0, 0)
        self._named: dict[str, str] = {}
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()
        self._right: set[str] = set()
        if file is not None:
            self._named, self._seen = read_tokens(file), _state(file)

    @property
    def needed(self) -> bool:
        return bool(self._own) or self._file is not None

    def name_of(self, given: str) -> str | None:
        """Whose token it is; None for a wrong one."""
        self._read_anew()
        name = None
        for known, token in {**self._named, **self._own}.items():  # all of them: time must not tell which is near
            if hmac.compare_digest(given.encode(), token.encode()):
                name = known
        return name

    def judge(self, given: str, address: str) -> tuple[str | None, int]:
        """Whose token it is, and seconds to wait where too many wrong ones came from this address lately: then a token
        that was never right before is not looked at. Those in use go on, also behind a proxy, where all have one
        address. Any thread may ask."""
        with self._lock:
            return self._judged(given, address)

    def judge_header(self, authorization: str, address: str) -> tuple[str | None, int]:
        """As `judge`, of the header Authorization; one without a bearer token is no guess."""
        scheme, _, given = authorization.partition(" ")
        return self.judge(given.strip(), address) if scheme.lower() == "bearer" else (None, 0)

    def _judged(self, given: str, address: str) -> tuple[str | None, int]:
        wait, name = self._wait(address), self.name_of(given)
        if name is not None and (not wait or given in self._right):
            self._right.add(given)
            return name, 0
        self._right.discard(given)  # one that was withdrawn
        if not wait:
            self._wrong.setdefault(address, []).append(time.monotonic())
            self._wrong.move_to_end(address)
            while len(self._wrong) > ADDRESSES:
                self._wrong.popitem(last=False)
        return None, wait

    def _wait(self, address: str) -> int:
        now = time.monotonic()
        tries = [at for at in self._wrong.get(address, []) if now - at < WINDOW]
        if address in self._wrong:
            self._wrong[address] = tries
        return math.ceil(WINDOW - (now - tries[0])) if len(tries) >= TRIES else 0

    def _read_anew(self) -> None:
        if self._file is None:
            return
        try:
            if (state := _state(self._file)) == self._seen:
                return
            self._named, self._seen = read_tokens(self._file), state
            self._note(f"the file of tokens has changed: {len(self._named)} are valid")
        except (OSError, ValueError) as error:  # half written, or away: those of before stay valid
            self._note(f"the file of tokens cannot be read ({type(error).__name__}); those of before stay valid")


def read_tokens(file: Path) -> dict[str, str]:
    """Name -> token. Raises ValueError with the line that is wrong, which it does not quote; OSError."""
    tokens: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, token = line.strip().partition(" ")
        try:
            tokens[name] = check_token(token.strip())
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: expected NAME TOKEN; {error}") from error
    if not tokens:
        raise ValueError(f"{file} holds no token; expected a line for each: NAME TOKEN")
    return tokens


def _state(file: Path) -> tuple[int, int]:
    facts = file.stat()
    return facts.st_mtime_ns, facts.st_size
