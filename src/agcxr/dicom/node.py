"""A DICOM node: films come in by C-STORE, results go to an archive by C-STORE.

Parts that meet only in the queue: the receiver keeps what known callers send, the reader makes results of it, and for
each archive a sender (sender.py) brings those there. Each may stop, fail or be killed without the others losing
anything. Trouble with one film, or with one of its results, puts that one off and holds up no other; only where the
queue cannot be written, or an archive not be reached, does the whole part wait.
"""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time
from pynetdicom.transport import ThreadedAssociationServer

from agcxr.calibration import Point, Prevalence
from agcxr.data.dicom_header import FILM_CLASSES
from agcxr.data.isolation import ChildError, NotStarted
from agcxr.data.radiograph import RadiographError
from agcxr.dicom import sender, worker
from agcxr.dicom.archive import Timeouts
from agcxr.dicom.commitment import Answer, accept_reports, reports
from agcxr.dicom.journal import Journal, silence_libraries
from agcxr.dicom.objects import ROLES, SOP_CLASSES, Role
from agcxr.dicom.peers import Caller, Peer
from agcxr.dicom.queue import Outcome, Queue, Waiting
from agcxr.dicom.reading import read_apart
from agcxr.dicom.results import Refused, make_results, to_bytes
from agcxr.dicom.source import is_uid
from agcxr.dicom.stow import StowService
from agcxr.dicom.tls import Tls
from agcxr.dicom.watch import Watch
from agcxr.dicom.web_archive import WebPeer, open_archive
from agcxr.dicom.worker import Worker
from agcxr.inference.engine import Engine
from agcxr.inference.load import load_engine
from agcxr.inference.prediction import Prediction, ViewSet
from agcxr.inference.reading import NoResults
from agcxr.tokens import Tokens

TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.5",
)
"""Explicit and implicit little endian, JPEG, JPEG-LS, JPEG 2000, RLE: what the decoders read."""

SUCCESS, NOT_AUTHORISED, OUT_OF_RESOURCES, NOT_UNDERSTOOD = 0x0000, 0x0124, 0xA700, 0xC000
LARGEST_FILM = 512 << 20
"""Bytes."""
ATTEMPTS = 5
"""A film during which the process died so often is set aside."""
PATIENCE = 4
"""A film whose reading crashes or takes too long is read once more when no other waits, with so many times the time."""


@dataclass(frozen=True)
class NodeSettings:
    """What a node is and whom it knows."""

    title: str
    archives: tuple[Peer | WebPeer, ...]
    """Each gets every result."""
    callers: tuple[Caller, ...]
    host: str = "127.0.0.1"
    port: int = 11112
    """0: any free one; `Node.port` tells which."""
    associations: int = 10
    """At once; more are told to come back."""
    largest_queue: int = 32 << 30
    """Bytes on disk beyond which films are refused as "out of resources", so that their senders keep them."""
    idle_timeout: float = 30
    """Seconds after which a silent connection is closed."""
    objects: tuple[Role, ...] = ROLES
    """Which results are made and sent."""
    stow_port: int | None = None
    """Where films are taken by STOW-RS too (0: any free one); None: nowhere."""
    token: str | None = field(default=None, repr=False)
    """What senders by STOW-RS, and those who ask for /metrics, must show; see `Tokens`."""
    token_file: Path | None = None
    """More of them, by name."""
    tls: Tls | None = None
    """For calls by DICOM, to this node and to the archives; STOW-RS is by HTTPS then."""
    metrics_port: int | None = None
    """Where /health and /metrics are answered (0: any free one); None: nowhere."""
    commitment: bool = False
    """Results stay in the queue until each archive said that it keeps them (DICOM's storage commitment)."""


class Node:
    """Start it, wait, stop it. Use as a context manager.

    Args:
        predictor: reads the films; a model in torch, or an exported file.
        settings: see there.
        queue: opened for this node; closed by whoever opened it.
        journal: where events are written.
        shadow: another model that reads every film too; what it says is noted and not sent.
    """

    def __init__(
        self, predictor: Engine, settings: NodeSettings, queue: Queue, journal: Journal, shadow: Engine | None = None
    ) -> None:
        self._shadow = shadow
        self._predictor, self._settings, self._queue, self._journal = predictor, settings, queue, journal
        self._algorithm = predictor.algorithm
        classes = {SOP_CLASSES[role] for role in settings.objects}
        hear = self._hear if settings.commitment else None
        self._senders = [
            sender.Sender(
                open_archive(peer, settings.title, Timeouts(), classes, settings.tls, hear),
                queue, journal, self._trouble, commitment=settings.commitment,
            )
            for peer in settings.archives
        ]  # fmt: skip
        self._reader = Worker("read", self._read_one, self._trouble)
        self._parts: list[Worker | sender.Sender] = [self._reader, *self._senders]
        self._arriving: WeakKeyDictionary[Association, int] = WeakKeyDictionary()
        self._survived: set[int] = set()
        self._server: ThreadedAssociationServer | None = None
        tokens = Tokens(settings.token, settings.token_file, lambda words: journal("tokens", note=words))
        self.stow: StowService | None = None
        if settings.stow_port is not None:
            files = (
                {}
                if settings.tls is None
                else {"certificate": str(settings.tls.certificate), "key": str(settings.tls.key)}
            )
            self.stow = StowService(self.keep, settings.host, settings.stow_port, tokens=tokens, **files)
        self.watch: Watch | None = None
        if settings.metrics_port is not None:
            where = (settings.host, settings.metrics_port)
            states = {part.name: part.state for part in self._senders}
            tls = None if settings.tls is None else settings.tls.serving()
            self.watch = Watch(queue, self._algorithm.version, states, *where, tokens=tokens, tls=tls)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        assert self._server.socket is not None
        return int(self._server.socket.getsockname()[1])

    def start(self) -> None:
        """Begin with what the queue holds, and listen. Raises OSError where the port is taken."""
        given = self._settings
        ae = AE(ae_title=given.title)
        ae.require_called_aet = True
        ae.maximum_associations = given.associations
        ae.maximum_pdu_size = 1 << 18  # films come in some hundred pieces, not in thousands
        ae.acse_timeout = ae.network_timeout = ae.dimse_timeout = given.idle_timeout
        ae.add_supported_context(Verification)
        for sop_class in FILM_CLASSES:
            ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_DATA_RECV, self._on_data),
            (evt.EVT_DIMSE_RECV, self._on_message),
        ]
        if given.commitment:
            accept_reports(ae)
            handlers.append(reports(self._hear))
        unwanted = self._queue.keep_roles(given.objects)
        self._queue.owe_to([part.name for part in self._senders], commitment=given.commitment)
        again = self._queue.retry_refused()
        tls = None if given.tls is None else given.tls.accepting()
        self._server = ae.start_server((given.host, given.port), block=False, evt_handlers=handlers, ssl_context=tls)
        for part in self._parts:
            part.start()
        if self.stow is not None:
            self.stow.start()
        if self.watch is not None:
            self.watch.start()
        counts = self._queue.counts()
        self._journal(
            "listening", host=given.host, port=self.port, title=given.title, model=self._algorithm.version,
            to_read=counts["received"], to_send=counts["made"], failed=counts["failed"],
            tried_again=again, unwanted=unwanted,
        )  # fmt: skip

    def stop(self) -> None:
        """Stop listening, finish the film at hand, hang up. What waits stays in the queue."""
        for part in self._parts:
            part.stop()
        if self._server is not None:
            self._server.ae.shutdown()
        if self.stow is not None:
            self.stow.stop()
        if self.watch is not None:
            self.watch.stop()
        for part in self._parts:
            part.join()
        counts = self._queue.counts()
        ended = {state: counts[state] for state in ("done", "ignored", "failed")}
        self._journal("stopped", to_read=counts["received"], to_send=counts["made"], **ended)

    def __enter__(self) -> Node:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- the receiver -------------------------------------------------------------------------------------------------

    def _on_requested(self, event: evt.Event) -> None:
        """Turn away whoever is not known, by title and, where one is given, by address."""
        requestor = event.assoc.requestor
        title = str(getattr(requestor.primitive, "calling_ae_title", "")).strip()
        if not (self._may_send(title, requestor.address) or self._may_report(title)):
            event.assoc.acse.send_reject(0x01, 0x01, 0x03)
            self._journal("turned away", reason="unknown caller")
            event.assoc.kill()

    def _may_send(self, title: str, address: str | None) -> bool:
        """Whether films are taken from there."""
        return any(caller.title == title and caller.host in (None, address) for caller in self._settings.callers)

    def _may_report(self, title: str) -> bool:
        """Whether it is an archive that is asked for commitment: then it may call to answer, and for nothing else."""
        return self._settings.commitment and any(
            isinstance(peer, Peer) and peer.title == title for peer in self._settings.archives
        )

    def _on_rejected(self, _: evt.Event) -> None:
        self._journal("turned away", reason="called by another title, or too many associations")

    def _on_echo(self, _: evt.Event) -> int:
        self._journal("echo")
        return SUCCESS

    def _on_store(self, event: evt.Event) -> int:
        """Keep the film; success is said only once it is on the disk."""
        request = cast(C_STORE, event.request)
        length = request.DataSet.getbuffer().nbytes if request.DataSet else 0
        # Only titles of the settings come so far, so this is no stranger's text.
        caller = str(event.assoc.requestor.ae_title).strip()
        if not self._may_send(caller, event.assoc.requestor.address):
            self._journal("not taken", reason="from a title that may only report")
            return NOT_AUTHORISED
        return self.keep(str(request.AffectedSOPInstanceUID or ""), length, event.encoded_dataset, caller)

    def keep(self, uid: str, length: int, file: Callable[[], bytes], caller: str = "STOW-RS") -> int:
        """Keep a film of so many bytes; the status to answer with. `caller`: for the journal."""
        try:
            if not is_uid(uid) or not length:
                self._journal("not understood", bytes=length)
                return NOT_UNDERSTOOD
            full = self._queue.bytes_used() > self._settings.largest_queue or length > self._queue.room()
            if length > LARGEST_FILM or full:
                self._journal("no room", bytes=length)
                return OUT_OF_RESOURCES
            key = self._queue.key(uid, self._algorithm.version)
            new = self._queue.add(key, file(), self._algorithm.version)
        except Exception as error:  # whatever it is, the sender must not believe the film is here
            self._journal("not kept", error=_said(error))
            return OUT_OF_RESOURCES
        self._journal("received" if new else "known already", film=key, bytes=length, caller=caller)
        if new:
            self._reader.wake()
        return SUCCESS

    def _on_data(self, event: evt.Event) -> None:
        """A message that grows beyond any film is not waited for: it would be kept in memory."""
        arrived = self._arriving.get(event.assoc, 0) + len(event.data)
        self._arriving[event.assoc] = arrived
        if arrived > LARGEST_FILM + (1 << 20) and not event.assoc.is_aborted:
            self._journal("no room", bytes=arrived)
            event.assoc.abort()

    def _on_message(self, event: evt.Event) -> None:
        self._arriving[event.assoc] = 0

    # --- the reader ---------------------------------------------------------------------------------------------------

    def _read_one(self) -> bool:
        film = self._queue.next_received()
        if film is None:
            return False
        if film.attempts >= ATTEMPTS and film.number not in self._survived:
            reason = f"reading it ended {film.attempts} times in a crash or a kill"
            self._close(film, "failed", reason, said=reason)
            return True
        try:
            self._make(film)
        except (NoResults, Refused, RadiographError, ChildError) as error:
            self._judge(film, error)
        except sqlite3.Error as error:  # such as a full disk: no other film would fare better
            self._defer(film, error)
            raise
        except Exception as error:
            self._defer(film, error)
            self._journal("trouble", film=film.key, error=type(error).__name__)
        return True

    def _make(self, film: Waiting) -> None:
        """A film's results, into the queue."""
        start = time.perf_counter()
        patience = 1 if film.troubles == 0 else PATIENCE
        source, read = read_apart(film.file, self._predictor.prepared_size, patience)
        models = (self._algorithm.version, film.model or "")  # it may have been received under another model
        if film.model is not None and film.key not in {self._queue.key(source.sop_instance_uid, m) for m in models}:
            raise RadiographError("its UID is not the one it was sent under")
        prediction, version = self._predictor(read), self._algorithm.version
        results = make_results(source, prediction, self._algorithm, self._settings.objects)
        if not any(results):
            raise NoResults("none of the objects that are sent applies to it")
        files = tuple((role, to_bytes(dataset)) for role, dataset in results)
        outcome: Outcome = "refused" if prediction.refused else "read"
        self._queue.made(film.number, files, model=version, outcome=outcome, scores=_scores(prediction))
        self._journal("read", film=film.key, seconds=time.perf_counter() - start, model=version)
        for part in self._senders:
            part.wake()
        if self._shadow is not None:
            self._read_beside(film, self._shadow, prediction, patience)

    def _read_beside(self, film: Waiting, shadow: Engine, prediction: Prediction, patience: float) -> None:
        """What another model says of a film, into the journal and the days. Its trouble is no trouble of the film's."""
        version = shadow.algorithm.version
        try:
            _, read = read_apart(film.file, shadow.prepared_size, patience)
            scores = _scores(shadow(read))
            self._queue.note(version, scores)
        except Exception as error:  # the film has its results already
            self._journal("shadow failed", film=film.key, model=version, error=_said(error))
            return
        ours = _scores(prediction)
        apart = max((abs(scores[label] - ours[label]) for label in scores.keys() & ours.keys()), default=0.0)
        self._journal("shadow", film=film.key, model=version, largest_difference=apart, scores=scores)

    def _judge(self, film: Waiting, error: Exception) -> None:
        """No results, for a reason that lies in the film; or a second try where it may not."""
        if isinstance(error, NoResults):
            self._close(film, "ignored", str(error), said=str(error))
        elif isinstance(error, Refused):
            # Such a reason may quote the film, so it goes into the queue, which is as private as the film.
            words = "no film for this model; the queue holds the reason"
            self._close(film, "ignored", f"refused: {error}", said=words, outcome="refused")
        elif isinstance(error, ChildError) and (isinstance(error, NotStarted) or film.troubles == 0):
            self._defer(film, error)
            self._journal("put off", film=film.key, reason=_said(error))
            if isinstance(error, NotStarted):
                raise error
        else:
            quotes = not isinstance(error, ChildError)
            said = "it cannot be read; the queue holds the reason" if quotes else str(error)
            self._close(film, "failed", str(error), said)

    def _defer(self, film: Waiting, error: Exception) -> None:
        """Keep the film; it is read again later."""
        self._survived.add(film.number)  # should it not come to be noted, this was no crash
        self._queue.defer(film.number, _said(error), 10 * worker.LONGEST_PAUSE)
        self._survived.discard(film.number)

    def _close(
        self,
        film: Waiting,
        state: Literal["ignored", "failed"],
        reason: str,
        said: str,
        outcome: Outcome | None = None,
    ) -> None:
        """No results of this film. `said`: what journal and lists may hold in place of the reason."""
        version = self._algorithm.version
        self._queue.close_film(film.number, state, reason, said, model=version, outcome=outcome)
        self._journal(state, film=film.key, reason=said, model=version)

    # --- the senders --------------------------------------------------------------------------------------------------

    def _hear(self, answer: Answer) -> None:
        """What an archive says of the objects that it was asked to keep."""
        report = self._queue.report(
            answer.transaction, answer.committed, answer.failed,
            limit=sender.REFUSALS, longest=10 * worker.LONGEST_PAUSE,
        )  # fmt: skip
        self._journal("commitment answered", committed=report.committed, not_committed=report.refused)
        for key, received in report.done:
            self._journal("done", film=key, seconds=time.time() - received)
        for part in self._senders:
            part.wake()

    def _trouble(self, error: Exception, pause: float) -> None:
        self._journal("trouble", error=_said(error), pause=pause)


def _scores(prediction: Prediction) -> dict[str, float]:
    """Finding -> score of the fusion; none of a film that the model may not speak of."""
    if prediction.refused:
        return {}
    return {label: float(score) for label, score in zip(prediction.labels, prediction.fusion_K, strict=True)}


def _said(error: Exception) -> str:
    """What the journal may hold of an error: messages of libraries quote values, those of SQLite and our own do not."""
    if isinstance(error, NotStarted):
        return "a process for reading films could not start"
    return str(error) if isinstance(error, sqlite3.Error | ChildError) else type(error).__name__


def run_node(
    model: str,
    *,
    title: str,
    archives: tuple[Peer | WebPeer, ...],
    callers: tuple[Caller, ...],
    queue: Path,
    host: str = "127.0.0.1",
    port: int = 11112,
    objects: tuple[Role, ...] = ROLES,
    stow_port: int | None = None,
    token: str | None = None,
    journal: Journal | None = None,
    others: Sequence[str] = (),
    views: ViewSet = "plain",
    point: Point = "youden",
    prevalence: Prevalence | None = None,
    tls: Tls | None = None,
    metrics_port: int | None = None,
    shadow: str | None = None,
    commitment: bool = False,
    token_file: Path | None = None,
) -> None:
    """Be a node until SIGTERM or SIGINT.

    model: run folder, model folder, hub id, or an exported file (.onnx; torch is not imported then). others, views:
    what to average over; see `load.load_engine`. point, prevalence: as there. shadow: a model that reads beside it.

    Raises ValueError for a model, a queue or files of TLS that cannot be opened.
    """
    services: dict[str, Any] = {"stow_port": stow_port, "token": token, "tls": tls, "metrics_port": metrics_port}
    services |= {"commitment": commitment, "token_file": token_file}
    settings = NodeSettings(title, archives, callers, host, port, objects=objects, **services)
    predictor = load_engine(model, point=point, prevalence=prevalence, others=others, views=views)
    beside = None if shadow is None else load_engine(shadow, point=point, prevalence=prevalence)
    store = Queue(queue)
    silence_libraries()
    try:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        with Node(predictor, settings, store, journal or Journal(), beside):
            stop.wait()
    finally:
        store.close()
