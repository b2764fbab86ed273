"""A file that has come to rest in an inbox becomes a job, unless it was one before."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from subtitled import log
from subtitled.config import schema
from subtitled.config.checks import layout_of
from subtitled.core.events import JobArrived, RetryRequested
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.errors import InboxError
from subtitled.inboxes.watch import InboxWatcher, SettledFile
from subtitled.storage.store import Store

_log = log.get()


def options_of(inbox: schema.InboxConfig) -> Options:
    """Return what an inbox asks of its files."""
    tasks = sorted(inbox.tasks or (inbox.task,))  # "transcribe" first
    return Options(
        language=inbox.language,
        task=tasks[0],
        is_translated_too=len(tasks) > 1,
        formats=tuple(inbox.formats),
        bom=inbox.bom,
        newline=inbox.newline,
        karaoke=inbox.karaoke,
        flags=tuple(inbox.flags),
        skip_existing=inbox.skip_existing,
        word_timestamps=inbox.word_timestamps,
        drop_unsaid=inbox.drop_unsaid,
        marks=inbox.marks,
        chinese=inbox.chinese,
        layout=layout_of(inbox),
        priority=inbox.priority,
        after=inbox.after,
        inbox=os.fsencode(Path(inbox.path).absolute()),
        output=os.fsencode(inbox.output),
    )


def new_job_id(order: int) -> str:
    """Return the id of the job with this order: 16 hexadecimal digits, later ones sorting after earlier ones.

    Its end counts, so that no two of the many jobs of one millisecond are alike.
    """
    return f"{time.time_ns() // 1_000_000:011x}{order & 0xFFFFF:05x}"


class FoundFile(Struct, frozen=True):
    """A file that came to rest in an inbox."""

    arrival: SettledFile
    inbox: schema.InboxConfig


class FolderWatcher(Protocol):
    """Watches inboxes in a thread of its own."""

    def start(self) -> None:
        """Start; what is there already is reported too."""

    def stop(self) -> None:
        """Stop; nothing is reported afterwards."""

    @property
    def is_alive(self) -> bool:
        """The thread runs."""


MakeWatcher = Callable[[Sequence[schema.InboxConfig], Callable[[SettledFile], None]], FolderWatcher]


class InboxArrivals:
    """The watched inboxes of one configuration; all but the watching belongs to the thread of the server's loop."""

    def __init__(
        self,
        inboxes: tuple[schema.InboxConfig, ...],
        store: Store,
        put: Callable[[FoundFile], None],
        *,
        make_watcher: MakeWatcher = InboxWatcher,
    ) -> None:
        """Make the watch; `put` is called in the watcher's thread and is to hand the file to the loop."""
        self._store = store
        self._put = put
        self._held: list[FoundFile] = []
        self._make_watcher = make_watcher
        self._watcher = self._watch(inboxes)

    def _watch(self, inboxes: tuple[schema.InboxConfig, ...]) -> FolderWatcher:
        self._inboxes = inboxes
        return self._make_watcher(
            inboxes, lambda arrival: self._put(FoundFile(arrival, inboxes[arrival.inbox]))
        )

    def reconfigure(self, inboxes: tuple[schema.InboxConfig, ...]) -> None:
        """Watch other inboxes; nothing happens if they are the same. Files that are held stay held."""
        if inboxes != self._inboxes:
            self._watcher.stop()
            self._watcher = self._watch(inboxes)
            self._watcher.start()

    def start(self) -> None:
        """Begin to watch; what is there already is told too."""
        self._watcher.start()

    def check(self) -> None:
        """Raise InboxError where nobody watches any more, which would let every file lie in silence."""
        if not self._watcher.is_alive:
            raise InboxError("the thread that watches the inboxes has ended; the log says why above")

    def stop(self) -> None:
        """End the watch."""
        self._watcher.stop()

    def take(self, found: FoundFile, *, is_space: bool) -> JobArrived | RetryRequested | None:
        """Return the event that a file means; one that comes while there is no space is held back."""
        if not is_space:
            if not self._held:
                _log.info(log.INBOX_HELD, cause="no space for the results of further files; they wait")
            self._held.append(found)
            return None
        return take(found.arrival, found.inbox, self._store)

    def release(self) -> None:
        """Hand over again what was held back."""
        held, self._held = self._held, []
        for found in held:
            self._put(found)


def take(arrival: SettledFile, inbox: schema.InboxConfig, store: Store) -> JobArrived | RetryRequested | None:
    """Return the event that a file's arrival means; None, with a line in the log, when it is nothing new.

    A failed file that is put into the inbox again, unchanged, is tried again.
    """
    source = os.fsencode(arrival.path)
    options = options_of(inbox)
    known = store.find_source(source, arrival.size, arrival.mtime_ns, options)
    if known is not None:
        job = known.job
        if job.state is JobState.FAILED and job.is_closed and job.location != source:
            _log.info(log.JOB_REQUEUED, job=job.id, path=arrival.path, cause="dropped again")
            return RetryRequested(job=replace(job, location=source), segments=store.segment_rows(job.id))
        _log.info(
            log.INBOX_IGNORED,
            path=arrival.path,
            cause=f"was job {job.id} already ({job.state.value}); touch the file to have it done again",
        )
        return None
    order = store.next_order()
    job = Job(
        id=new_job_id(order),
        state=JobState.QUEUED,
        source=source,
        location=source,
        size=arrival.size,
        mtime_ns=arrival.mtime_ns,
        options=options,
        order=order,
    )
    return JobArrived(job)
