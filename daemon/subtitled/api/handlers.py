"""What clients ask about jobs, answered from the store and the broker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from subtitle import messages as ms
from subtitled import log
from subtitled.api.peer import Peer, RefusedError
from subtitled.api.stats import ServerStats
from subtitled.api.upload_store import UploadStore
from subtitled.api.validation import check_layout
from subtitled.api.views import history, job_facts, media_of, shown
from subtitled.config.schema import FORMATS, Format
from subtitled.core.broker import Broker
from subtitled.core.events import CancelRequested, Event, RetryRequested
from subtitled.core.plan import SAMPLES_PER_MS
from subtitled.core.protocol import Waveform
from subtitled.core.records import Role
from subtitled.core.states import JobState
from subtitled.cues.render import render
from subtitled.cues.transcript import Transcript
from subtitled.files.atomic_files import is_there
from subtitled.output.job_writer import render_options
from subtitled.output.layout_process import LayoutProcess
from subtitled.output.paths import output_paths
from subtitled.runtime.background import BackgroundPool
from subtitled.storage.rows import JobRow, ResultRow
from subtitled.storage.store import Store
from subtitled.version import VERSION

MAX_LISTED = 1000
MAX_COMPOSED = 32
"""Answers composed at once; each holds all that a job has said."""
CANCELLABLE = frozenset({JobState.RECEIVING, JobState.QUEUED, JobState.PREPARING, JobState.TRANSCRIBING})
RAW = ms.LayoutOptions(profile="raw")
_log = log.get()
_waveform_decoder = msgspec.msgpack.Decoder(Waveform)
T = TypeVar("T")

Ask = (
    ms.Hello
    | ms.List
    | ms.Status
    | ms.Fetch
    | ms.GetWaveform
    | ms.Cancel
    | ms.Retry
    | ms.Stats
    | ms.SetLogLevel
)


class RequestHandlers:
    """Answers requests, on the thread of the server's loop; what takes long is composed in another."""

    def __init__(
        self,
        store: Store,
        broker: Broker,
        happen: Callable[[Event], None],
        *,
        holdings: UploadStore,
        census: ServerStats,
        aside: BackgroundPool,
        composer: LayoutProcess,
        model: str,
    ) -> None:
        """`happen` hands an event to the broker and commits what comes of it."""
        self._store = store
        self._broker = broker
        self._happen = happen
        self._holdings = holdings
        self._census = census
        self._aside = aside
        self._composer = composer
        self._model = model
        self.received_bytes: Callable[[str], int] = lambda _: 0

    def answer(self, message: Ask, peer: Peer) -> None:
        """Answer a message, now or when the answer is composed; raises RefusedError."""
        request = message.request
        match message:
            case ms.Hello():
                peer.reply(
                    ms.Welcome(
                        request=request,
                        server=VERSION,
                        protocol=ms.PROTOCOL,
                        model=self._model,
                        user=peer.who.name,
                        role=peer.who.role,
                        formats=tuple(FORMATS),
                        max_upload_bytes=self._holdings.max_file_bytes,
                    )
                )
            case ms.List():
                peer.reply(ms.JobList(request=request, jobs=self._list(message, peer)))
            case ms.Status(job=job):
                self._status(request, self.find(job, peer), peer)
            case ms.Cancel(job=job):
                state = self.find(job, peer).job.state
                if state not in CANCELLABLE:
                    raise RefusedError(
                        "WRONG_STATE", f"job {job} is {state.value}; it cannot be cancelled any more"
                    )
                self._happen(CancelRequested(job))
                peer.reply(ms.JobInfo(request=request, job=self.facts(job)))
            case ms.Retry(job=job):
                self._retry(self.find(job, peer))
                peer.reply(ms.JobInfo(request=request, job=self.facts(job)))
            case ms.Fetch():
                self._fetch(message, peer)
            case ms.GetWaveform(job=job):
                self._look(request, self.find(job, peer), peer)
            case ms.Stats():
                peer.reply(self._census.stats(request, peer.who))
            case ms.SetLogLevel(level=level):
                peer.reply(_set_log_level(request, level, peer))

    def find(self, job: str, peer: Peer) -> JobRow:
        """Return a job; raises RefusedError where there is none, or none that this client may see."""
        row = self._store.find_job(job)
        if row is None or not peer.who.may_see(row.job.owner):
            raise RefusedError(
                "NOT_FOUND", f"there is no job {job[:64]!r}; `subtitle list` names those that are"
            )
        return row

    def facts(self, job: str) -> ms.JobFacts:
        """Return one job, which must be there, as a client sees it."""
        row = self._store.find_job(job)
        if row is None:
            raise KeyError(job)
        return self._facts([row])[0]

    def _list(self, message: ms.List, peer: Peer) -> tuple[ms.JobFacts, ...]:
        limit = max(1, min(message.limit, MAX_LISTED))
        rows = self._store.list_jobs(
            _states(message.states),
            owner=peer.who.only,
            tag=message.tag,
            before=message.before,
            name=message.name,
            limit=limit,
        )
        return self._facts(rows)

    def _facts(self, rows: list[JobRow]) -> tuple[ms.JobFacts, ...]:
        counts = self._store.count_segments([row.job.id for row in rows])
        decoded = {
            worker.feed.job: worker.feed.decoded_samples
            for worker in self._broker.worker_table.of(Role.PREPARE)
            if worker.feed
        }
        return tuple(
            job_facts(
                row,
                segments=counts.get(row.job.id, {}),
                decoded_samples=decoded.get(row.job.id, 0),
                received_bytes=self.received_bytes(row.job.id),
                is_sent=self._holdings.holds(row.job),
            )
            for row in rows
        )

    def _status(self, request: int, row: JobRow, peer: Peer) -> None:
        job = row.job
        facts = replace(
            self._facts([row])[0],
            outputs=tuple(shown(path) for path in self._store.outputs_of(job.id)),
            history=history(self._store.history(job.id)),
        )
        if job.state is not JobState.FAILED:
            peer.reply(ms.JobInfo(request=request, job=facts))
            return

        # Only the missing spans are asked for: no cue is worth laying out.
        work = partial(self._composer.compose, row, model=self._model, layout=RAW)

        def composed(transcript: Transcript) -> None:
            missing = tuple(f"{gap.start_ms} {gap.end_ms} {gap.cause}" for gap in transcript.missing)
            peer.reply(ms.JobInfo(request=request, job=replace(facts, missing=missing)))

        self._compose(request, row, peer, work, composed)

    def _retry(self, row: JobRow) -> None:
        job = row.job
        if job.state is not JobState.FAILED or not job.is_closed:
            raise RefusedError(
                "WRONG_STATE", f"job {job.id} is {job.state.value}; only a failed job can be retried"
            )
        if not is_there(os.fsdecode(job.location)):
            where, remedy = shown(job.location), "drop it again"
            if self._holdings.holds(job):
                where, remedy = "the server, which keeps it for uploads.keep_failed_s", "submit it again"
            raise RefusedError("NOT_FOUND", f"job {job.id}: its file is gone from {where}; {remedy}")
        self._happen(RetryRequested(job=job, segments=self._store.segment_rows(job.id)))

    def _fetch(self, message: ms.Fetch, peer: Peer) -> None:
        row = self.find(message.job, peer)
        known = next((name for name in FORMATS if name == message.format), None)
        if known is None:
            raise RefusedError(
                "BAD_FORMAT", f"format {message.format[:64]!r}: this server writes {', '.join(FORMATS)}"
            )
        if row.job.state not in {JobState.DONE, JobState.FAILED}:
            raise RefusedError(
                "WRONG_STATE", f"job {row.job.id} is {row.job.state.value}; wait until it is done"
            )
        if row.job.is_needless:
            raise RefusedError("WRONG_STATE", f"job {row.job.id} made no subtitles: {row.job.cause}")

        if message.layout is not None:
            check_layout(message.layout)

        def work(results: list[ResultRow]) -> tuple[Transcript, bytes]:
            transcript = self._composer.compose(row, results, model=self._model, layout=message.layout)
            return transcript, render(known, transcript, render_options(row.job.options))

        def composed(found: tuple[Transcript, bytes]) -> None:
            transcript, body = found
            answer = ms.Subtitles(
                request=message.request,
                job=row.job.id,
                format=known,
                language=transcript.output_language,
                name=_name(row, transcript, known),
            )
            peer.reply(answer, (body,))

        self._compose(message.request, row, peer, work, composed)

    def _look(self, request: int, row: JobRow, peer: Peer) -> None:
        media = media_of(row)
        stored = self._store.waveform(row.job.id)
        if stored is None:
            raise RefusedError(
                "NOT_FOUND", f"job {row.job.id} has no waveform: an earlier release read it; submit it again"
            )
        waveform = _waveform_decoder.decode(stored)
        answer = ms.WaveformInfo(
            request=request,
            job=row.job.id,
            interval_ms=waveform.interval_ms,
            offset_ms=media.offset_samples // SAMPLES_PER_MS,
            audio_ms=media.decoded_samples // SAMPLES_PER_MS,
        )
        peer.reply(answer, (waveform.peaks,))

    def _compose(
        self,
        request: int,
        row: JobRow,
        peer: Peer,
        work: Callable[[list[ResultRow]], T],
        then: Callable[[T], None],
    ) -> None:
        """Have `work` make something of a job's results beside the loop; raises RefusedError when much is made already."""
        if self._aside.pending >= MAX_COMPOSED:
            raise RefusedError(
                "RATE_LIMITED",
                f"{self._aside.pending} answers are being composed; ask again when some are there",
            )
        self._aside.run(
            partial(work, self._store.results(row.job.id)),
            then,
            partial(self._broke, request, peer),
            Exception,
        )

    def _broke(self, request: int, peer: Peer, error: Exception) -> None:
        """Tell that stored results cannot be composed: a bug, but of one job, not of the daemon."""
        _log.error(log.REQUEST_FAILED, cause=repr(error))
        peer.refuse(request, "INTERNAL", "the stored results cannot be read; the server's log says why")


def _set_log_level(request: int, level: str | None, peer: Peer) -> ms.LogLevel:
    before = log.level()
    if peer.who.role != "admin":
        raise RefusedError("FORBIDDEN", "the log's level is an admin's to change, and this key is a user's")
    if level is not None:
        log.set_level(level, by=peer.who.name or "a client on the local socket")
    return ms.LogLevel(request=request, level=log.level(), before=before)


def _name(row: JobRow, transcript: Transcript, form: Format) -> str:
    paths = output_paths(
        "",
        Path(shown(row.job.source)).name,
        transcript.output_language,
        [form],
        lambda _: True,
        flags=row.job.options.flags,
        is_partial=row.job.state is JobState.FAILED,
    )
    return str(paths[form])


def _states(names: Iterable[str]) -> tuple[JobState, ...]:
    known = {state.value: state for state in JobState}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RefusedError("BAD_FORMAT", f"state {unknown[0][:64]!r} is none of {', '.join(known)}")
    return tuple(known[name] for name in names)
