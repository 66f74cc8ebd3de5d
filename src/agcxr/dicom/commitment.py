"""Storage commitment: an archive's word that it keeps what it was sent (DICOM PS3.4, annex J), as the one who asks.

Asked by N-ACTION over the association that results go over. The answer, N-EVENT-REPORT, comes whenever it is ready:
over the same association, or over one that the archive opens to the node, with the roles exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import N_EVENT_REPORT

SERVICE, INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
"""Storage Commitment Push Model: its class, and the instance that all requests are to."""
REQUEST = 1
"""Action type of N-ACTION (PS3.4 J.3.2)."""
SUCCESS, PROCESSING_FAILURE, INVALID_ARGUMENT = 0x0000, 0x0110, 0x0115
LARGEST_REPORT = 1 << 20
"""Bytes; a request names 100 objects at most."""


@dataclass(frozen=True)
class Answer:
    """What an archive says of the objects of a request. failed: SOP Instance UID -> reason in words."""

    transaction: str
    committed: frozenset[str]
    failed: dict[str, str]


def request(transaction: str, references: Iterable[tuple[str, str]]) -> Dataset:
    """The data set of N-ACTION. references: SOP class and instance UIDs."""
    dataset = Dataset()
    dataset.TransactionUID = transaction
    dataset.ReferencedSOPSequence = [_item(*reference) for reference in references]
    return dataset


def answer(dataset: Dataset) -> Answer:
    """What N-EVENT-REPORT says. Raises AttributeError, TypeError or ValueError for a data set that says nothing."""
    failed = {
        str(item.ReferencedSOPInstanceUID): f"not committed: reason {int(item.FailureReason):04X}"
        for item in dataset.get("FailedSOPSequence") or ()
    }
    stored = {str(item.ReferencedSOPInstanceUID) for item in dataset.get("ReferencedSOPSequence") or ()}
    return Answer(str(dataset.TransactionUID), frozenset(stored - failed.keys()), failed)


def accept_reports(ae: AE) -> None:
    """Let archives open associations to tell their answers: they are the provider there, though they call."""
    ae.add_supported_context(SERVICE, scu_role=False, scp_role=True)


def reports(hear: Callable[[Answer], None]) -> tuple[Any, Callable[[evt.Event], tuple[int, None]]]:
    """The event handler for associations on which answers may come. hear: keeps one; what it raises, the archive is
    told as a failure, so that it may say it again."""

    def handle(event: evt.Event) -> tuple[int, None]:
        information = cast(N_EVENT_REPORT, event.request).EventInformation
        try:
            if information is None or information.getbuffer().nbytes > LARGEST_REPORT:
                return INVALID_ARGUMENT, None
            told = answer(event.event_information)
        except Exception:  # whatever a stranger's bytes make pydicom raise
            return INVALID_ARGUMENT, None
        try:
            hear(told)
        except Exception:
            return PROCESSING_FAILURE, None
        return SUCCESS, None

    return evt.EVT_N_EVENT_REPORT, handle


def _item(sop_class: str, instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    return item
