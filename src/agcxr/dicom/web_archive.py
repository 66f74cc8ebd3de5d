"""An archive that takes results by DICOMweb (STOW-RS): as archive.py's, with the same verdicts on the same reasons."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from agcxr.data.dicomweb import DicomWeb, ServiceError, check_root, text_of
from agcxr.dicom.archive import (
    CLASSES,
    DUPLICATE,
    LATER,
    NEVER,
    Archive,
    ArchiveDown,
    ArchiveRefused,
    ArchiveSilent,
    Timeouts,
)
from agcxr.dicom.commitment import Answer
from agcxr.dicom.peers import Peer, parse_peer
from agcxr.dicom.tls import Tls

USUAL = Timeouts()
FAILED, STORED = "00081198", "00081199"
FAILURE, WARNING = "00081197", "00081196"
"""Failed and Referenced SOP Sequence; Failure and Warning Reason (PS3.18 I.2)."""
NO_SERVICE = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405, 407, 408, 429, 502, 503, 504})
"""Answers about the service, the login or the load: no other object would fare better."""
UNFIT = frozenset({406, 411, 413, 414, 415, 422, 501})
"""Answers that will not change for this object."""


@dataclass(frozen=True)
class WebPeer:
    """A DICOMweb service that results are sent to."""

    root: str

    def __str__(self) -> str:
        return self.root


class WebArchive:
    """As `Archive`. One thread at a time."""

    def __init__(self, peer: WebPeer, timeouts: Timeouts = USUAL) -> None:
        self.peer = peer
        self._service = DicomWeb(peer.root, connect=timeouts.connection, answer=timeouts.answer)

    def store(self, file: bytes) -> str | None:
        """Send one object; see `Archive.store`."""
        try:
            answer = self._service.store(file)
        except ServiceError as error:
            if not error.sent or error.status in NO_SERVICE:
                raise ArchiveDown(str(error)) from error
            if error.status is None:
                raise ArchiveSilent from error
            if (code := _reason(error.body, FAILED, FAILURE)) is not None:
                return _judge(code)
            verdict: Literal["again", "never"] = "never" if error.status in UNFIT else "again"
            raise ArchiveRefused(f"HTTP {error}", verdict) from error
        if (code := _reason(answer, FAILED, FAILURE)) is not None:  # with 202, and from some with 200
            return _judge(code)
        code = _reason(answer, STORED, WARNING)
        return f"status {code:04X}" if code else None

    def close(self) -> None:
        """Nothing to be said: connections are kept, and end by themselves."""

    end = close


def open_archive(
    peer: Peer | WebPeer,
    calling: str,
    timeouts: Timeouts = USUAL,
    classes: Collection[str] = CLASSES,
    tls: Tls | None = None,
    hear: Callable[[Answer], None] | None = None,
) -> Archive | WebArchive:
    """What sends to `peer`; `tls`: of DICOM; hear: where commitment is asked for, see `Archive`.

    Raises ValueError where DICOMweb is asked for commitment, and ValueError or OSError for a file of logins that is
    none.
    """
    if isinstance(peer, WebPeer):
        if hear is not None:
            raise ValueError(
                f"{peer} cannot commit itself: DICOMweb has no storage commitment; send to it as TITLE@host:port, or "
                "leave --commitment out"
            )
        return WebArchive(peer, timeouts)
    return Archive(peer, calling, timeouts, classes, None if tls is None else tls.calling(), hear)


def parse_archive(text: str) -> Peer | WebPeer:
    """ "ORTHANC@127.0.0.1:4242" or "https://archive/dicom-web". Raises ValueError for anything else."""
    return WebPeer(check_root(text)) if "://" in text else parse_peer(text)


def _judge(code: int) -> str | None:
    if code == DUPLICATE:
        return f"status {code:04X}, it had it already"
    raise ArchiveRefused(f"status {code:04X}", "later" if code in LATER else "never" if code in NEVER else "again")


def _reason(answer: Any, sequence: str, tag: str) -> int | None:
    """A reason in the first item of a sequence of the answer; 0 for an item without one, None without an item."""
    data = answer[0] if isinstance(answer, list) and answer else answer
    items = data.get(sequence, {}).get("Value") if isinstance(data, dict) else None
    if not isinstance(items, list) or not items:
        return None
    text = text_of(items[0], tag)
    return int(text) if text.isdecimal() else 0
