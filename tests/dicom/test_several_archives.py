"""Several archives, each with its own troubles, and archives that are asked to commit themselves to what they store."""

from __future__ import annotations

import threading

import pytest
from dicom_made import fresh
from node_made import FakeArchive, send, wait_for
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt

from agcxr.dicom import commitment, queue
from agcxr.dicom.archive import CLASSES
from agcxr.dicom.objects import result_uid
from agcxr.dicom.peers import Caller, Peer
from agcxr.dicom.web_archive import WebPeer
from agcxr.dicom_commands import dicom_node

SR, _, SEG = CLASSES
# pynetdicom drops sockets that were refused; which test is told of one is chance.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class KeepingArchive(FakeArchive):
    """Commits itself to what it has, over the association that asks or over one of its own to `node_port`."""

    def __init__(self, *, own_association: bool = False) -> None:
        super().__init__([*CLASSES, commitment.SERVICE])
        self.own_association, self.node_port = own_association, 0
        self.requests: list[Dataset] = []
        self.lost: set[str] = set()
        """SOP classes that it says it does not have, once."""
        self.silent = False
        self.refuses: int = 0
        self.told: list[int] = []

    def handlers(self) -> list:
        return [*super().handlers(), (evt.EVT_N_ACTION, self._asked)]

    def _asked(self, event: evt.Event) -> tuple[int, None]:
        if self.refuses:
            return self.refuses, None
        request = event.action_information
        self.requests.append(request)
        if not self.silent:
            threading.Timer(0.3, self._tell, (event.assoc, request)).start()
        return 0, None

    def _tell(self, association, request: Dataset) -> None:
        answer = self.answer(request)
        if self.own_association:
            ae = AE(ae_title="ARCHIVE")
            ae.add_requested_context(commitment.SERVICE)
            roles = [build_role(commitment.SERVICE, scp_role=True)]
            association = ae.associate("127.0.0.1", self.node_port, ae_title="AGCXR", ext_neg=roles)
            assert association.is_established
        kind = 2 if "FailedSOPSequence" in answer else 1
        status, _ = association.send_n_event_report(answer, kind, commitment.SERVICE, commitment.INSTANCE)
        self.told.append(status.get("Status", -1))
        if self.own_association:
            association.release()

    def answer(self, request: Dataset) -> Dataset:
        answer, stored, failed = Dataset(), [], []
        answer.TransactionUID = request.TransactionUID
        have = {ds.SOPInstanceUID for ds in self.taken}
        for item in request.ReferencedSOPSequence:
            if item.ReferencedSOPClassUID in self.lost or item.ReferencedSOPInstanceUID not in have:
                self.lost.discard(item.ReferencedSOPClassUID)
                item.FailureReason = 0x0112
                failed.append(item)
            else:
                stored.append(item)
        if stored:
            answer.ReferencedSOPSequence = stored
        if failed:
            answer.FailedSOPSequence = failed
        return answer


@pytest.fixture
def keeping():
    made = KeepingArchive().up()
    yield made
    made.down()


@pytest.fixture
def second():
    made = FakeArchive().up()
    yield made
    made.down()


def peer(archive: FakeArchive) -> Peer:
    return Peer("ARCHIVE", "127.0.0.1", archive.port)


def test_every_archive_gets_every_result_and_one_that_is_away_holds_up_no_other(bench, archive, second, algorithm):
    second.down()
    one = fresh()
    with bench.node(archives=(peer(archive), peer(second)), metrics_port=0) as node:
        send(node.port, one)
        wait_for(lambda: len(archive.taken) == 3)
        wait_for(lambda: bench.names()["archive down"] >= 1)
        assert bench.queue.counts()["made"] == 1
        well, facts = node.watch.health()
        assert (well, facts["archive"]) == (False, "away")
        assert [state["state"] for state in facts["archives"].values()] == ["reachable", "away"]
        metrics = [(sample.labels, sample.value) for family in node.watch.collect() for sample in family.samples]
        assert ({"archive": str(peer(second)), "state": "waiting"}, 3) in metrics
        assert ({"archive": str(peer(second))}, 0) in metrics
        assert ({"archive": str(peer(archive))}, 1) in metrics
        second.up()
        wait_for(lambda: bench.queue.counts()["done"] == 1)
    bench.queue.close()
    for place in (archive, second):
        assert place.results_of(one.SOPInstanceUID, algorithm) == ["sr", "sc", "seg"]
    away = {event["archive"] for event in bench.events() if event["event"] == "archive down"}
    assert away == {str(peer(second))}


def test_an_archive_that_refuses_a_kind_refuses_it_for_itself_only(bench, archive, second, algorithm):
    second.judge = lambda ds: 0xA900 if ds.SOPClassUID == SEG else 0
    films = [fresh(seed) for seed in range(2)]
    with bench.node(archives=(peer(archive), peer(second))) as node:
        send(node.port, *films)
        wait_for(lambda: bench.queue.counts()["failed"] == 2)
        wait_for(lambda: len(archive.taken) == 6)
        assert set(bench.queue.reasons()) == {f"seg to {peer(second)}: status A900"}
    bench.queue.close()
    for one in films:
        assert archive.results_of(one.SOPInstanceUID, algorithm) == ["sr", "sc", "seg"]
        assert sorted(second.results_of(one.SOPInstanceUID, algorithm)) == ["sc", "sr"]


@pytest.mark.parametrize("own_association", [False, True], ids=["same association", "association of its own"])
def test_results_are_deleted_once_the_archive_is_committed_to_them(bench, keeping, algorithm, own_association):
    keeping.own_association, one = own_association, fresh()
    with bench.node(archives=(peer(keeping),), commitment=True) as node:
        keeping.node_port = node.port
        send(node.port, one)
        wait_for(lambda: bench.names()["done"] == 1)
        wait_for(lambda: keeping.told)
        assert bench.queue.standing() == {}
    bench.queue.close()
    assert set(keeping.told) == {0}
    asked = [item for request in keeping.requests for item in request.ReferencedSOPSequence]
    assert [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in asked] == [
        (sop_class, result_uid(one.SOPInstanceUID, algorithm, role))
        for sop_class, role in zip(CLASSES, ("sr", "sc", "seg"), strict=True)
    ]
    answered = [event for event in bench.events() if event["event"] == "commitment answered"]
    assert sum(event["committed"] for event in answered) == 3
    said = bench.journal.getvalue()
    assert not [secret for secret in ("2.25.", "1.2.826", "Secret") if secret in said]


def test_what_the_archive_lost_is_sent_again(bench, keeping):
    keeping.lost = {SEG}
    with bench.node(archives=(peer(keeping),), commitment=True) as node:
        send(node.port, fresh())
        wait_for(lambda: bench.names()["done"] == 1)
    bench.queue.close()
    assert [ds.SOPClassUID for ds in keeping.taken] == [*CLASSES, SEG]


def test_nothing_is_deleted_while_the_archive_says_nothing_and_it_is_asked_again(bench, keeping, monkeypatch):
    keeping.silent = True
    with bench.node(archives=(peer(keeping),), commitment=True) as node:
        send(node.port, fresh())
        wait_for(lambda: keeping.requests)
        assert bench.queue.standing() == {str(peer(keeping)): (0, 3, 0)}
    bench.queue.close()
    keeping.silent = False
    with bench.node(archives=(peer(keeping),), commitment=True):  # it may have answered while the node was not there
        wait_for(lambda: bench.queue.counts()["done"] == 1)
    bench.queue.close()
    assert len(keeping.taken) == 3
    assert keeping.requests[0].TransactionUID != keeping.requests[1].TransactionUID


@pytest.mark.parametrize(
    ("refuses", "reason"), [(0x0124, "no commitment: status 0124"), (None, "it offers no storage commitment")]
)
def test_an_archive_that_will_not_commit_itself_keeps_results_in_the_queue(bench, archive, keeping, refuses, reason):
    keeping.refuses = refuses
    place = archive if refuses is None else keeping
    with bench.node(archives=(peer(place),), commitment=True) as node:
        send(node.port, fresh())
        wait_for(lambda: bench.names()["commitment refused"] == 1)
        (entry,) = bench.queue.entries()
        assert (entry.state, entry.stored) == ("made", ("sc", "seg", "sr"))
        assert entry.said == "; ".join(f"{role}: {reason}" for role in ("sc", "seg", "sr"))
    bench.queue.close()
    assert len(place.taken) == 3


def test_an_archive_may_call_to_answer_and_for_nothing_else(bench, keeping):
    with bench.node(archives=(peer(keeping),), callers=(Caller("XRAY"),), commitment=True) as node:
        assert send(node.port, fresh(), calling="ARCHIVE") == [0x0124]
        assert bench.queue.counts()["received"] == 0
        with pytest.raises(AssertionError, match="turned the association away"):
            send(node.port, fresh(), calling="STRANGER")
    bench.queue.close()


def test_reports_that_make_no_sense_are_answered_as_such(bench, keeping, monkeypatch):
    report = Dataset()
    report.TransactionUID = "1.2.3"
    nameless = Dataset()
    nameless.RetrieveAETitle = "ARCHIVE"
    failed = Dataset()
    failed.TransactionUID, failed.FailedSOPSequence = "1.2.3", [Dataset()]
    large = Dataset()
    large.TransactionUID, large.TextValue = "1.2.3", "x" * 2000
    with bench.node(archives=(peer(keeping),), commitment=True) as node:
        ae = AE(ae_title="ARCHIVE")
        ae.add_requested_context(commitment.SERVICE)
        roles = [build_role(commitment.SERVICE, scp_role=True)]
        association = ae.associate("127.0.0.1", node.port, ae_title="AGCXR", ext_neg=roles)

        def status(dataset: Dataset) -> int:
            answer, _ = association.send_n_event_report(dataset, 1, commitment.SERVICE, commitment.INSTANCE)
            return answer.Status

        assert [status(dataset) for dataset in (report, nameless, failed)] == [0x0000, 0x0115, 0x0115]
        monkeypatch.setattr(commitment, "LARGEST_REPORT", 1000)
        assert status(large) == 0x0115
        monkeypatch.undo()

        def broken(*_, **__):
            raise RuntimeError("database or disk is full")

        monkeypatch.setattr(queue.Queue, "report", broken)
        assert status(report) == 0x0110
        association.release()
    bench.queue.close()


def test_dicomweb_has_no_commitment_and_a_node_needs_an_archive(bench):
    with pytest.raises(ValueError, match=r"https://h/x cannot commit itself: .*leave --commitment out"):
        bench.node(archives=(WebPeer("https://h/x"),), commitment=True)
    bench.queue.close()
    with pytest.raises(ValueError, match="no archive was named; expected --send-to"):
        dicom_node("starter")
