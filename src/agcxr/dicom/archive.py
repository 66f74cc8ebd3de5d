"""Sending results to an archive: C-STORE over one association for everything that waits, and asking it to keep them."""

from __future__ import annotations

import io
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.status import STATUS_SUCCESS, STATUS_WARNING, code_to_category

from agcxr.dicom import commitment
from agcxr.dicom.peers import Peer

CLASSES = (
    "1.2.840.10008.5.1.4.1.1.88.33",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.66.4",
)
"""Comprehensive SR, Secondary Capture, Segmentation."""

DUPLICATE = 0x0111
"""The archive has this very object already; UIDs are derived, so it is the same."""
LATER = frozenset({0x0110, 0x0210, 0x0213, *range(0xA700, 0xA800)})
"""Processing failure, duplicate invocation, resource limitation, out of resources: nothing about the object."""
NEVER = frozenset({0x0117, 0x0118, 0x0122, 0x0211, 0x0212, *range(0xA900, 0xAA00)})
"""Invalid instance, no such class, class not supported, unrecognised or mistyped request, data set of another class."""


class ArchiveDown(Exception):
    """No association with the archive: nothing can be sent now."""


class ArchiveRefused(Exception):
    """The archive did not take this object, which says nothing about others; the message holds its status.

    verdict: "later", as often as need be; "again", some times; "never".
    """

    def __init__(self, reason: str, verdict: Literal["later", "again", "never"]) -> None:
        super().__init__(reason)
        self.verdict = verdict


class ArchiveSilent(ArchiveRefused):
    """The association ended, or no answer came in time, while this object was being sent."""

    def __init__(self) -> None:
        super().__init__("no answer while it was being sent", "again")


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for a connection, for an answer to a message, and for any byte."""

    connection: float = 10
    answer: float = 60
    network: float = 120


class Archive:
    """A place to send objects of some SOP classes to. Connects when needed; `close` hangs up while there is nothing to
    send, `end` for good. One thread at a time.

    hear: told of the archive's answers on commitment, from another thread; None: it is not asked for any.
    """

    def __init__(
        self,
        peer: Peer,
        calling: str,
        timeouts: Timeouts = Timeouts(),
        classes: Collection[str] = CLASSES,
        tls: ssl.SSLContext | None = None,
        hear: Callable[[commitment.Answer], None] | None = None,
    ) -> None:
        self.peer, self._tls = peer, tls
        self._ae = AE(ae_title=calling)
        self._hear = hear
        for sop_class in classes:
            self._ae.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        self._ae.connection_timeout = timeouts.connection
        self._ae.acse_timeout = timeouts.answer
        self._ae.dimse_timeout = timeouts.answer
        self._ae.network_timeout = timeouts.network
        self._association: Association | None = None
        self._asking: Association | None = None

    def store(self, file: bytes) -> str | None:
        """Send one object. Returns what the archive said besides yes: a warning, or that it had it already.

        Raises:
            ArchiveDown: there is no association.
            ArchiveRefused: it did not take this object; ArchiveSilent where it hung up on it.
        """
        dataset = pydicom.dcmread(io.BytesIO(file))
        association = self._connected()
        if not any(context.abstract_syntax == dataset.SOPClassUID for context in association.accepted_contexts):
            raise ArchiveRefused("it does not accept this kind of object", "never")
        try:
            status = association.send_c_store(dataset)
        except RuntimeError as error:  # the association ended since it was looked at
            self.close()
            raise ArchiveSilent from error
        except ValueError as error:
            raise ArchiveRefused("it cannot be encoded as the archive wants it", "never") from error
        if "Status" not in status:
            self.close()
            raise ArchiveSilent
        code = int(status.Status)
        category = code_to_category(code)
        if category == STATUS_SUCCESS:
            return None
        if category == STATUS_WARNING:  # stored, perhaps with attributes coerced
            return f"status {code:04X}"
        if code == DUPLICATE:
            return f"status {code:04X}, it had it already"
        raise ArchiveRefused(f"status {code:04X}", "later" if code in LATER else "never" if code in NEVER else "again")

    def commit(self, transaction: str, references: Iterable[tuple[str, str]]) -> None:
        """Ask the archive to keep objects (SOP class and instance UIDs), under the UID of a transaction; see `hear`.

        Over an association of its own, which stays open for the answer until the next request or `end`: an answer that
        came between a C-STORE and its response would be taken for that.

        Raises ArchiveDown, ArchiveRefused as `store`.
        """
        assert self._hear is not None
        self._release("_asking")
        context = build_context(commitment.SERVICE)
        association = self._asking = self._associate([context], [commitment.reports(self._hear)])
        if not association.is_established:
            if association.acceptor.primitive is not None and not association.is_rejected:
                raise ArchiveRefused("it offers no storage commitment", "again")
            raise ArchiveDown(_why(association))
        try:
            request = commitment.request(transaction, references)
            status, _ = association.send_n_action(request, commitment.REQUEST, commitment.SERVICE, commitment.INSTANCE)
        except RuntimeError as error:
            raise ArchiveSilent from error
        if "Status" not in status:
            raise ArchiveSilent
        if code_to_category(code := int(status.Status)) not in (STATUS_SUCCESS, STATUS_WARNING):
            raise ArchiveRefused(f"no commitment: status {code:04X}", "again")

    def close(self) -> None:
        """Hang up, politely where the line still stands; an answer may still be awaited on another."""
        self._release("_association")

    def end(self) -> None:
        """Hang up for good."""
        self.close()
        self._release("_asking")

    def _release(self, name: Literal["_association", "_asking"]) -> None:
        association = getattr(self, name)
        setattr(self, name, None)
        if association is not None and association.is_established:
            association.release()

    def _connected(self) -> Association:
        if self._association is None or not self._association.is_established:
            association = self._associate()
            if not association.is_established:
                raise ArchiveDown(_why(association))
            self._association = association
        return self._association

    def _associate(
        self, contexts: list[PresentationContext] | None = None, handlers: Sequence[Any] = ()
    ) -> Association:
        """contexts: in place of those of the results."""
        return self._ae.associate(
            self.peer.host, self.peer.port, contexts=contexts, ae_title=self.peer.title, evt_handlers=list(handlers),
            tls_args=None if self._tls is None else (self._tls, self.peer.host),
        )  # fmt: skip


class Held:
    """Kinds of result on which an archive was silent: sent again after a while, so that waiting for its answer does
    not hold up the other kinds. One thread at a time.

    longest: seconds.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._failures: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def roles(self) -> tuple[str, ...]:
        """Those that are not to be sent now."""
        now = time.monotonic()
        return tuple(role for role, until in self._until.items() if until > now)

    def hold(self, role: str, seconds: float) -> None:
        """It took `seconds` to find out: twice as long, four times ... is spent on others first."""
        self._failures[role] = self._failures.get(role, 0) + 1
        pause = max(seconds, 1.0) * 2 ** min(self._failures[role], 10)
        self._until[role] = time.monotonic() + min(pause, self._longest)

    def free(self, role: str) -> None:
        """The archive took one."""
        self._failures.pop(role, None)
        self._until.pop(role, None)


def _why(association: Association) -> str:
    if association.is_rejected:
        return "it refused the association"
    if association.acceptor.primitive is not None and not association.accepted_contexts:
        return "it accepts none of these kinds of object"
    return "no connection"
