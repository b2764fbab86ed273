"""What clients ask, answered from the store and the broker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

import msgspec

from subtitle import messages as ms
from subtitle.codec import Buffer
from subtitled.backend import Media
from subtitled.compose import SAMPLES_PER_MS, compose
from subtitled.core.broker import Broker
from subtitled.core.events import CancelRequested, Event, RetryRequested
from subtitled.core.records import Role
from subtitled.core.states import JobState
from subtitled.cues.render import FORMATS, render
from subtitled.finish import look_of
from subtitled.outputs import output_paths
from subtitled.rows import JobRow, JournalEntry
from subtitled.store import Store
from subtitled.version import VERSION

MAX_LISTED = 1000
CANCELLABLE = frozenset({JobState.RECEIVING, JobState.QUEUED, JobState.PREPARING, JobState.TRANSCRIBING})

Answer = tuple[ms.ToClient, tuple[Buffer, ...]]


class RefusedError(Exception):
    """A request cannot be done; `code` is one of the protocol's error codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Desk:
    """Answers one request at a time, on the thread of the server's loop."""

    def __init__(self, store: Store, broker: Broker, happen: Callable[[Event], None], *, model: str) -> None:
        """`happen` hands an event to the broker and commits what comes of it."""
        self._store = store
        self._broker = broker
        self._happen = happen
        self._model = model
        self._started = time.monotonic()
        self.audio_samples = 0
        """Audio of the segments transcribed since the start."""

    def answer(self, message: ms.ToServer) -> list[Answer]:
        """Return the answers to a message; raises RefusedError."""
        request = message.request
        match message:
            case ms.Hello():
                return [
                    (ms.Welcome(request=request, server=VERSION, protocol=ms.PROTOCOL, model=self._model), ())
                ]
            case ms.List(states=states, limit=limit):
                rows = self._store.list_jobs(_states(states), limit=max(1, min(limit, MAX_LISTED)))
                return [(ms.JobList(request=request, jobs=tuple(self._facts(row) for row in rows)), ())]
            case ms.Status(job=job):
                return [(ms.JobInfo(request=request, job=self._facts(self._row(job), is_full=True)), ())]
            case ms.Cancel(job=job):
                state = self._row(job).job.state
                if state not in CANCELLABLE:
                    raise RefusedError(
                        "WRONG_STATE", f"job {job} is {state.value}; it cannot be cancelled any more"
                    )
                self._happen(CancelRequested(job))
                return [(ms.JobInfo(request=request, job=self._facts(self._row(job))), ())]
            case ms.Retry(job=job):
                return [self._retry(request, job)]
            case ms.Fetch(job=job, format=form):
                return [self._fetch(request, job, form)]
            case ms.Stats():
                return [(self._stats(request), ())]
            case ms.Watch():
                raise TypeError("Watch is the server's own")
            case _:
                assert_never(message)

    def _retry(self, request: int, job: str) -> Answer:
        found = self._row(job).job
        if found.state is not JobState.FAILED or not found.is_closed:
            raise RefusedError(
                "WRONG_STATE", f"job {job} is {found.state.value}; only a failed job can be retried"
            )
        if not Path(os.fsdecode(found.location)).exists():
            raise RefusedError(
                "NOT_FOUND", f"job {job}: its file is gone from {_shown(found.location)}; drop it again"
            )
        self._happen(RetryRequested(job=found, segments=self._store.segment_rows(job)))
        return ms.JobInfo(request=request, job=self._facts(self._row(job))), ()

    def _fetch(self, request: int, job: str, form: str) -> Answer:
        row = self._row(job)
        known = next((name for name in FORMATS if name == form), None)
        if known is None:
            raise RefusedError("BAD_FORMAT", f"format {form!r}: this server writes {', '.join(FORMATS)}")
        if row.job.state not in {JobState.DONE, JobState.FAILED}:
            raise RefusedError("WRONG_STATE", f"job {job} is {row.job.state.value}; wait until it is done")
        if row.job.is_needless:
            raise RefusedError("WRONG_STATE", f"job {job} made no subtitles: {row.job.cause}")
        transcript = compose(row, self._store.results(job), model=self._model)
        name = output_paths(
            "",
            Path(_shown(row.job.source)).name,
            transcript.output_language,
            [known],
            lambda _: True,
            flags=row.job.options.flags,
            is_partial=row.job.state is JobState.FAILED,
        )[known]
        body = render(known, transcript, look_of(row.job.options))
        language = transcript.output_language
        return ms.Subtitles(request=request, job=job, format=known, language=language, name=str(name)), (
            body,
        )

    def _row(self, job: str) -> JobRow:
        row = self._store.find_job(job)
        if row is None:
            raise RefusedError(
                "NOT_FOUND", f"there is no job {job[:64]!r}; `subtitle list` names those that are"
            )
        return row

    def _facts(self, row: JobRow, *, is_full: bool = False) -> ms.JobFacts:
        job = row.job
        asked = job.options.language
        media = msgspec.msgpack.decode(row.media, type=Media) if row.media else Media()
        feed = next(
            (w.feed for w in self._broker.roster.of(Role.PREPARE) if w.feed and w.feed.job == job.id), None
        )
        missing: list[str] = []
        if is_full and job.state is JobState.FAILED:
            # Only the missing spans are asked for: no cue is worth laying out.
            transcript = compose(row, self._store.results(job.id), model=self._model, profile="raw")
            missing = [f"{gap.start_ms} {gap.end_ms} {gap.cause}" for gap in transcript.missing]
        return ms.JobFacts(
            id=job.id,
            state=job.state.value,
            source=_shown(job.source),
            language=job.language or (None if asked in {"auto", "multi"} else asked),
            task=job.options.task,
            created_ms=row.created_ms,
            started_ms=row.started_ms,
            ended_ms=row.ended_ms,
            cause=job.cause,
            audio_ms=media.decoded_samples // SAMPLES_PER_MS,
            segments=self._store.count_segments(job.id),
            decoded_ms=feed.decoded_samples // SAMPLES_PER_MS if feed else 0,
            outputs=tuple(_shown(os.fsencode(path)) for path in self._store.outputs_of(job.id))
            if is_full
            else (),
            missing=tuple(missing),
        )

    def _stats(self, request: int) -> ms.StatsInfo:
        ledger = self._broker.ledger
        leased = sum(len(lease.keys) for lease in self._broker.leasing.leases.values())
        return ms.StatsInfo(
            request=request,
            workers=tuple(
                ms.WorkerFacts(
                    slot=worker.slot,
                    role=worker.role.value,
                    state=worker.state.value,
                    incarnation=worker.incarnation,
                    device=worker.device,
                    leases=len(worker.leases),
                    job=worker.feed.job if worker.feed else "",
                    cause=worker.cause,
                )
                for worker in self._broker.roster.workers.values()
            ),
            jobs=self._store.count_jobs(),
            ready_segments=len(self._broker.leasing.ready),
            leased_segments=leased,
            queued_bytes=ledger.queued_bytes,
            audio_ms=self.audio_samples // SAMPLES_PER_MS,
            uptime_s=time.monotonic() - self._started,
            last_seq=self._store.last_seq(),
        )


def journal_event(request: int, entry: JournalEntry) -> ms.Event:
    """Return a journal entry as a client sees it."""
    return ms.Event(
        request=request,
        seq=entry.seq,
        at_ms=entry.at_ms,
        subject=entry.subject,
        job=entry.job,
        name=entry.name,
        before=entry.before,
        event=entry.event,
        after=entry.after,
        cause=entry.cause,
    )


def _states(names: tuple[str, ...]) -> tuple[JobState, ...]:
    known = {state.value: state for state in JobState}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RefusedError("BAD_FORMAT", f"state {unknown[0][:64]!r} is none of {', '.join(known)}")
    return tuple(known[name] for name in names)


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "replace")
