"""A fake archive in the same process, a sender, and nodes that share a queue, for the tests of the node."""

from __future__ import annotations

import io
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection

import pydicom
from dicom_made import CR, DX, SC
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from agcxr.dicom.archive import CLASSES
from agcxr.dicom.journal import Journal
from agcxr.dicom.node import Node, NodeSettings
from agcxr.dicom.objects import result_uid
from agcxr.dicom.peers import Caller, Peer
from agcxr.dicom.queue import Queue


class FakeArchive:
    """Takes what it is sent, or answers with the next of `answers`."""

    def __init__(self, classes: Collection[str] = CLASSES) -> None:
        self.taken: list[pydicom.Dataset] = []
        self.answers: list[int] = []
        self.judge: Callable[[pydicom.Dataset], int] | None = None
        """Answers each object by what it is; takes precedence."""
        self.hangs_up_on: str | None = None
        """A SOP class."""
        self.associations = 0
        self.tls = None
        self._ae = AE(ae_title="ARCHIVE")
        self._ae.maximum_pdu_size = 1 << 20
        for sop_class in classes:
            self._ae.add_supported_context(sop_class)
        self.port = free_port()
        self._server = None

    def up(self) -> FakeArchive:
        where = ("127.0.0.1", self.port)
        self._server = self._ae.start_server(where, block=False, evt_handlers=self.handlers(), ssl_context=self.tls)
        return self

    def handlers(self) -> list:
        return [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._count)]

    def down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _count(self, _: evt.Event) -> None:
        self.associations += 1

    def _store(self, event: evt.Event) -> int:
        if event.dataset.SOPClassUID == self.hangs_up_on:
            event.assoc.abort()
        answer = self.answers.pop(0) if self.answers else 0
        if self.judge is not None:
            answer = self.judge(event.dataset)
        if (answer == 0 or answer & 0xF000 == 0xB000) and event.dataset.SOPClassUID != self.hangs_up_on:
            self.taken.append(event.dataset)
        return answer

    def results_of(self, uid: str, algorithm) -> list[str]:
        """Roles of the results of a film, in the order of their coming."""
        roles = {result_uid(uid, algorithm, role): role for role in ("sr", "sc", "seg")}
        return [roles[ds.SOPInstanceUID] for ds in self.taken if ds.SOPInstanceUID in roles]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def send(port: int, *films: pydicom.Dataset, calling: str = "XRAY", called: str = "AGCXR") -> list[int | None]:
    """Store films over one association; the statuses, None without an answer."""
    ae = AE(ae_title=calling)
    for sop_class in (CR, DX, SC, Verification):
        ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    assert association.is_established, "the node turned the association away"
    try:
        return [association.send_c_store(one).get("Status") for one in films]
    finally:
        association.release()


class Bench:
    def __init__(self, predictor, archive: FakeArchive, path) -> None:
        self.predictor, self.archive, self.path, self.journal = predictor, archive, path, io.StringIO()
        self.queue: Queue | None = None

    def node(self, **changes) -> Node:
        self.queue = Queue(self.path)
        peer = Peer("ARCHIVE", "127.0.0.1", self.archive.port)
        settings = {"title": "AGCXR", "archives": (peer,), "callers": (Caller("XRAY"),), "port": 0, **changes}
        return Node(self.predictor, NodeSettings(**settings), self.queue, Journal(self.journal))

    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.journal.getvalue().splitlines()]

    def names(self) -> Counter[str]:
        return Counter(event["event"] for event in self.events())
