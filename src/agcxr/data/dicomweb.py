"""DICOMweb as a client: what a study holds (QIDO-RS), its films (WADO-RS), and storing objects (STOW-RS).

PS3.18. Plain HTTP goes to this machine only; answers are read up to a limit, redirections are not followed (a login
would go along), and errors hold neither URLs nor text of the server, which may name patients.

A study is an input of `agcxr predict` as dicomweb://host/root/studies/UID (dicomweb+http:// on this machine).
"""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agcxr.data.multipart import Malformed, join_parts, parts, related_boundary
from agcxr.data.web import check_url

if TYPE_CHECKING:
    import httpx

LOGINS = "AGCXR_LOGINS"
"""Environment variable that names the file with the logins."""
SCHEMES = {"dicomweb": "https", "dicomweb+http": "http"}
JSON_LIMIT, FILM_LIMIT = 64 << 20, 512 << 20
"""Most bytes of an answer: of a list or a status, and of a film."""
PAGE = 500
"""Instances asked for at once."""
EARLY = 30.0
"""Seconds before its end that an access token is renewed."""
UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")
DICOM, JSON = "application/dicom", "application/dicom+json"


class ServiceError(Exception):
    """The service did not do it, and why, in words for logs.

    status: of HTTP; None where no answer came. sent: whether the service may have had the whole request. body: its
    answer in DICOM JSON, where it is that.
    """

    def __init__(self, reason: str, status: int | None = None, sent: bool = True, body: Any = None) -> None:
        super().__init__(reason)
        self.status, self.sent, self.body = status, sent, body


@dataclass(frozen=True)
class Instance:
    """An object that a study holds."""

    sop_class: str
    study: str
    series: str
    uid: str
    manufacturer: str


@dataclass
class Login:
    """How a service knows who asks: name and password, a token, or OAuth 2.0 (client credentials). `ca`: a file of
    certificates to believe in place of the system's."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    token_url: str | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    scope: str | None = None
    ca: str | None = None

    def __post_init__(self) -> None:
        given = tuple(name for name in ("username", "token", "token_url") if getattr(self, name) is not None)
        whole = {
            "username": self.password is not None,
            "token": True,
            "token_url": self.client_id is not None and self.client_secret is not None,
        }
        if len(given) > 1 or not all(whole[name] for name in given) or not (given or self.ca):
            raise ValueError(
                "a login is username and password, or token, or token_url with client_id and client_secret; and ca"
            )
        if self.token_url is not None:
            check_url(self.token_url)


def read_logins(path: Path) -> dict[str, Login]:
    """A JSON file: root of a service -> its login. Raises ValueError for anything else; it quotes no secret."""
    example = {"https://archive/dicom-web": {"username": "...", "password": "..."}}
    expected = f"{path} holds no logins; expected JSON such as {json.dumps(example)}"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {check_root(root): Login(**login) for root, login in told.items()}
    except (TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(expected) from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def login_of(root: str) -> Login | None:
    """Of the file that AGCXR_LOGINS names: that of the service. Raises ValueError, OSError for a file that is none."""
    name = os.environ.get(LOGINS)
    return read_logins(Path(name)).get(check_root(root)) if name else None


def check_root(text: str) -> str:
    """The root of a DICOMweb service, without a slash at its end. Raises ValueError for what cannot be one."""
    expected = "expected https://host/root (http:// only to this machine)"
    try:
        address = urlsplit(check_url(text))
        _ = address.port  # raises for what is none
    except ValueError:
        raise ValueError(f"{text!r} is no DICOMweb service; {expected}") from None
    if address.username or address.password:  # not quoted: it holds a secret
        raise ValueError(f"the address of a DICOMweb service holds no login; that goes into the file of {LOGINS}")
    if address.query or address.fragment:
        raise ValueError(f"{text!r} is no root of a DICOMweb service; {expected}")
    return text.rstrip("/")


def is_study(text: str) -> bool:
    """Whether an input of `agcxr predict` is a study of a DICOMweb service."""
    return text.partition("://")[0] in SCHEMES


def with_study(inputs: tuple[str, ...], study: str | None) -> tuple[str, ...]:
    """Inputs of `agcxr predict`, the study put into those that are DICOMweb services. Raises ValueError where one of
    both is missing."""
    roots = [name for name in inputs if is_study(name) and "/studies/" not in name]
    if (study is None) == bool(roots):
        given = f"--study {study}" if study else roots[0]
        raise ValueError(
            f"{given} alone says nothing; expected both: agcxr predict RUN dicomweb://host/root --study UID"
        )
    return tuple(f"{name.rstrip('/')}/studies/{study}" if name in roots else name for name in inputs)


def parse_study(text: str) -> tuple[str, str]:
    """ "dicomweb://host/root/studies/1.2.3" -> ("https://host/root", "1.2.3"). Raises ValueError for anything else."""
    scheme, _, rest = text.partition("://")
    root, found, study = rest.rpartition("/studies/")
    if scheme not in SCHEMES or not found or not is_uid(study):
        raise ValueError(f"{text!r} names no study; expected dicomweb://host/root and --study UID")
    return check_root(f"{SCHEMES[scheme]}://{root}"), study


def is_uid(text: str) -> bool:
    """Whether it is a UID (PS3.5 9.1), so that it may stand in a path: other than films', it may not be ".."."""
    return len(text) <= 64 and UID.fullmatch(text) is not None


class DicomWeb:
    """A DICOMweb service. One thread at a time may store; any may list and fetch.

    Args:
        root: as `check_root` has it.
        login: default: that of the file in AGCXR_LOGINS, if any.
        connect, answer: seconds to wait for a connection, and for the next bytes of an answer.
    """

    def __init__(self, root: str, login: Login | None = None, *, connect: float = 10, answer: float = 60) -> None:
        import httpx

        self.root = check_root(root)
        self._login = login_of(self.root) if login is None else login
        ca = self._login.ca if self._login else None
        local = urlsplit(self.root).hostname in ("localhost", "127.0.0.1", "::1")
        self._client = httpx.Client(
            verify=ssl.create_default_context(cafile=ca) if ca else True,
            timeout=httpx.Timeout(answer, connect=connect),
            trust_env=not local,
            headers={"User-Agent": "agcxr"},
        )
        weakref.finalize(self, self._client.close)
        self._token: tuple[str, float] | None = None
        self._lock = threading.Lock()

    def store(self, file: bytes) -> Any:
        """Store one DICOM file. Returns the service's answer in DICOM JSON, None where it gives none.

        Raises ServiceError; its status is 409 where the service refused the object, and says why in the body.
        """
        boundary = f"agcxr-{uuid.uuid4().hex}"
        headers = {"Content-Type": f'multipart/related; type="{DICOM}"; boundary={boundary}', "Accept": JSON}
        body = join_parts([(DICOM, file)], boundary)
        _, _, answer = self._ask("POST", "/studies", JSON_LIMIT, headers=headers, content=body)
        return _json(answer)

    def instances(self, study: str) -> Iterator[Instance]:
        """What a study holds. Raises ServiceError; ValueError for what is no UID."""
        known: set[str] = set()
        while True:
            query = {"includefield": "00080070", "limit": PAGE, "offset": len(known)}
            path = f"/studies/{_uid(study)}/instances"
            status, _, body = self._ask("GET", path, JSON_LIMIT, headers={"Accept": JSON}, params=query)
            items = [] if status == 204 else _json(body)
            if not isinstance(items, list):
                raise ServiceError("its list of the study is no DICOM JSON", status)
            new = [one for one in map(_instance, items) if one is not None and one.uid not in known]
            yield from new
            known.update(one.uid for one in new)
            if len(new) < PAGE:  # the end, or a service that knows no pages and has given all
                return

    def fetch(self, instance: Instance) -> bytes:
        """The file of an object, as the service holds it. Raises ServiceError."""
        path = f"/studies/{_uid(instance.study)}/series/{_uid(instance.series)}/instances/{_uid(instance.uid)}"
        accept = f'multipart/related; type="{DICOM}"; transfer-syntax=*'
        status, kind, body = self._ask("GET", path, FILM_LIMIT, headers={"Accept": accept})
        if kind.partition(";")[0].strip().lower() == DICOM:
            return body
        try:
            return next(iter(parts(body, related_boundary(kind)))).body
        except (Malformed, StopIteration):
            raise ServiceError("its answer holds no DICOM file", status) from None

    def _ask(self, method: str, path: str, limit: int, **request: Any) -> tuple[int, str, bytes]:
        """Status, content type and body of an answer that says yes. Logs in where needed, anew where that ran out."""
        for again in (True, False):
            headers = {**request["headers"], **self._authorization()}
            try:
                return self._once(method, self.root + path, limit, **{**request, "headers": headers})
            except ServiceError as error:
                if not (again and error.status == 401 and self._token):
                    raise
                self._token = None
        raise AssertionError

    def _once(self, method: str, url: str, limit: int, **request: Any) -> tuple[int, str, bytes]:
        import httpx

        try:
            with self._client.stream(method, url, **request) as answer:
                body = _read(answer, limit)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise ServiceError("no connection", sent=False) from error
        except httpx.HTTPError as error:
            raise ServiceError(f"the connection failed ({type(error).__name__})") from error
        kind = answer.headers.get("Content-Type", "")
        if answer.status_code not in (200, 201, 202, 204, 206):
            raise ServiceError(f"status {answer.status_code}", answer.status_code, body=_json(body))
        return answer.status_code, kind, body

    def _authorization(self) -> dict[str, str]:
        """The header that says who asks."""
        login = self._login
        if login is None:
            return {}
        if login.username is not None:
            pair = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        if login.token is not None:
            return {"Authorization": f"Bearer {login.token}"}
        return {"Authorization": f"Bearer {self._access_token(login)}"} if login.token_url is not None else {}

    def _access_token(self, login: Login) -> str:
        """By OAuth 2.0's client credentials (RFC 6749, 4.4), kept until shortly before it ends."""
        with self._lock:
            if self._token is None or self._token[1] <= time.monotonic():
                fields = {
                    "grant_type": "client_credentials",
                    "client_id": login.client_id,
                    "client_secret": login.client_secret,
                    **({"scope": login.scope} if login.scope else {}),
                }
                headers = {"Accept": "application/json"}
                try:
                    _, _, body = self._once("POST", login.token_url or "", 1 << 20, data=fields, headers=headers)
                except ServiceError as error:
                    raise ServiceError(f"no access token: {error}", error.status, sent=False) from error
                told = _json(body)
                if not isinstance(told, dict) or not isinstance(told.get("access_token"), str):
                    raise ServiceError("no access token in the answer to asking for one", sent=False)
                seconds = told.get("expires_in")
                lasts = float(seconds) if isinstance(seconds, int | float) else 300.0
                self._token = told["access_token"], time.monotonic() + max(lasts - EARLY, 0)
            return self._token[0]


def _read(answer: httpx.Response, limit: int) -> bytes:
    pieces, length = [], 0
    for piece in answer.iter_bytes():
        length += len(piece)
        if length > limit:
            raise ServiceError(f"its answer is longer than {limit >> 20} MiB", answer.status_code)
        pieces.append(piece)
    return b"".join(pieces)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _instance(item: Any) -> Instance | None:
    """None for what lacks a UID."""
    instance = Instance(*(text_of(item, tag) for tag in ("00080016", "0020000D", "0020000E", "00080018", "00080070")))
    uids = (instance.sop_class, instance.study, instance.series, instance.uid)
    return instance if all(map(is_uid, uids)) else None


def text_of(item: Any, tag: str) -> str:
    """The first value of an attribute of DICOM JSON as text; "" where there is none."""
    element = item.get(tag) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""


def _uid(text: str) -> str:
    if not is_uid(text):
        raise ValueError(f"{text!r} is no UID; expected digits and points, 64 at most")
    return text
