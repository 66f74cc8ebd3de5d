"""Sending results to an archive: C-STORE over one association for everything that waits."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from agcxr.dicom.peers import Peer

CLASSES = (
    "1.2.840.10008.5.1.4.1.1.88.33",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.66.4",
)
"""Comprehensive SR, Secondary Capture, Segmentation."""


class ArchiveDown(Exception):
    """The archive cannot be reached, or cannot take anything now: try again later."""


class ArchiveRefused(Exception):
    """The archive will not have this object; the message is its status."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for a connection, for an answer to a message, and for any byte."""

    connection: float = 10
    answer: float = 60
    network: float = 120


class Archive:
    """A place to send to. Connects when needed; `close` hangs up. One thread at a time."""

    def __init__(self, peer: Peer, calling: str, timeouts: Timeouts = Timeouts()) -> None:
        self.peer = peer
        self._ae = AE(ae_title=calling)
        for sop_class in CLASSES:
            self._ae.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        self._ae.connection_timeout = timeouts.connection
        self._ae.acse_timeout = timeouts.answer
        self._ae.dimse_timeout = timeouts.answer
        self._ae.network_timeout = timeouts.network
        self._association: Association | None = None

    def store(self, file: bytes) -> None:
        """Send one object. Raises ArchiveDown or ArchiveRefused where the archive did not take it."""
        dataset = pydicom.dcmread(io.BytesIO(file))
        association = self._connected()
        try:
            status = association.send_c_store(dataset)
        except ValueError as error:  # no accepted context for this class
            raise ArchiveRefused("it does not accept this kind of object") from error
        except RuntimeError as error:
            self.close()
            raise ArchiveDown("the connection broke") from error
        if "Status" not in status:
            self.close()
            raise ArchiveDown("the connection broke")
        code = int(status.Status)
        if code == 0 or code & 0xF000 == 0xB000:  # a warning: stored, perhaps with attributes coerced
            return
        if code & 0xFF00 == 0xA700:
            raise ArchiveDown(f"out of resources (status {code:04X})")
        raise ArchiveRefused(f"status {code:04X}")

    def close(self) -> None:
        """Hang up, politely where the line still stands."""
        association, self._association = self._association, None
        if association is not None and association.is_established:
            association.release()

    def _connected(self) -> Association:
        if self._association is None or not self._association.is_established:
            association = self._ae.associate(self.peer.host, self.peer.port, ae_title=self.peer.title)
            if not association.is_established:
                raise ArchiveDown("it refused the association" if association.is_rejected else "no connection")
            self._association = association
        return self._association
