"""What brings results to one archive: each is judged by itself, and this archive's troubles are no other's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

from pydicom.uid import generate_uid

from agcxr.dicom import worker
from agcxr.dicom.archive import Archive, ArchiveDown, ArchiveRefused, ArchiveSilent, Held
from agcxr.dicom.journal import Journal
from agcxr.dicom.objects import SOP_CLASSES, Role
from agcxr.dicom.queue import Outgoing, Queue
from agcxr.dicom.stow import meta_uids
from agcxr.dicom.watch import ArchiveState
from agcxr.dicom.web_archive import WebArchive
from agcxr.dicom.worker import Worker

ASK_EVERY = 60.0
"""Seconds after which commitment is asked for though there is more to send."""
REFUSALS = 10
"""A result that the archive refused so often is set aside until the node starts again."""


class Sender:
    """Works between `start` and `stop`.

    Args:
        archive: where results go; closed by `stop`.
        queue: of the node.
        journal: where events are written.
        commitment: whether results stay in the queue until the archive said that it keeps them; of archives by DICOM.
        trouble: told of errors that are not the archive's, and of the seconds until the next try.
    """

    def __init__(
        self,
        archive: Archive | WebArchive,
        queue: Queue,
        journal: Journal,
        trouble: Callable[[Exception, float], None],
        *,
        commitment: bool = False,
    ) -> None:
        self.name, self.state = str(archive.peer), ArchiveState()
        self._archive, self._queue, self._journal, self._other_trouble = archive, queue, journal, trouble
        self._commitment, self._asked = commitment, 0.0
        self._held = Held(60 * worker.LONGEST_PAUSE)
        self._worker = Worker("send", self._step, self._trouble)
        self.start, self.wake, self.stop = self._worker.start, self._worker.wake, self._worker.stop

    def join(self) -> None:
        """Wait for the film at hand, and hang up."""
        self._worker.join()
        self._archive.end()

    def _step(self) -> bool:
        film = self._queue.next_made(self._held.roles(), self.name)
        if film is not None:
            for role, file in film.results:
                self._send(film, role, file)
        idle = film is None
        if self._commitment and (idle or time.monotonic() - self._asked > ASK_EVERY):
            idle = not self._ask() and idle
        if idle:
            self._archive.close()
        return not idle

    def _send(self, film: Outgoing, role: str, file: bytes) -> None:
        start = time.monotonic()
        try:
            note = self._archive.store(file)
        except ArchiveRefused as error:
            self.state.note(reachable=True)
            if isinstance(error, ArchiveSilent):
                self._held.hold(role, time.monotonic() - start)
            self._put_off(film, role, error)
            return
        self.state.note(reachable=True)
        self._held.free(role)
        if note:
            self._journal("stored with a note", film=film.key, result=role, archive=self.name, note=note)
        if self._commitment:
            _, uid = meta_uids(file) or ("", "")
            self._queue.stored(film.number, role, self.name, uid)
        elif self._queue.sent(film.number, role, self.name):
            self._journal("done", film=film.key, seconds=time.time() - film.received)

    def _put_off(self, film: Outgoing, role: str, error: ArchiveRefused) -> None:
        limit = {"later": None, "again": REFUSALS, "never": 1}[error.verdict]
        given_up = self._queue.refused(
            film.number, role, str(error), limit=limit, longest=10 * worker.LONGEST_PAUSE, archive=self.name
        )
        event = "put off by the archive" if error.verdict == "later" else "refused by the archive"
        self._journal(event, film=film.key, result=role, archive=self.name, reason=str(error), given_up=given_up)

    def _ask(self) -> bool:
        """Whether there was anything to ask for."""
        assert isinstance(self._archive, Archive)
        self._asked, transaction = time.monotonic(), str(generate_uid(prefix=None))
        results = self._queue.ask(self.name, transaction)
        if not results:
            return False
        try:
            self._archive.commit(transaction, [(SOP_CLASSES[cast(Role, role)], uid) for role, uid in results])
        except ArchiveDown:
            self._queue.not_asked(transaction)
            raise
        except ArchiveRefused as error:
            self._queue.not_asked(transaction, str(error))
            self._journal("commitment refused", archive=self.name, results=len(results), reason=str(error))
            return True
        self._journal("commitment asked for", archive=self.name, results=len(results))
        return True

    def _trouble(self, error: Exception, pause: float) -> None:
        if isinstance(error, ArchiveDown):
            self.state.note(reachable=False)
            self._journal("archive down", archive=self.name, reason=str(error), pause=pause)
        else:
            self._other_trouble(error, pause)
